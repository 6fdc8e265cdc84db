// See stop_matcher.h.
#include "gateway/serving/stop_matcher.h"

#include <algorithm>
#include <cstddef>

namespace moe::gateway {
namespace {

// Length of the longest end of `text` that is a beginning, not the whole, of `stop`.
size_t HeldLength(const std::string& text, const std::string& stop) {
  for (size_t length = std::min(text.size(), stop.size() - 1); length > 0; --length) {
    if (text.compare(text.size() - length, length, stop, 0, length) == 0) {
      return length;
    }
  }
  return 0;
}

}  // namespace

std::string StopMatcher::Append(absl::string_view text) {
  if (stopped_) {
    return "";
  }
  held_.append(text.data(), text.size());
  size_t first_end = std::string::npos;
  size_t start = 0;
  for (const std::string& stop : stops_) {
    const size_t found = held_.find(stop);
    if (found == std::string::npos) {
      continue;
    }
    const size_t end = found + stop.size();
    if (first_end == std::string::npos || end < first_end || (end == first_end && found < start)) {
      first_end = end;
      start = found;
    }
  }
  if (first_end != std::string::npos) {
    stopped_ = true;
    std::string shown = held_.substr(0, start);
    held_.clear();
    return shown;
  }
  size_t num_held = 0;
  for (const std::string& stop : stops_) {
    num_held = std::max(num_held, HeldLength(held_, stop));
  }
  std::string shown = held_.substr(0, held_.size() - num_held);
  held_.erase(0, shown.size());
  return shown;
}

std::string StopMatcher::AppendUnchecked(absl::string_view text) {
  std::string shown = Flush();
  shown.append(text.data(), text.size());
  return shown;
}

std::string StopMatcher::Flush() {
  std::string shown = std::move(held_);
  held_.clear();
  return shown;
}

}  // namespace moe::gateway
