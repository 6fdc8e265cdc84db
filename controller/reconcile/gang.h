// Creates the pods of a group all or nothing, before the coordinator knows of the group.
//
//   claimed --all exist, gated; its turn--> gates go --all have a node--> slot_of_rank: the group
//   starts
//      ^                                        |
//      +--- next incarnations, after backoff ---+   gang_timeout, or any member was lost
//
// A gated pod holds no GPU and waits for quota alone. Once the gates go, one gang of the whole
// cluster is scheduled at a time, so that two of them never hold half of the GPUs each. Nothing of
// a gang is repaired: a member that ends or is deleted gives up the gang.
//
// Pure. Tested by tests/controller/reconcile/pods_test.cc.
#ifndef MOE_CONTROLLER_RECONCILE_GANG_H_
#define MOE_CONTROLLER_RECONCILE_GANG_H_

#include <cstddef>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "controller/reconcile/decision.h"

namespace moe::reconcile {

// In the reason of a gang that was given up because a worker's program ended at once.
inline constexpr char kEndedEarly[] = "ended before its group was scheduled";

inline constexpr absl::Duration kFirstGangRetry = absl::Minutes(1);
inline constexpr absl::Duration kMaxGangRetry = absl::Minutes(10);

// `group` is of decision->status. may_create: its revision is what the spec asks for.
void RunGang(Decision* decision, api::GroupStatus* group, bool may_create);

// All pods become superseded, and a new gang begins after the backoff.
void GiveUpGang(Decision* decision, api::GroupStatus* group, absl::string_view reason);

// All pods become superseded, and a new gang may begin at once.
void RestartGang(api::GroupStatus* group);

// The slot of each of `num_ranks` ranks: pods of one node are side by side, and each has
// `ranks_per_pod` ranks in a row. Those that are left over are spares. REQUIRES: all of them have a
// node, and they are enough.
std::vector<int> OrderRanks(const std::vector<const ObservedPod*>& of_slot, int ranks_per_pod,
                            size_t num_ranks);

}  // namespace moe::reconcile

#endif  // MOE_CONTROLLER_RECONCILE_GANG_H_
