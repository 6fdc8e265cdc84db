// See stats_line.h.
#include "gateway/stats_line.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace moe::gateway {

std::string ReadyLine(const std::string& name, const std::string& host, int port,
                      const EngineView& view) {
  const std::string shown_host = absl::StrContains(host, ":") ? absl::StrCat("[", host, "]") : host;
  std::string groups;
  int num_workers = view.group.workers_size();
  uint64_t kv_tokens = view.group.kv_capacity_tokens();
  if (view.groups.size() > 1) {
    groups = absl::StrFormat("%d groups of ", view.groups.size());
    num_workers = 0;
    kv_tokens = 0;
    for (const GroupView& group : view.groups) {
      num_workers += group.state.workers_size();
      kv_tokens += group.state.kv_capacity_tokens();
    }
  }
  return absl::StrFormat("Serving %s on http://%s:%d | %s%s, %d workers | KV cache %d tokens", name,
                         shown_host, port, groups, view.group.layout(), num_workers, kv_tokens);
}

std::optional<std::string> StatsLine::Next(absl::Time now, int64_t num_prompt_tokens,
                                           int64_t num_generated_tokens,
                                           const std::function<EngineView()>& view) {
  if (interval_ <= absl::ZeroDuration() || now - last_ < interval_) {
    return std::nullopt;
  }
  const double seconds = absl::ToDoubleSeconds(now - last_);
  const double prompt_rate = static_cast<double>(num_prompt_tokens - prompt_tokens_) / seconds;
  const double rate = static_cast<double>(num_generated_tokens - generated_tokens_) / seconds;
  last_ = now;
  prompt_tokens_ = num_prompt_tokens;
  generated_tokens_ = num_generated_tokens;
  const EngineView state = view();
  if (prompt_rate == 0 && rate == 0 && state.stats.num_running() + state.stats.num_waiting() == 0) {
    return std::nullopt;
  }
  std::string line = absl::StrFormat(
      "prompt %.1f tok/s, generation %.1f tok/s | running %d, waiting %d | KV %.1f%%", prompt_rate,
      rate, state.stats.num_running(), state.stats.num_waiting(), state.stats.kv_usage() * 100);
  if (state.groups.size() > 1) {
    const auto num_serving = std::count_if(state.groups.begin(), state.groups.end(),
                                           [](const GroupView& group) { return group.serving; });
    absl::StrAppendFormat(&line, " | %d of %d groups serve", num_serving, state.groups.size());
  }
  return line;
}

}  // namespace moe::gateway
