#include "controller/terminal.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace moe::controller {
namespace {

// Back to the first column, then erase to the end of the line.
constexpr char kEraseLine[] = "\r\033[K";

}  // namespace

std::string ProgressLine(const coordinator::v1::GroupState& state) {
  using coordinator::v1::GroupState;
  if (state.phase() == GroupState::STARTING && state.load_bytes_total() == 0) {
    int num_connected = 0;
    for (const auto& worker : state.workers()) num_connected += worker.pid() != 0 ? 1 : 0;
    return absl::StrFormat("starting workers, %d of %d", num_connected, state.workers_size());
  }
  if (state.phase() == GroupState::STARTING || state.phase() == GroupState::LOADING) {
    constexpr double kGigabyte = 1e9;
    const auto done = static_cast<double>(state.load_bytes_done());
    const auto total = static_cast<double>(state.load_bytes_total());
    const double percent = total > 0 ? 100.0 * done / total : 0.0;
    return absl::StrFormat("loading weights %.0f%% (%.1f of %.1f GB), %d workers", percent,
                           done / kGigabyte, total / kGigabyte, state.workers_size());
  }
  if (state.phase() == GroupState::CONNECTING) return "connecting workers";
  return "";
}

void Terminal::Line(std::string_view line) {
  absl::MutexLock lock(&mu_);
  std::string text = progress_.empty() ? "" : kEraseLine;
  text.append(line);
  text.push_back('\n');
  text.append(progress_);
  write_(text);
}

void Terminal::Progress(std::string_view line) {
  absl::MutexLock lock(&mu_);
  if (!is_terminal_ || line == progress_) return;
  progress_ = std::string(line);
  write_(absl::StrCat(kEraseLine, progress_));
}

}  // namespace moe::controller
