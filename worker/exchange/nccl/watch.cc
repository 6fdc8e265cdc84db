#include "worker/exchange/nccl/watch.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace moe::exchange {
namespace {

using Action = WatchVerdict::Action;

std::string Doing(const WatchView& view) {
  if (view.is_joining) return "while NCCL connects the ranks";
  if (view.deadline == Clock::time_point::max()) return "between two steps";
  if (view.at.layer < 0) return absl::StrCat("at the start of step ", view.at.step);
  return absl::StrCat("in ", LayerName(view.at));
}

WatchVerdict End(absl::Status status, int suspect) {
  return {.action = Action::kEnd, .status = std::move(status), .suspect = suspect};
}

// A rank that is gone, and the reason that one of them gave.
std::optional<WatchVerdict> JudgeGone(const WatchView& view) {
  int gone = -1;
  for (int rank = 0; rank < static_cast<int>(view.peers.size()); ++rank) {
    const PeerState& peer = view.peers[rank];
    if (!peer.is_gone) continue;
    if (!peer.words.has_value() || peer.words->is_late) {
      if (gone < 0) gone = rank;
      continue;
    }
    // It ended the epoch, and did not just die: its own suspect is nearer to the cause.
    const int suspect = peer.words->suspect;
    if (suspect < 0) continue;
    return End(absl::UnavailableError(absl::StrCat(RankName(rank), " ended the epoch because of ",
                                                   RankName(suspect), ", ", Doing(view))),
               suspect);
  }
  if (gone >= 0) {
    return End(absl::UnavailableError(
                   absl::StrCat(RankName(gone), ": its connection ended ", Doing(view))),
               gone);
  }
  for (int rank = 0; rank < static_cast<int>(view.peers.size()); ++rank) {
    if (!view.peers[rank].is_gone) continue;
    return End(
        absl::UnavailableError(absl::StrCat(RankName(rank), " ended the epoch ", Doing(view))), -1);
  }
  return std::nullopt;
}

std::string Late(const WatchView& view) {
  return view.is_joining ? "NCCL did not connect the ranks in time"
                         : absl::StrCat("step ", view.at.step, " is late");
}

// Rank 0: who is late, from what the others say. Nothing while it may still be said.
WatchVerdict JudgeLate(const WatchView& view) {
  int silent = -1;
  int slowest = view.rank;
  bool are_equal = true;
  StepLayer lowest = view.at;
  for (int rank = 0; rank < static_cast<int>(view.peers.size()); ++rank) {
    const PeerState& peer = view.peers[rank];
    if (rank == view.rank || peer.answered_step == view.at.step) continue;
    if (!peer.words.has_value()) {
      if (silent < 0) silent = rank;
      continue;
    }
    if (peer.words->at != lowest) are_equal = false;
    if (peer.words->at < lowest) {
      lowest = peer.words->at;
      slowest = rank;
    }
  }
  if (silent >= 0) {
    if (view.now < *view.asked_at + kLatePatience) return {};
    return End(
        absl::DeadlineExceededError(absl::StrCat(RankName(silent), " hangs: ", Late(view),
                                                 ", and it does not say how far it came; ",
                                                 RankName(view.rank), " waits ", Doing(view))),
        silent);
  }
  if (are_equal) {
    return End(
        absl::DeadlineExceededError(absl::StrCat(
            Late(view), ": all ranks came equally far (", RankName(view.rank), " waits ",
            Doing(view), "), so a GPU or a link between GPUs hangs, and NCCL does not say which")),
        -1);
  }
  return End(
      absl::DeadlineExceededError(absl::StrCat(
          RankName(slowest), " is late: ", Late(view), ", and it has only come to ",
          lowest.layer < 0 ? absl::StrCat("the start of step ", lowest.step) : LayerName(lowest))),
      slowest);
}

// Rank 0, whose own part is done or not due: another rank says that it waits.
WatchVerdict JudgeWaiting(const WatchView& view) {
  if (view.now < *view.asked_at + kLatePatience) return {};
  int slowest = -1;
  for (int rank = 0; rank < static_cast<int>(view.peers.size()); ++rank) {
    const std::optional<LastWords>& words = view.peers[rank].words;
    if (words.has_value() && words->is_late &&
        (slowest < 0 || words->at < view.peers[slowest].words->at)) {
      slowest = rank;
    }
  }
  if (slowest < 0) return {};
  const StepLayer& at = view.peers[slowest].words->at;
  return End(absl::DeadlineExceededError(
                 absl::StrCat(RankName(slowest), " is late: it says that it waits ",
                              at.step == 0   ? "while NCCL connects the ranks"
                              : at.layer < 0 ? absl::StrCat("at the start of step ", at.step)
                                             : absl::StrCat("in ", LayerName(at)),
                              ", and ", RankName(view.rank), " does not")),
             slowest);
}

bool HearsOfLateness(const WatchView& view) {
  if (view.rank != 0) return false;
  for (const PeerState& peer : view.peers) {
    if (peer.words.has_value() && peer.words->is_late) return true;
  }
  return false;
}

}  // namespace

WatchVerdict Judge(const WatchView& view) {
  // First, because its reason is the clearest, and NCCL's errors mostly follow from it.
  if (std::optional<WatchVerdict> verdict = JudgeGone(view)) return *std::move(verdict);
  if (!view.communicator.ok()) {
    if (view.now < view.communicator_failed + kErrorPatience) return {};
    return End({view.communicator.code(),
                absl::StrCat(view.communicator.message(), " (", Doing(view), ")")},
               -1);
  }
  const bool is_late = view.now >= view.deadline;
  if (!is_late && !HearsOfLateness(view)) return {};
  if (!view.asked_at.has_value()) return {.action = Action::kAskWhoIsLate};
  if (view.rank == 0) return is_late ? JudgeLate(view) : JudgeWaiting(view);
  if (view.now < *view.asked_at + kLateVerdictPatience) return {};
  return End(absl::DeadlineExceededError(absl::StrCat(RankName(0), " hangs: ", Late(view),
                                                      ", and it does not say which rank is; ",
                                                      RankName(view.rank), " waits ", Doing(view))),
             0);
}

}  // namespace moe::exchange
