#include "worker/exchange/routing.h"

#include <algorithm>
#include <numeric>

namespace moe::exchange {

Router::Router(const GroupShape& shape)
    : num_ranks_(shape.num_ranks),
      top_k_(shape.top_k),
      rank_of_expert_(shape.rank_of_expert),
      slot_of_expert_(shape.num_experts),
      first_slot_(shape.num_ranks + 1),
      next_(shape.num_experts + 1),
      begin_(shape.num_ranks + 1),
      last_row_(shape.num_ranks),
      num_rows_of_(shape.num_ranks) {
  std::vector<int> order(shape.num_experts);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return rank_of_expert_[a] < rank_of_expert_[b]; });
  for (int slot = 0; slot < shape.num_experts; ++slot) slot_of_expert_[order[slot]] = slot;
  for (const int rank : rank_of_expert_) ++first_slot_[rank + 1];
  std::partial_sum(first_slot_.begin(), first_slot_.end(), first_slot_.begin());
}

void Router::Sort(int num_rows, const int32_t* expert_ids) {
  const int num_pairs = num_rows * top_k_;
  std::fill(next_.begin(), next_.end(), 0);
  std::fill(last_row_.begin(), last_row_.end(), -1);
  std::fill(num_rows_of_.begin(), num_rows_of_.end(), 0);
  for (int i = 0; i < num_pairs; ++i) ++next_[slot_of_expert_[expert_ids[i]] + 1];
  std::partial_sum(next_.begin(), next_.end(), next_.begin());
  for (int rank = 0; rank <= num_ranks_; ++rank) begin_[rank] = next_[first_slot_[rank]];

  pairs_.resize(num_pairs);
  for (int32_t out_row = 0; out_row < num_pairs; ++out_row) {
    const int32_t expert = expert_ids[out_row];
    const int32_t row = out_row / top_k_;
    pairs_[next_[slot_of_expert_[expert]]++] = {expert, row, out_row};
    const int rank = rank_of_expert_[expert];
    if (last_row_[rank] != row) {
      last_row_[rank] = row;
      ++num_rows_of_[rank];
    }
  }
}

int64_t Router::num_rows_sent(int self) const {
  return std::accumulate(num_rows_of_.begin(), num_rows_of_.end(), int64_t{0}) - num_rows_of_[self];
}

}  // namespace moe::exchange
