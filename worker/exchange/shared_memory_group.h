// One rank's view of a shared-memory group: the implementation of SharedMemoryGroup.
//
// Who writes what (all else is only read):
//   owner      its rows, pair list, requests, unanswered words; the request words of other ranks
//   any rank   its answers (result rows and its bit in the unanswered words) and the next turn in
//              owners' areas, its arrival, digest, plan_taken, result and seat
//   leader     plan, plan_for words, awaited words (ranks clear their bits)
// A word that announces something is stored with release after what it announces and loaded with
// acquire before that is read; the doorbells only say "look again".
//
// No rank holds a lock that others need, and every wait has a deadline or ends with Abort: a rank
// may die or stop between any two instructions. What a peer wrote is checked before it is used as
// an index or a size, on a private copy.
//
// Tested by tests/worker/exchange/shared_memory_test.cc and its neighbours.
#ifndef MOE_WORKER_EXCHANGE_SHARED_MEMORY_GROUP_H_
#define MOE_WORKER_EXCHANGE_SHARED_MEMORY_GROUP_H_

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"
#include "worker/exchange/doorbell.h"
#include "worker/exchange/exchange_counters.h"
#include "worker/exchange/rank_epoch.h"
#include "worker/exchange/routing.h"
#include "worker/exchange/segment.h"
#include "worker/exchange/shared_memory.h"

namespace moe::exchange {

class RankGroup final : public SharedMemoryGroup {
 public:
  // REQUIRES: ValidateShape(shape).ok(), rank in [0, num_ranks), `segment` of that shape. Several
  // ranks in one process may share one segment; `experts` must outlive the group.
  RankGroup(std::shared_ptr<Segment> segment, const GroupShape& shape, int rank,
            LocalExperts* experts, const SharedMemoryOptions& options);

  std::string bootstrap() const override { return segment_->bootstrap(); }
  absl::Status Connect() override;

  kernels::BFloat16* rows() override { return rows_; }
  absl::Status Dispatch(uint64_t step, int layer, int num_rows, const int32_t* expert_ids) override;
  absl::StatusOr<const kernels::BFloat16*> Combine() override;
  int suspect() const override { return state_.suspect(); }
  ExchangeStats stats() const override { return counters_.stats(); }
  void Abort(std::string_view reason) override;

  absl::Status SendPlan(uint64_t step, std::string_view plan, absl::Span<const int> ranks) override;
  absl::StatusOr<ReceivedPlan> ReceivePlan() override;
  absl::Status SendResult(uint64_t step, std::string_view result) override;
  absl::StatusOr<std::vector<std::string>> ReceiveResults(uint64_t step,
                                                          absl::Span<const int> ranks) override;

 private:
  // The pairs [first_pair, first_pair + num_pairs) of the pair list are for `rank`.
  struct Parcel {
    int rank;
    int32_t first_pair;
    int32_t num_pairs;
  };
  // A request with this step is a canary of Connect.
  static constexpr uint64_t kCanaryStep = ~uint64_t{0};

  struct FreeMemory {
    void operator()(void* memory) const { std::free(memory); }
  };

  // Waiting (shared_memory_group.cc).
  // Serves other owners until done(). Aborted, Internal, or DeadlineExceeded; the caller says of
  // what. Halfway to the deadline it calls nudge() once, to ring those that seem to sleep over
  // their work. Time asleep is added to `*asleep_ns` if given.
  absl::Status WaitServing(absl::FunctionRef<bool()> done, Clock::time_point deadline,
                           absl::FunctionRef<void()> nudge, Counter* asleep_ns);

  // Serving other owners.
  bool HasRequest() const;
  absl::StatusOr<bool> ServePending();
  absl::Status Serve(int owner, uint64_t number);
  absl::Status CheckWork(int owner, const Request& request);
  absl::Status CopyPairs(int owner, const Request& request);
  absl::Status ServeCanary(int owner);
  void Answer(int owner);

  // Asking other ranks.
  // `has_own_work`: this rank is about to run experts for itself.
  void Post(uint64_t step, int layer, absl::Span<const Parcel> parcels, bool has_own_work);
  Turns TurnsOf(int owner) const;
  // Where the first ranks of a layer run: this owner's share of the cores, this one last.
  absl::Span<const int> FirstCores(bool has_own_work);
  bool AllAnswered() const;
  int FirstUnanswered() const;
  void NudgeUnanswered() const;
  absl::Status CombineReplicated();

  // Barriers (shared_memory_connect.cc): every rank arrives at each, in order.
  void Arrive();
  bool AllArrived() const;
  int FirstAbsent() const;
  absl::Status WaitForAll(Clock::time_point deadline, absl::string_view what, Counter* asleep_ns);

  // Joining (shared_memory_connect.cc).
  absl::Status SendCanaries(Clock::time_point deadline);
  absl::Status CheckCanaryDigests() const;

  int64_t max_pairs() const { return int64_t{shape_.max_rows} * shape_.top_k; }

  const std::shared_ptr<Segment> segment_;
  const GroupShape shape_;
  const int rank_;
  const int num_mailboxes_;  // owners that can send work: A, or 0 if replicated
  LocalExperts* const experts_;
  const SharedMemoryOptions options_;
  const Doorbells bells_;

  // Where Dispatch finds its rows: the owner's area, or private memory if replicated.
  std::unique_ptr<void, FreeMemory> private_rows_;
  kernels::BFloat16* rows_ = nullptr;

  // The engine thread's own state.
  RankEpoch state_;
  uint64_t barrier_ = 0;  // barriers that this rank has arrived at

  Router router_;
  uint64_t num_dispatches_ = 0;          // replicated: its parity chooses the buffer
  std::vector<Parcel> parcels_;          // of the last Dispatch
  std::vector<uint64_t> asked_;          // [W], bit per rank that has a parcel
  std::vector<uint64_t> num_asked_;      // [num_ranks], value of the rank's request word for us
  std::vector<uint32_t> ring_masks_;     // [NumBells], scratch
  std::vector<int> own_cores_;           // an owner's share of the cores
  std::vector<Parcel> parcels_by_size_;  // scratch
  std::vector<int32_t> turns_;           // their ranks

  std::vector<uint64_t> num_served_;  // [num_mailboxes], last request word seen
  std::vector<uint64_t> served_step_;
  std::vector<int> served_layer_;         // [num_mailboxes]; -1: nothing served yet
  std::vector<RoutedRow> serving_pairs_;  // scratch: the private copy of a request's pairs

  uint64_t plan_number_ = 0;        // leader: plans sent; others: number of the last one taken
  std::vector<uint64_t> named_in_;  // [num_ranks], leader: last plan that names the rank

  ExchangeCounters counters_;
};

}  // namespace moe::exchange

#endif  // MOE_WORKER_EXCHANGE_SHARED_MEMORY_GROUP_H_
