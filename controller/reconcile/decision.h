// A decision under way: what is observed, the status as it will be, and what to do so far. Internal
// to controller/reconcile, as are all headers here but plan.h.
//
// Each part (groups.h, gang.h, slots.h, ...) changes `status` and adds to `plan`. Actions follow
// from `old` alone: what a part claims in `status` is durable only once it is observed again, and
// is acted on then.
#ifndef MOE_CONTROLLER_RECONCILE_DECISION_H_
#define MOE_CONTROLLER_RECONCILE_DECISION_H_

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "controller/reconcile/plan.h"

namespace moe::reconcile {

// GroupStatus.phase.
inline constexpr char kScheduling[] = "Scheduling";
inline constexpr char kStarting[] = "Starting";
inline constexpr char kLoading[] = "Loading";
inline constexpr char kConnecting[] = "Connecting";
inline constexpr char kActive[] = "Active";
inline constexpr char kRecovering[] = "Recovering";
inline constexpr char kDraining[] = "Draining";
inline constexpr char kFailed[] = "Failed";

struct Decision {
  explicit Decision(const Observed& observed)
      : in(observed), old(observed.deployment.status), status(old) {}

  const Observed& in;
  const api::MoEDeploymentStatus& old;
  api::MoEDeploymentStatus status;
  Plan plan;  // without its WriteStatus, which follows from `status`

  void Do(Action action) { plan.actions.push_back(std::move(action)); }
  // Times that have come do not count.
  void WakeAt(absl::Time time);

  bool deleting() const { return in.deployment.deleting; }
  // Nothing is created, repaired or removed.
  bool frozen() const { return in.deployment.paused && !deleting(); }
  bool generation_changed() const { return old.observed_generation != in.deployment.generation; }
  std::string GroupName(int index) const;  // "namespace/name/index"
};

// nullptr if there is none.
const api::GroupStatus* FindGroup(const api::MoEDeploymentStatus& status, int index);
const ObservedGroup* FindRunning(const Observed& observed, int index);
const api::RevisionStatus* FindRevision(const api::MoEDeploymentStatus& status,
                                        absl::string_view name);

bool HasEnded(const ObservedPod& pod);
// nullptr if the coordinator has not given it up.
const UnwantedPod* FindUnwanted(const ObservedGroup& running, const ObservedPod& pod);

// The pods of one group. Pods that are being deleted are in `leaving` alone: they hold a name,
// which no other pod gets, and nothing waits for them.
struct GroupPods {
  std::vector<const ObservedPod*> of_slot;  // [num_slots] of the claimed incarnation, else nullptr
  std::vector<bool> leaving;                // [num_slots] the claimed one is being deleted
  std::vector<bool> spare;                  // [num_slots] the group has its ranks, the slot none
  std::vector<const ObservedPod*> earlier;  // incarnations before the claimed ones, or foreign
  std::vector<const ObservedPod*> later;    // incarnations after the claimed ones
};
GroupPods PodsOf(const Observed& observed, const api::GroupStatus& group);
// nullptr also for a slot that there is not, which a status that was changed by hand may name.
const ObservedPod* PodAt(const GroupPods& pods, int slot);

// Deletes all pods of a group that are not being deleted yet; false if there was none.
bool DeleteAllPods(Decision* decision, const GroupPods& pods, absl::string_view reason);

// What a group does for clients.
struct Service {
  bool active = false;
  // Not active, but it may come back without a new pod: it recovers from a failed epoch, or an
  // earlier controller ran it and its workers have not said so yet.
  bool may_return = false;
};
Service ServiceOf(const Observed& observed, const api::GroupStatus& group);

// How many groups must be active, and how many may exist.
struct Promise {
  int min_active = 0;
  int max_groups = 0;
};
Promise PromiseOf(const api::MoEDeploymentSpec& spec);

}  // namespace moe::reconcile

#endif  // MOE_CONTROLLER_RECONCILE_DECISION_H_
