// Finds stop strings in text that arrives in pieces.
//
// The stop string that is complete first ends the text (of several that end at the same character,
// the longest); it is not shown. Text that may be the beginning of a stop string is held back until
// it is known not to be. What is shown does not depend on how the text was cut into pieces.
//
// Tested by tests/gateway/serving/stop_matcher_test.cc.
#ifndef MOE_GATEWAY_SERVING_STOP_MATCHER_H_
#define MOE_GATEWAY_SERVING_STOP_MATCHER_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace moe::gateway {

// Used by one thread.
class StopMatcher {
 public:
  // None of `stops` is empty.
  explicit StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  // Returns the text that can be shown now. Nothing after a stop.
  std::string Append(absl::string_view text);
  // Text in which stop strings do not count, as before min_tokens. What was held back before it is
  // shown with it.
  std::string AppendUnchecked(absl::string_view text);
  // No more text will come: what was held back.
  std::string Flush();
  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace moe::gateway

#endif  // MOE_GATEWAY_SERVING_STOP_MATCHER_H_
