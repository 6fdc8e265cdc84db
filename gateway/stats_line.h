// The lines that a person at the console reads.
//
// Tested by tests/gateway/stats_line_test.cc.
#ifndef MOE_GATEWAY_STATS_LINE_H_
#define MOE_GATEWAY_STATS_LINE_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "gateway/journal/generation.h"

namespace moe::gateway {

// "Serving NAME on http://HOST:PORT | EP64_TP1_PP1_DP1, 64 workers | KV cache 8192 tokens"; of
// several groups their number, and workers and caches together.
std::string ReadyLine(const std::string& name, const std::string& host, int port,
                      const EngineView& view);

// One line per interval in which tokens were counted or sequences are in the engine; none when
// idle. It ends with how many groups serve when that is not the only one.
class StatsLine {
 public:
  // An interval of zero: never a line.
  StatsLine(absl::Duration interval, absl::Time start) : interval_(interval), last_(start) {}

  // The line that is due, if any. Counts are since the start; `view` is asked only when one is due.
  std::optional<std::string> Next(absl::Time now, int64_t num_prompt_tokens,
                                  int64_t num_generated_tokens,
                                  const std::function<EngineView()>& view);

 private:
  const absl::Duration interval_;
  absl::Time last_;
  int64_t prompt_tokens_ = 0;
  int64_t generated_tokens_ = 0;
};

}  // namespace moe::gateway

#endif  // MOE_GATEWAY_STATS_LINE_H_
