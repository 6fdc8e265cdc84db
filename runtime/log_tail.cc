#include "runtime/log_tail.h"

#include <utility>

namespace moe::runtime {

bool IsAlarming(std::string_view line) {
  const size_t space = line.find(' ');
  if (space == std::string_view::npos) return true;
  std::string_view level = line.substr(space + 1);
  level = level.substr(0, level.find(' '));
  return level != "trace" && level != "debug" && level != "info";
}

std::vector<std::string> LogTail::Append(std::string_view bytes) {
  std::vector<std::string> completed;
  for (const char c : bytes) {
    if (c == '\n') {
      Complete(&completed);
      continue;
    }
    in_line_ = true;
    if (partial_.size() >= max_line_bytes_) continue;
    const auto u = static_cast<unsigned char>(c);
    partial_.push_back((u < 0x20 && c != '\t') || u == 0x7f ? '?' : c);
  }
  return completed;
}

std::vector<std::string> LogTail::Finish() {
  std::vector<std::string> completed;
  if (in_line_) Complete(&completed);
  return completed;
}

void LogTail::Complete(std::vector<std::string>* completed) {
  completed->push_back(partial_);
  lines_.push_back(std::exchange(partial_, {}));
  in_line_ = false;
  if (lines_.size() > max_lines_) lines_.pop_front();
}

}  // namespace moe::runtime
