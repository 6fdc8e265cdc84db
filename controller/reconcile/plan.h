// The decision of the operator: what is observed of one MoEDeployment goes in, what to do comes
// out.
//
// DecidePlan is pure: no clock, no API, nothing remembered between calls. Progress is derived anew
// from what is observed. The executor (controller/operator) carries out the plan in order, stops at
// the first action that fails, and observes again; so every action is safe to repeat. Two failures
// stop nothing: an Event is not worth it, and that of ApplyChildren is observed as children_status.
//
// Tested by tests/controller/reconcile/: one table of rules for each part, and simulation_test.cc,
// which puts the decision into a cluster where everything goes wrong.
#ifndef MOE_CONTROLLER_RECONCILE_PLAN_H_
#define MOE_CONTROLLER_RECONCILE_PLAN_H_

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "controller/api/moe_deployment.h"
#include "controller/reconcile/gpu_inventory.h"

namespace moe::reconcile {

// ---- What is observed ----

struct ObservedPod {
  enum class Phase { kPending, kRunning, kSucceeded, kFailed };
  std::string name;
  std::string uid;
  int group = 0;
  int slot = 0;
  int incarnation = 0;
  std::string revision;
  std::string node;  // empty: not scheduled
  std::string ip;
  Phase phase = Phase::kPending;
  bool gated = false;        // the scheduling gate of its gang is still there
  bool terminating = false;  // has a deletionTimestamp
  bool ready = false;
  absl::Time created_at;
  std::string waiting_reason;  // of a container: ErrImagePull, CreateContainerConfigError, ...
  std::string waiting_message;
  std::string unschedulable;        // the scheduler's message
  std::optional<int> exit_code;     // of the worker's container, when it ended
  std::string exit_reason;          // OOMKilled, Error, Evicted, ...
  std::string termination_message;  // its last lines of log
};

// A pod that the coordinator has given up.
struct UnwantedPod {
  std::string uid;
  std::string reason;  // "it sent no heartbeat for 10s"; empty: a newer pod has replaced it
};

// What the coordinator knows of a group; absent until StartGroup.
struct ObservedGroup {
  enum class Phase { kStarting, kLoading, kConnecting, kActive, kRecovering, kFailed, kStopping };
  int index = 0;
  Phase phase = Phase::kStarting;
  std::string reason;
  uint64_t epoch = 0;             // that runs; 0: none
  std::vector<int> wanted_slots;  // of pods, not ranks: the coordinator asks for a new one
  // By slot of pods: a pod that is wanted must be newer than this. Those of StartGroup
  // at first, raised by every pod that was created or seen since; so a pod that came and went is
  // told from one that was claimed and not created yet. Never ahead of Observed.pods: a pod that
  // counts here is listed there for as long as it exists.
  std::vector<int> used_incarnations;
  std::vector<UnwantedPod> unwanted_pods;
  bool draining = false;
  uint32_t num_running = 0;  // sequences
  uint32_t num_waiting = 0;
  std::vector<bool> rank_loaded;  // by rank
  std::string model_digest;       // that its workers have loaded; empty: not known
  uint64_t generated_tokens = 0;
};

// The pod that looks at the model's files before any GPU is taken.
struct ObservedInspection {
  bool exists = false;
  std::string uid;
  std::string uri;  // that it was started for
  bool terminating = false;
  bool done = false;  // it ended
  std::optional<api::ModelStatus> result;
  std::string problem;  // why it can't tell, or what it waits for
  absl::Time created_at;
};

struct ObservedGateway {
  bool exists = false;
  int replicas = 0;
  int ready_replicas = 0;
  bool rolled = false;  // all are ready, of the present template, and no earlier one is left
  std::string problem;  // the Deployment's, for example ImagePullBackOff
};

// `deployment` is at least as new as the last status that this controller wrote.
struct Observed {
  absl::Time now;
  api::MoEDeployment deployment;
  absl::Status spec_status;  // InvalidArgument: the spec can't be understood; `deployment.spec` is
                             // not to be used
  uint64_t term = 0;         // of this controller for this deployment; 0: not claimed yet
  std::string worker_image;  // this controller's defaults
  std::string gateway_image;
  std::vector<ObservedPod> pods;      // worker pods of this deployment, terminating ones too
  std::vector<ObservedGroup> groups;  // that the coordinator runs
  ObservedInspection inspection;
  // Where the deployment's workers may run; empty: the nodes are not known. Only looked at for
  // mode: Auto on GPUs.
  std::optional<GpuInventory> gpus;
  ObservedGateway gateway;
  bool children_current = false;  // Service, Deployment, Ingress, budgets are as they should be
  absl::Status children_status;   // of the last attempt to apply them
  // One gang of all deployments schedules at a time. "namespace/name/index" of another
  // deployment's; empty: none. Of its own gangs a deployment's status knows.
  std::string other_gang_in_flight;
  bool gang_turn_wanted = false;  // another deployment's gang is complete and waits for its turn
  std::string last_create_error;  // of the last attempt to create pods (quota, admission)
  std::optional<api::ExpertLoadStatus> expert_load;  // over all groups; empty: nothing known
};

// ---- What to do ----

// Replaces the status. Always the first action of a plan that has one: what it claims (term,
// incarnations, slot_of_rank) must be durable before it is acted on.
struct WriteStatus {
  api::MoEDeploymentStatus status;
};
struct ApplyChildren {};  // gateway Deployment, Service, Ingress, budgets, network policies
struct CreateInspection {};
struct DeleteInspection {
  std::string uid;
};
// Built from the present spec and the images that status pins: pods of earlier revisions are never
// created again.
struct CreatePod {
  int group = 0;
  int slot = 0;
  int incarnation = 0;
  std::string revision;
  bool gated = false;  // members of a new gang are; replacements are not
};
struct RemoveGate {
  std::string pod;
  std::string uid;
};
struct DeletePod {
  std::string pod;
  std::string uid;
  std::string reason;
};
// Tells the coordinator of a group whose pods are scheduled; or of one that an earlier controller
// ran.
struct StartGroup {
  int index = 0;
  // A pod that has several ranks has them in a row; slots that are not here hold spare pods.
  std::vector<int> slot_of_rank;
  uint64_t last_epoch = 0;
  std::string revision;           // one of status.revisions, which has the layout
  std::vector<int> incarnations;  // by slot, claimed so far: ObservedGroup.used_incarnations
};
struct DrainGroup {
  int index = 0;
};
struct StopGroup {
  int index = 0;
};
struct Event {
  bool warning = false;
  std::string reason;
  std::string message;
};
using Action =
    std::variant<WriteStatus, ApplyChildren, CreateInspection, DeleteInspection, CreatePod,
                 RemoveGate, DeletePod, StartGroup, DrainGroup, StopGroup, Event>;

struct Plan {
  std::vector<Action> actions;
  // Observe and decide again after this, also when nothing changes.
  absl::Duration requeue_after = absl::InfiniteDuration();
  // A gang is complete and waits for that of another deployment: Observed.gang_turn_wanted there.
  bool waits_for_turn = false;
};

// Never fails: a spec that can't be carried out becomes a condition. A plan that was carried out,
// observed again, gives an empty plan (but for what has come to pass since).
Plan DecidePlan(const Observed& observed);

// The group whose gang is being scheduled, of a deployment that is not paused: its gates are gone
// and not all of its pods are known to have a node. For Observed.other_gang_in_flight of the
// others.
std::optional<int> GangInFlight(const api::MoEDeployment& deployment);

}  // namespace moe::reconcile

#endif  // MOE_CONTROLLER_RECONCILE_PLAN_H_
