// One rank's end of a Tcp group: the implementation of TcpGroup.
//
// One thread, the engine's, does everything, with one epoll for all connections: whatever it waits
// for, it receives, serves other owners and sends what could not be sent at once. Only Abort and
// the listener come from other threads, through the inbox's eventfd.
//
// Memory that frames are sent from stays unchanged until they are sent, because the other end has
// to answer first: rows and pair lists of a layer until all its outputs are there, outputs until
// their owner's next layer, a plan until its results, a result until a plan that the leader makes
// with it: where plans are sent ahead, that of the step after the next.
//
// Tested as tcp.h says.
#ifndef MOE_WORKER_EXCHANGE_TCP_GROUP_H_
#define MOE_WORKER_EXCHANGE_TCP_GROUP_H_

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"
#include "worker/exchange/clock.h"
#include "worker/exchange/exchange_counters.h"
#include "worker/exchange/rank_epoch.h"
#include "worker/exchange/routing.h"
#include "worker/exchange/tcp.h"
#include "worker/exchange/tcp_connection.h"
#include "worker/exchange/tcp_dialer.h"
#include "worker/exchange/tcp_frame.h"
#include "worker/exchange/tcp_handshake.h"

namespace moe::exchange {

class TcpRank final : public TcpGroup {
 public:
  // REQUIRES: ValidateShape(shape).ok(), rank in [0, num_ranks), an address for each rank;
  // `bootstrap` is empty except on rank 0.
  static absl::StatusOr<std::unique_ptr<TcpGroup>> Make(const GroupShape& shape, uint64_t epoch,
                                                        int rank, const Bytes32& secret,
                                                        std::string bootstrap,
                                                        LocalExperts* experts,
                                                        const TcpOptions& options);
  ~TcpRank() override;

  std::string bootstrap() const override { return bootstrap_; }
  absl::Status Connect() override;

  kernels::BFloat16* rows() override;
  absl::Status Dispatch(uint64_t step, int layer, int num_rows, const int32_t* expert_ids) override;
  absl::StatusOr<const kernels::BFloat16*> Combine() override;
  int suspect() const override { return state_.suspect(); }
  ExchangeStats stats() const override { return counters_.stats(); }
  void Abort(std::string_view reason) override;

  absl::Status SendPlan(uint64_t step, std::string_view plan, absl::Span<const int> ranks) override;
  // Where no rows travel: with rows, an owner's work would come before the plan that it is of.
  bool TakesPlanAhead() const override { return state_.plans_ahead(); }
  absl::StatusOr<ReceivedPlan> ReceivePlan() override;
  absl::Status SendResult(uint64_t step, std::string_view result) override;
  absl::StatusOr<std::vector<std::string>> ReceiveResults(uint64_t step,
                                                          absl::Span<const int> ranks) override;

  PeerState Peek(int rank) const override;
  void Say(int rank, const LastWords& words) override;
  void HangUp() override;

 private:
  // What a rank has to answer to the plan of a step, and the answer.
  struct DueResult {
    std::optional<uint64_t> step = {};  // nothing is due without one
    bool has_come = false;
    std::string text = {};
  };
  // Another rank, and what is under way with it.
  struct Peer {
    std::unique_ptr<Dialer> dialer;          // until it is connected
    std::unique_ptr<Connection> connection;  // null before, and for ranks that we need none with
    bool watches_output = false;
    bool is_held = false;  // its next frame is for a layer that we have not reached

    // Joining.
    bool echoed = false;  // our canary came back
    bool ready = false;   // rank 0: it said kReady
    BodyBuffer canary;

    // It owns rows: what we serve.
    BodyBuffer dispatch;
    BodyBuffer outputs;
    uint64_t served_step = 0;
    int served_layer = -1;  // -1: nothing served yet

    // We own rows: what we asked.
    std::vector<WirePair> pairs;
    bool is_asked = false;  // and has not answered

    std::array<DueResult, 2> results;  // the control channel, rank 0: by the parity of the step
  };

  TcpRank(const GroupShape& shape, uint64_t epoch, int rank, const Bytes32& secret,
          std::string bootstrap, LocalExperts* experts, const TcpOptions& options,
          std::shared_ptr<PeerInbox> inbox, OwnedFd epoll);

  // ---- Waiting (tcp_group.cc)
  // `rank` is the one to look at.
  absl::Status Blame(int rank, const absl::Status& status);
  // Receives, serves and sends until done(). Aborted, DeadlineExceeded (the caller says of what),
  // or what ended the epoch. Time without events is added to `*asleep_ns` if given.
  absl::Status WaitServing(absl::FunctionRef<bool()> done, Clock::time_point deadline,
                           Counter* asleep_ns);
  absl::Status HandleEvents(Clock::time_point wake_at, Counter* asleep_ns);
  absl::Status HandlePeerEvent(int rank, uint32_t events);
  absl::Status Watch(int rank, int operation);

  // ---- Frames (tcp_group.cc)
  absl::Status Send(int rank, const FrameHeader& header, absl::Span<const iovec> body);
  absl::Status Flush(int rank);
  absl::Status Receive(int rank);
  // A header that passed CheckFrame: whether it can come now, and where its body goes.
  absl::Status BeginFrame(int rank);
  absl::Status EndFrame(int rank);
  absl::Status Unexpected(const FrameHeader& header, absl::string_view why) const;

  // ---- Serving other owners (tcp_layers.cc)
  absl::Status BeginDispatch(int owner);
  absl::Status Serve(int owner);

  // ---- Asking other ranks (tcp_layers.cc)
  absl::Status Ask(int rank);
  absl::Status BeginOutputs(int rank);
  absl::Status BeginShare(int rank);
  absl::Status ShareOwn();
  absl::Status TakeHeldFrames();
  // The rows of the result that `rank` computes.
  void ListResultRows(int rank);

  // ---- Control channel (tcp.cc)
  absl::Status BeginPlan();
  absl::Status BeginResult(int rank);
  static size_t SlotOf(uint64_t step) { return step % 2; }
  DueResult& ResultOf(int rank, uint64_t step) { return peers_[rank].results[SlotOf(step)]; }

  // ---- Last words (tcp_last_words.cc)
  absl::Status HearLastWords(int rank);

  // ---- Joining (tcp_connect.cc)
  bool NeedsConnection(int rank) const;
  absl::Status AdoptConnection(int rank, OwnedFd socket, bool is_watched);
  absl::Status TakeArrivals();
  absl::Status TendDialers(Clock::time_point now);
  Clock::time_point NextDial() const;
  absl::Status BeginJoinFrame(int rank);
  absl::Status EndJoinFrame(int rank);
  absl::Status AwaitOthers(Clock::time_point deadline);
  bool OwnPartDone() const;
  // Why OwnPartDone is not true at the deadline.
  absl::Status NameMissing();
  int FirstNotReady() const;
  void TellMissing(int missing);

  kernels::BFloat16* results() { return reinterpret_cast<kernels::BFloat16*>(results_.data()); }

  const GroupShape shape_;
  const uint64_t epoch_;
  const int rank_;
  const std::string bootstrap_;
  LocalExperts* const experts_;
  const TcpOptions options_;
  const Handshake handshake_;
  const std::shared_ptr<PeerInbox> inbox_;
  const OwnedFd epoll_;

  // The engine thread's own state.
  RankEpoch state_;
  bool said_ready_ = false;                    // connecting: our part is done
  bool may_start_ = false;                     // connecting: rank 0 said so
  int missing_ = -1;                           // connecting: rank 0 said that this rank is missing
  std::vector<Peer> peers_;                    // [num_ranks]; our own is unused
  std::vector<kernels::BFloat16> canary_row_;  // [hidden], of this rank

  BodyBuffer rows_;     // [max_rows, hidden] bf16; owners only
  BodyBuffer results_;  // [max_rows, top_k, hidden] bf16; owners only
  Router router_;
  int num_awaited_ = 0;             // peers that have not answered the last Dispatch
  std::vector<int32_t> frame_row_;  // [max_rows], scratch: place of a row in a frame; -1: none
  std::vector<RoutedRow> serving_;  // scratch
  IoList ranges_;                   // scratch

  uint64_t latest_step_ = 0;         // the highest that a plan or an owner named
  bool plan_arrived_ = false;        // others: the plan is whole, and not yet returned
  std::string plan_text_;            // others: as it comes in
  std::array<std::string, 2> sent_;  // plans of the leader, results of others; by SlotOf(step)
  int awaited_result_ = -1;          // leader: the rank whose result is waited for
  uint64_t awaited_step_ = 0;        // of that result

  ExchangeCounters counters_;
};

}  // namespace moe::exchange

#endif  // MOE_WORKER_EXCHANGE_TCP_GROUP_H_
