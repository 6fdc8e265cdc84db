// How a Tcp group's ranks tell each other that they end an epoch, seen and said by a thread that is
// not the engine's. See tcp.h.
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "worker/exchange/tcp_group.h"

namespace moe::exchange {
namespace {

LastWords WordsOf(const FrameHeader& header) {
  return {.at = {.step = header.step, .layer = header.num_pairs - 1},
          .suspect = header.num_rows - 1,
          .is_late = header.layer == 1};
}

}  // namespace

PeerState TcpRank::Peek(int rank) const {
  PeerState state;
  const Connection* const connection = peers_[rank].connection.get();
  if (connection == nullptr) return state;
  pollfd end{.fd = connection->fd(), .events = POLLRDHUP, .revents = 0};
  state.is_gone = poll(&end, 1, 0) > 0;
  // Unread frames before it hide it from here; then the engine thread, which reads them, hears it.
  FrameHeader header;
  const auto peek = [&](void* to, size_t num_bytes) {
    return recv(connection->fd(), to, num_bytes, MSG_PEEK | MSG_DONTWAIT) ==
           static_cast<ssize_t>(num_bytes);
  };
  if (!peek(&header, sizeof(header)) || !CheckFrame(shape_, epoch_, header).ok()) return state;
  if (header.type == FrameType::kPlan && rank == 0) {
    // The plan ahead waits until this rank has ended its step; what matters here comes behind it.
    std::string plan(sizeof(header) + header.num_bytes + sizeof(header), '\0');
    if (!peek(plan.data(), plan.size())) return state;
    std::memcpy(&header, plan.data() + plan.size() - sizeof(header), sizeof(header));
    if (!CheckFrame(shape_, epoch_, header).ok()) return state;
  }
  if (header.type == FrameType::kResult) state.answered_step = header.step;
  if (header.type == FrameType::kLastWords) state.words = WordsOf(header);
  return state;
}

void TcpRank::Say(int rank, const LastWords& words) {
  const Connection* const connection = peers_[rank].connection.get();
  // Half a frame before it would turn it into that frame's body.
  if (connection == nullptr || connection->has_unsent()) return;
  FrameHeader header = MakeFrame(FrameType::kLastWords, epoch_, words.at.step);
  header.num_pairs = words.at.layer + 1;
  header.num_rows = words.suspect + 1;
  header.layer = words.is_late ? 1 : 0;
  // Who can't be told sees the connection end, or finds out by its own deadline.
  static_cast<void>(send(connection->fd(), &header, sizeof(header), MSG_NOSIGNAL | MSG_DONTWAIT));
}

void TcpRank::HangUp() {
  for (const Peer& peer : peers_) {
    // Fails where the other end is gone already.
    if (peer.connection != nullptr) {
      static_cast<void>(shutdown(peer.connection->fd(), SHUT_RDWR));
    }
  }
}

absl::Status TcpRank::HearLastWords(int rank) {
  const LastWords words = WordsOf(peers_[rank].connection->header());
  if (words.is_late && awaited_result_ >= 0 && awaited_step_ < words.at.step) {
    // It waits in the step that was planned ahead; who has not even ended the one before is later.
    state_.Suspect(awaited_result_);
    return absl::UnavailableError(
        absl::StrCat(RankName(awaited_result_), " did not send its result of step ", awaited_step_,
                     ", while ", RankName(rank), " waits in step ", words.at.step));
  }
  if (words.is_late) {
    // This rank waits for nothing but it.
    state_.Suspect(rank);
    return absl::UnavailableError(
        absl::StrCat(RankName(rank), " is late: it says that it waits ",
                     words.at.layer < 0 ? absl::StrCat("at the start of step ", words.at.step)
                                        : absl::StrCat("in ", LayerName(words.at))));
  }
  state_.Suspect(words.suspect);
  if (words.suspect < 0) {
    return absl::UnavailableError(absl::StrCat(RankName(rank), " ended the epoch"));
  }
  return absl::UnavailableError(
      absl::StrCat(RankName(rank), " ended the epoch because of ", RankName(words.suspect)));
}

}  // namespace moe::exchange
