// What the controller shows people on stderr: log lines, workers' lines, and on a terminal one line
// of loading progress that is written over and over.
//
// Thread-safe. Tested by tests/controller/terminal_test.cc.
#ifndef MOE_CONTROLLER_TERMINAL_H_
#define MOE_CONTROLLER_TERMINAL_H_

#include <functional>
#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "proto/coordinator.pb.h"

namespace moe::controller {

// "loading weights 43% (2.1 of 4.9 GB), 64 workers"; empty unless workers start or load.
std::string ProgressLine(const coordinator::v1::GroupState& state);

class Terminal {
 public:
  // `write` takes bytes for stderr.
  Terminal(bool is_terminal, std::function<void(std::string_view)> write)
      : is_terminal_(is_terminal), write_(std::move(write)) {}

  // A line of its own, above the progress line.
  void Line(std::string_view line);
  // The progress line; empty clears it. Nothing unless stderr is a terminal.
  void Progress(std::string_view line);

 private:
  const bool is_terminal_;
  const std::function<void(std::string_view)> write_;
  absl::Mutex mu_;
  std::string progress_ ABSL_GUARDED_BY(mu_);
};

}  // namespace moe::controller

#endif  // MOE_CONTROLLER_TERMINAL_H_
