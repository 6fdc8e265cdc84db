// Which (row, expert) pairs of a layer go to which rank: a counting sort.
//
// Tested by tests/worker/exchange/routing_test.cc.
#ifndef MOE_WORKER_EXCHANGE_ROUTING_H_
#define MOE_WORKER_EXCHANGE_ROUTING_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "worker/exchange/exchange.h"

namespace moe::exchange {

// Sorts the pairs of one layer by rank, then expert, then output row. Keeps its buffers, so that a
// layer allocates nothing once the largest was seen. Not thread-safe.
class Router {
 public:
  explicit Router(const GroupShape& shape);

  // expert_ids [num_rows, top_k], all in [0, num_experts).
  void Sort(int num_rows, const int32_t* expert_ids);

  // All pairs of the last Sort; those of rank r are at [begin(r), begin(r + 1)).
  absl::Span<const RoutedRow> pairs() const { return pairs_; }
  int32_t begin(int rank) const { return begin_[rank]; }
  absl::Span<const RoutedRow> pairs_of(int rank) const {
    return pairs().subspan(begin_[rank], begin_[rank + 1] - begin_[rank]);
  }
  // How many different input rows the ranks other than `self` need, counted once per rank.
  int64_t num_rows_sent(int self) const;

 private:
  int num_ranks_;
  int top_k_;
  std::vector<int> rank_of_expert_;  // [num_experts]
  std::vector<int> slot_of_expert_;  // [num_experts], position in the order by (rank, expert)
  std::vector<int> first_slot_;      // [num_ranks + 1], of each rank
  std::vector<int32_t> next_;        // [num_experts + 1], by slot
  std::vector<RoutedRow> pairs_;
  std::vector<int32_t> begin_;        // [num_ranks + 1]
  std::vector<int32_t> last_row_;     // [num_ranks], scratch of Sort
  std::vector<int32_t> num_rows_of_;  // [num_ranks], different rows that the rank needs
};

}  // namespace moe::exchange

#endif  // MOE_WORKER_EXCHANGE_ROUTING_H_
