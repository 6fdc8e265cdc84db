// The last lines that a process wrote, from the raw bytes of its pipe.
//
// Bounded whatever the process writes. Not thread-safe.
// Tested by tests/runtime/log_tail_test.cc.
#ifndef MOE_RUNTIME_LOG_TAIL_H_
#define MOE_RUNTIME_LOG_TAIL_H_

#include <cstddef>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

namespace moe::runtime {

// Whether a line is worth a person's attention: false only for lines of spdlog's form
// "TIME LEVEL ..." with the level trace, debug or info. What a crash prints has no such form.
bool IsAlarming(std::string_view line);

class LogTail {
 public:
  LogTail(size_t max_lines, size_t max_line_bytes)
      : max_lines_(max_lines), max_line_bytes_(max_line_bytes) {}

  // Returns the lines that `bytes` completed. Longer lines are cut; control characters but tabs
  // become '?', so that a log can't steer the terminal.
  std::vector<std::string> Append(std::string_view bytes);
  // Ends an unfinished line and returns it, if there is one.
  std::vector<std::string> Finish();

  const std::deque<std::string>& lines() const { return lines_; }

 private:
  void Complete(std::vector<std::string>* completed);

  size_t max_lines_;
  size_t max_line_bytes_;
  std::string partial_;
  bool in_line_ = false;
  std::deque<std::string> lines_;
};

}  // namespace moe::runtime

#endif  // MOE_RUNTIME_LOG_TAIL_H_
