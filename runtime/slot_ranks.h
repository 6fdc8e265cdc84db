// Where the ranks of a group are: slot_of_rank[rank] is the slot of the rank's pod. A pod that has
// several ranks has them in a row, and every pod that has any has as many.
#ifndef MOE_RUNTIME_SLOT_RANKS_H_
#define MOE_RUNTIME_SLOT_RANKS_H_

#include <algorithm>
#include <vector>

namespace moe::runtime {

// Of each pod that has any; 1 while ranks are not decided.
inline int RanksPerPod(const std::vector<int>& slot_of_rank) {
  if (slot_of_rank.empty()) return 1;
  return static_cast<int>(
      std::count(slot_of_rank.begin(), slot_of_rank.end(), slot_of_rank.front()));
}

// The first rank of the slot's pod; -1: none, it is a spare one, or ranks are not decided yet.
inline int RankOf(const std::vector<int>& slot_of_rank, int slot) {
  const auto found = std::find(slot_of_rank.begin(), slot_of_rank.end(), slot);
  return found == slot_of_rank.end() ? -1 : static_cast<int>(found - slot_of_rank.begin());
}

}  // namespace moe::runtime

#endif  // MOE_RUNTIME_SLOT_RANKS_H_
