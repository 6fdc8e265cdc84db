// The memory file of one epoch: what lies where, who may write it, and how it is made and opened.
//
// The layout is a pure function of the group's shape, so no offset is ever read from the file.
// Everything that is read from it is checked by its reader before it is used as an index or a size.
//
// Tested by tests/worker/exchange/segment_test.cc.
#ifndef MOE_WORKER_EXCHANGE_SEGMENT_H_
#define MOE_WORKER_EXCHANGE_SEGMENT_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/bf16.h"
#include "worker/exchange/doorbell.h"
#include "worker/exchange/exchange.h"
#include "worker/exchange/turns.h"

namespace moe::exchange {

// The largest group. The file is sparse: room that nobody writes costs addresses only.
inline constexpr int kMaxRanks = 4096;

using SharedWord = std::atomic<uint64_t>;
static_assert(sizeof(SharedWord) == 8 && SharedWord::is_always_lock_free);

// Work of one owner's layer for one rank. Written by the owner before it advances the rank's
// request word, and not again before the rank has answered.
struct Request {
  uint64_t step;
  int32_t layer;
  int32_t num_pairs;
  int32_t first_pair;  // in the owner's pair list
  int32_t unused;
};
static_assert(sizeof(Request) == 24);

// The current plan. Written by the leader before it advances the named ranks' plan words, and not
// again before all of them have copied it.
struct PlanHead {
  SharedWord number;  // of plans so far; 0: none yet
  SharedWord step;    // of the current plan
  uint64_t num_bytes;
};

// The result of one rank. Written by the rank before it advances `number`.
struct alignas(64) ResultHead {
  SharedWord number;  // of the plan that this is the result of; 0: none yet
  uint64_t num_bytes;
};

// Checks that a group of this shape can be; InvalidArgument names the field that is wrong.
absl::Status ValidateShape(const GroupShape& shape);

// Byte offsets in the file. N ranks, A owners (0 if replicated), W = ceil(N / 64).
struct SegmentLayout {
  size_t bells = 0;           // [NumBells(N)] Bell
  size_t arrivals = 0;        // [N] word: barriers passed by the rank
  size_t digests = 0;         // [2, N] word: what each rank dispatched (replicated)
  size_t requests = 0;        // [N, request_stride / 8] word: layers sent by owner to rank
  size_t request_stride = 0;  // bytes, whole cache lines: each rank polls its own
  size_t plan_head = 0;       // PlanHead
  size_t plan_for = 0;        // [N] word: number of the last plan that names the rank
  size_t plan_taken = 0;      // [N] word: number of the last plan that the rank has copied
  size_t awaited = 0;         // [W] word, bit per rank: results that the leader waits for
  size_t result_heads = 0;    // [N] ResultHead
  size_t seats = 0;           // [N] Seat
  size_t owners = 0;          // [A, owner_stride]
  size_t owner_stride = 0;
  size_t owner_requests = 0;  // in an owner: [N] Request (before it: [W] word, unanswered ranks)
  size_t owner_turns = 0;     // in an owner: TurnHead, [N] int32
  size_t owner_pairs = 0;     // in an owner: [max_rows * top_k] RoutedRow
  size_t owner_rows = 0;      // in an owner: [max_rows, hidden] bf16
  size_t owner_results = 0;   // in an owner: [max_rows, top_k, hidden] bf16
  size_t shared_results = 0;  // [2, max_rows, top_k, hidden] bf16 (replicated)
  size_t shared_results_stride = 0;
  size_t plan_bytes = 0;    // [kMaxPlanBytes]
  size_t result_bytes = 0;  // [N, kMaxResultBytes]
  size_t total = 0;

  // REQUIRES: ValidateShape(shape).ok().
  static SegmentLayout Of(const GroupShape& shape);
};

// The mapped file. Unmapped and closed by the destructor. The accessors are views into it; which
// rank may write what, and when, is said above and in shared_memory_group.h.
class Segment {
 public:
  // A new file of zeros, which nobody can shrink or grow, and the secret that opens it.
  static absl::StatusOr<std::unique_ptr<Segment>> Create(const GroupShape& shape, uint64_t epoch);

  // Maps the file that `bootstrap` (of Create's process) speaks of. InvalidArgument: not a
  // bootstrap; Unavailable: its file is not there; PermissionDenied: another secret;
  // FailedPrecondition: another epoch or shape. No message holds the secret.
  static absl::StatusOr<std::unique_ptr<Segment>> Open(std::string_view bootstrap,
                                                       const GroupShape& shape, uint64_t epoch);

  ~Segment();
  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;

  // Empty if this side opened the file: only the creator hands it on.
  const std::string& bootstrap() const { return bootstrap_; }

  Bell* bells() const { return At<Bell>(layout_.bells); }
  SharedWord& arrival(int rank) const { return At<SharedWord>(layout_.arrivals)[rank]; }
  SharedWord& digest(int buffer, int rank) const {
    return At<SharedWord>(layout_.digests)[buffer * num_ranks_ + rank];
  }
  // requests(rank)[owner]
  SharedWord* requests(int rank) const {
    return At<SharedWord>(layout_.requests + layout_.request_stride * rank);
  }
  PlanHead& plan_head() const { return *At<PlanHead>(layout_.plan_head); }
  SharedWord& plan_for(int rank) const { return At<SharedWord>(layout_.plan_for)[rank]; }
  SharedWord& plan_taken(int rank) const { return At<SharedWord>(layout_.plan_taken)[rank]; }
  char* plan_bytes() const { return At<char>(layout_.plan_bytes); }
  SharedWord* awaited() const { return At<SharedWord>(layout_.awaited); }
  ResultHead& result_head(int rank) const { return At<ResultHead>(layout_.result_heads)[rank]; }
  char* result_bytes(int rank) const {
    return At<char>(layout_.result_bytes + kMaxResultBytes * rank);
  }
  SharedWord* unanswered(int owner) const { return At<SharedWord>(OwnerAt(owner)); }
  Request& request(int owner, int rank) const {
    return At<Request>(OwnerAt(owner) + layout_.owner_requests)[rank];
  }
  Seat* seats() const { return At<Seat>(layout_.seats); }
  TurnHead* turn_head(int owner) const {
    return At<TurnHead>(OwnerAt(owner) + layout_.owner_turns);
  }
  int32_t* turn_order(int owner) const { return reinterpret_cast<int32_t*>(turn_head(owner) + 1); }
  RoutedRow* pairs(int owner) const { return At<RoutedRow>(OwnerAt(owner) + layout_.owner_pairs); }
  kernels::BFloat16* rows(int owner) const {
    return At<kernels::BFloat16>(OwnerAt(owner) + layout_.owner_rows);
  }
  kernels::BFloat16* results(int owner) const {
    return At<kernels::BFloat16>(OwnerAt(owner) + layout_.owner_results);
  }
  kernels::BFloat16* shared_results(int buffer) const {
    return At<kernels::BFloat16>(layout_.shared_results + layout_.shared_results_stride * buffer);
  }

  // Gives the pages of a large result back to the system; small ones are kept for the next.
  void DiscardResult(int rank, size_t num_bytes) const;

 private:
  Segment(const GroupShape& shape, int fd, char* base, size_t size);

  size_t OwnerAt(int owner) const { return layout_.owners + layout_.owner_stride * owner; }
  template <typename T>
  T* At(size_t offset) const {
    return reinterpret_cast<T*>(base_ + offset);
  }

  const int num_ranks_;
  const SegmentLayout layout_;
  const int fd_;
  char* const base_;
  const size_t size_;
  std::string bootstrap_;
};

}  // namespace moe::exchange

#endif  // MOE_WORKER_EXCHANGE_SEGMENT_H_
