// One rank in one epoch, as every kind of exchange keeps it: how far it has come, what ended it,
// and the order of calls that exchange.h asks for.
//
// Tested by tests/worker/exchange/epoch_exchange_test.cc, with every kind.
#ifndef MOE_WORKER_EXCHANGE_RANK_EPOCH_H_
#define MOE_WORKER_EXCHANGE_RANK_EPOCH_H_

#include <atomic>
#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "worker/exchange/exchange.h"

namespace moe::exchange {

// A layer of a step.
struct StepLayer {
  uint64_t step = 0;
  int layer = -1;
  auto operator<=>(const StepLayer&) const = default;
};

inline std::string LayerName(const StepLayer& at) {
  return absl::StrCat("layer ", at.layer, " of step ", at.step);
}
inline std::string RankName(int rank) { return absl::StrCat("rank ", rank); }

// Threads: Abort, aborted, AbortedStatus and suspect from any; all else from the engine thread.
class RankEpoch {
 public:
  // `shape` must outlive this. plans_ahead: rank 0 may send one plan before the results of the
  // last.
  RankEpoch(const GroupShape& shape, int rank, bool plans_ahead = false)
      : shape_(shape), rank_(rank), plans_ahead_(plans_ahead) {}

  bool is_owner() const { return shape_.replicated || rank_ < shape_.num_attention_ranks; }

  // ---- Its end

  // The first reason stays. The caller wakes the engine thread.
  void Abort(std::string_view reason);
  bool aborted() const { return aborted_.load(std::memory_order_acquire); }
  absl::Status AbortedStatus() const;
  // Returns `status`; the first that is not Aborted ends the epoch for this rank.
  absl::Status Fail(absl::Status status);
  // DeadlineExceeded: "rank 3 did not ...".
  absl::Status DeadlineMissed(int rank, absl::string_view what);
  void Suspect(int rank) { suspect_.store(rank, std::memory_order_relaxed); }
  int suspect() const { return suspect_.load(std::memory_order_relaxed); }

  // ---- Joining

  bool is_connecting() const { return phase_ == Phase::kConnecting; }
  bool is_ready() const { return phase_ == Phase::kReady; }
  // Once: Aborted or FailedPrecondition otherwise.
  absl::Status BeginConnect();
  void SetReady() { phase_ = Phase::kReady; }

  // ---- The order of calls
  //
  // Check... says why a call can't be: Aborted, what ended the epoch, FailedPrecondition out of
  // order, InvalidArgument for its arguments. The second of each pair notes that it was done.

  absl::Status CheckSendPlan(uint64_t step, std::string_view plan,
                             absl::Span<const int> ranks) const;
  absl::Status CheckReceivePlan() const;
  // Sent by rank 0, received by another.
  void BeginStep(uint64_t step);

  absl::Status CheckSendResult(uint64_t step, std::string_view result) const;
  void ResultSent() { result_due_ = false; }
  absl::Status CheckReceiveResults(uint64_t step) const;
  bool plans_ahead() const { return plans_ahead_; }

  absl::Status CheckDispatch(uint64_t step, int layer, int num_rows,
                             const int32_t* expert_ids) const;
  void BeginLayer(uint64_t step, int layer, int num_rows, const int32_t* expert_ids);
  absl::Status CheckCombine() const;
  void EndLayer() { layer_is_out_ = false; }

  bool has_plan() const { return has_plan_; }
  uint64_t plan_step() const { return plan_step_; }    // of the last plan sent or received
  bool result_due() const { return result_due_; }      // others than rank 0: for that plan
  bool layer_is_out() const { return layer_is_out_; }  // dispatched and not combined
  // Of the last Dispatch; layer -1: none.
  const StepLayer& dispatched() const { return dispatched_; }
  // Replicated: what the last Dispatch was about. Ranks that compute the same have the same.
  uint64_t digest() const { return digest_; }

 private:
  enum class Phase { kNew, kConnecting, kReady };

  absl::Status CheckUsable() const;
  absl::Status CheckNoLayerIsOut(absl::string_view call) const;

  const GroupShape& shape_;
  const int rank_;
  const bool plans_ahead_;
  Phase phase_ = Phase::kNew;
  absl::Status failure_;  // the first error that ended the epoch for this rank

  bool has_plan_ = false;
  uint64_t plan_step_ = 0;
  bool result_due_ = false;
  bool layer_is_out_ = false;
  StepLayer dispatched_;
  uint64_t digest_ = 0;

  std::atomic<int> suspect_{-1};
  std::atomic<bool> aborted_{false};
  mutable absl::Mutex abort_mutex_;
  std::string abort_reason_ ABSL_GUARDED_BY(abort_mutex_);
};

}  // namespace moe::exchange

#endif  // MOE_WORKER_EXCHANGE_RANK_EPOCH_H_
