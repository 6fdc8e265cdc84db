// One rank in one epoch whose rows travel over NCCL: the communicator, the control channel beside
// it, and the thread that watches both.
//
// Plans, results, joining and the loss of ranks are the Tcp exchange's, which is the control
// channel here: NCCL has none of them. Bootstrap: rank 0 makes NCCL's id in its own process and
// hands it out with the control channel's secret.
//
// What ends the epoch for one part of this object ends it for all: every call of the engine thread
// returns, the communicator is aborted, which also ends the kernels that wait in the stream, and
// the other ranks are told by the control channel. The abort waits for graphs that hold the
// communicator, so the thread that watches does it, and the engine thread drops them when a call
// has returned an error. A rank whose process ends is noticed within WatchOptions::interval by rank
// 0 and all owners, and by the others when rank 0 tells them; what hangs is noticed by the step's
// deadline (watch.h says who is named).
//
// Tested by tests/worker/exchange/nccl/nccl_epoch_test.cc and nccl_epoch_fault_test.cc.
#ifndef MOE_WORKER_EXCHANGE_NCCL_NCCL_EPOCH_H_
#define MOE_WORKER_EXCHANGE_NCCL_NCCL_EPOCH_H_

#include <atomic>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "worker/exchange/exchange.h"
#include "worker/exchange/nccl/nccl_api.h"
#include "worker/exchange/nccl/nccl_session.h"
#include "worker/exchange/nccl/watch.h"
#include "worker/exchange/tcp.h"

namespace moe::exchange {

struct WatchOptions {
  // Between two looks. A rank that is gone is noticed within this time.
  absl::Duration interval = absl::Milliseconds(50);
};

struct NcclEpochOptions {
  // Deadlines too: those of joining and of a step.
  TcpOptions control = {};
  WatchOptions watch = {};
};

// Threads: Abort, status and suspect from any; all else from the rank's engine thread.
class NcclEpoch final : public ControlChannel {
 public:
  // Rank 0. `api` is not owned and must outlive this. Errors of NcclApi::MakeId and
  // TcpGroup::Create.
  static absl::StatusOr<std::unique_ptr<NcclEpoch>> Create(const GroupShape& shape, uint64_t epoch,
                                                           NcclApi* api,
                                                           const NcclEpochOptions& options);
  // Other ranks. InvalidArgument: not a bootstrap of this exchange; else as TcpGroup::Open.
  static absl::StatusOr<std::unique_ptr<NcclEpoch>> Open(std::string_view bootstrap,
                                                         const GroupShape& shape, uint64_t epoch,
                                                         int rank, NcclApi* api,
                                                         const NcclEpochOptions& options);
  // Aborts what was not closed. To the other ranks a rank that drops its epoch without Abort or
  // Close is one that died.
  ~NcclEpoch() override;

  // What the other ranks need to join: made by rank 0, a secret.
  const std::string& bootstrap() const { return bootstrap_; }
  const GroupShape& shape() const { return shape_; }
  int rank() const { return rank_; }

  // All ranks, once, before any step: the control channel first, then NCCL's communicator.
  absl::Status Connect();

  // ---- ControlChannel. SendPlan names all other ranks, or is InvalidArgument. A result is sent
  // after EndStep; the leader may receive results of a step while the one that was planned ahead
  // runs.
  absl::Status SendPlan(uint64_t step, std::string_view plan, absl::Span<const int> ranks) override;
  bool TakesPlanAhead() const override { return control_->TakesPlanAhead(); }
  absl::StatusOr<ReceivedPlan> ReceivePlan() override;
  absl::Status SendResult(uint64_t step, std::string_view result) override;
  absl::StatusOr<std::vector<std::string>> ReceiveResults(uint64_t step,
                                                          absl::Span<const int> ranks) override;

  // ---- For what moves the rows (nccl_exchange.h)
  // Each returns what ended the epoch, if something did.

  // From here to EndStep the step's deadline runs. FailedPrecondition: within a step, or not above
  // the last one.
  absl::Status BeginStep(uint64_t step);
  // FailedPrecondition: not in a step, or not above the layer before it.
  absl::Status BeginLayer(int layer);
  // The same for a layer that a graph may hold: how far the step is stays as it was.
  absl::Status CheckLayer(int layer) const;
  // The device has done everything that belongs to the step.
  absl::Status EndStep();
  bool is_in_step() const { return is_in_step_; }

  // What belongs to joining and comes after Connect, such as a canary: between these the join's
  // deadline runs. Before any step.
  absl::Status BeginJoin();
  absl::Status EndJoin();

  absl::Status Register(void* buffer, size_t num_bytes);
  // Enqueues the transfers as one group and waits until something else may be enqueued. An error
  // ends the epoch.
  absl::Status Enqueue(absl::Span<const Transfer> transfers);
  // Waits for the device: until done() is true. An error of done() ends the epoch, and is this
  // rank's fault.
  absl::Status Await(absl::FunctionRef<absl::StatusOr<bool>()> done);
  // Ends the epoch for this rank and all others, unless it has ended, because of `status`. Returns
  // what ended it.
  absl::Status Fail(absl::Status status, int suspect = -1);

  // ---- Its end

  // The orderly one: outside a step, when all ranks have agreed to it, since those that have not
  // called it when this is destroyed see a rank that is gone. Ranks that end an epoch early, as
  // they do after every loss, don't need it.
  absl::Status Close();
  // Ends every wait of this rank with Aborted, now and later. Idempotent.
  void Abort(std::string_view reason);
  // What ended the epoch: OK while it lasts.
  absl::Status status() const ABSL_LOCKS_EXCLUDED(mutex_);
  // The rank that an error was about; -1 for none.
  int suspect() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  NcclEpoch(const GroupShape& shape, int rank, std::string bootstrap, const NcclId& id,
            std::unique_ptr<TcpGroup> control, NcclApi* api, const NcclEpochOptions& options);

  // Ends the epoch once: the first reason stays.
  void End(const absl::Status& status, int suspect) ABSL_LOCKS_EXCLUDED(mutex_, control_mutex_);
  // What a call of the control channel gave, after it has ended the epoch where it says so.
  absl::Status Outcome(absl::Status status) ABSL_LOCKS_EXCLUDED(control_mutex_);
  // Until nothing is under way in the communicator. The watch ends the epoch for its errors, since
  // it may find out which rank they come from.
  absl::Status AwaitReady();
  void Due(Clock::time_point deadline, bool is_joining) ABSL_LOCKS_EXCLUDED(mutex_);
  void Watch();
  void TellHowFar(const WatchView& view) ABSL_LOCKS_EXCLUDED(control_mutex_, mutex_);
  void StopWatch();
  bool HasNewsForWatch() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stop_watch_ || !failure_.ok();
  }

  const GroupShape shape_;
  const int rank_;
  const std::string bootstrap_;
  const NcclId id_;
  NcclApi* const api_;
  const NcclEpochOptions options_;

  // Held in each call of the control channel that is not Abort or Peek.
  absl::Mutex control_mutex_ ABSL_ACQUIRED_BEFORE(mutex_);
  const std::unique_ptr<TcpGroup> control_;
  std::atomic<bool> has_control_{false};  // it is connected
  NcclSession session_;

  // The engine thread's.
  bool is_in_step_ = false;
  StepLayer at_;

  mutable absl::Mutex mutex_;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  int suspect_ ABSL_GUARDED_BY(mutex_) = -1;
  Clock::time_point deadline_ ABSL_GUARDED_BY(mutex_) = Clock::time_point::max();
  bool is_joining_ ABSL_GUARDED_BY(mutex_) = false;
  StepLayer watched_at_ ABSL_GUARDED_BY(mutex_);
  bool stop_watch_ ABSL_GUARDED_BY(mutex_) = false;
  bool is_watched_ ABSL_GUARDED_BY(mutex_) = false;  // the watch aborts the communicator
  std::atomic<bool> has_ended_{false};               // failure_ is set

  std::thread watch_;
};

}  // namespace moe::exchange

#endif  // MOE_WORKER_EXCHANGE_NCCL_NCCL_EPOCH_H_
