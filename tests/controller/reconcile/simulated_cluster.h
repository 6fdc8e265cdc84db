// A cluster made of values around DecidePlan: an API server with resource versions, a scheduler
// with nodes that have room for so many pods, kubelets, two controllers of which one leads, and for
// each controller a model of the coordinator (controller/coordinator/group.h is tested on its own).
//
// What happens next is drawn from a seed. Plans are carried out action by action with other things
// in between; in times of faults any action may fail, with or without having had its effect. A
// controller that is replaced may still finish the plan that it was carrying out.
//
// Checked at every step:
//   * no two live processes of one rank run the same epoch, and an epoch is claimed once;
//   * a group starts with every rank of its revision, as many in a row as its pods have;
//   * a pod is created only with an incarnation that the status has, and never under a name whose
//   pod
//     may have run;
//   * a gate goes only when all pods of its group exist;
//   * a plan that drains active groups leaves as many as updateStrategy promises, and one that adds
//   a
//     group leaves no more than it allows;
//   * what mode: Auto has decided changes with the spec, or to what the annotation names, and with
//     nothing else;
//   * the leader neither stops a group nor deletes a member of one that serves, unless it drains or
//     was given up before it served; and no plan gives up a group that serves.
#ifndef MOE_TESTS_CONTROLLER_RECONCILE_SIMULATED_CLUSTER_H_
#define MOE_TESTS_CONTROLLER_RECONCILE_SIMULATED_CLUSTER_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "controller/reconcile/plan.h"

namespace moe::reconcile {

class SimulatedCluster {
 public:
  struct Options {
    int expert = 3;
    bool automatic = false;  // mode: Auto on GPUs, instead of `expert`
    int gpus_per_pod = 1;    // above 1: edits switch between this and 1
    int spares = 0;          // above 0: edits switch between this and 0
    int replicas = 2;
    int max_unavailable = 0;
    int max_surge = 1;
    int num_nodes = 4;
    int pods_per_node = 4;
    int gpus_per_node = 4;  // that mode: Auto counts
    int gang_timeout_seconds = 40;
    int max_slot_failures = 1000;  // then the group has failed
  };
  SimulatedCluster(const Options& options, uint64_t seed);

  // One random thing happens; faults only if `faults`.
  void Move(bool faults);
  // What is broken is whole again. A group that has failed needs an edit of the spec.
  void Heal();

  // As a user does.
  void Scale(int replicas);
  void ChangeEngine(int max_sequences);  // rolls all groups
  void SetPaused(bool paused);
  void Adopt();  // what is proposed, if anything is; and forgets it some other time
  void Delete();

  // The deployment is as the spec asks, and there is nothing left to do, now or in an hour.
  bool Converged() const;
  bool Gone() const;        // no pods, no groups
  int num_serving() const;  // groups that take requests

  // The first rule that was broken; empty: none.
  const std::string& violation() const { return violation_; }
  std::string Dump() const;
  const api::MoEDeployment& deployment() const { return object_; }

 private:
  struct Process {
    bool alive = false;
    bool loaded = false;
    uint64_t term = 0;
    uint64_t epoch = 0;  // that it runs
    int rank = 0;        // its first one in it
  };
  struct Pod {
    ObservedPod seen;
    Process process;
  };
  struct Node {
    bool up = true;
    int room = 0;
  };
  // The coordinator's view of one group.
  struct Group {
    ObservedGroup seen;
    uint64_t last_epoch = 0;
    bool may_adopt = true;
    std::vector<int> slot_of_rank;
    std::vector<std::string>
        member_of_slot;  // uid of the pod, whose processes live and die together
    std::vector<int> num_failures;
  };
  struct Controller {
    uint64_t term = 0;
    api::MoEDeployment deployment;  // as seen
    std::vector<ObservedPod> pods;  // as seen
    size_t num_watched = 0;         // of created_: the watch shows each, if only for a moment
    bool must_refresh = true;
    std::map<int, Group> groups;
    std::deque<Action> plan;  // what is left of it
    std::string plan_version;
    std::string last_create_error;
  };

  int Draw(int below) { return static_cast<int>(random_() % static_cast<uint64_t>(below)); }
  bool OneIn(int n) { return Draw(n) == 0; }
  void Broken(const std::string& rule);
  void Touch() { object_.resource_version = std::to_string(++version_); }

  void Reconcile(Controller* controller);
  Observed Observe(const Controller& controller) const;
  void Refresh(Controller* controller);
  void RefreshPods(Controller* controller);
  // The answer to a create has the pod, before any watch shows it.
  void SeeCreated(Controller* controller, const CreatePod& create);
  static void RaiseUsed(Controller* controller, int index, int slot, int incarnation);
  void CheckPlan(const Observed& observed, const Plan& plan);
  void CheckGang(const Observed& observed, const RemoveGate& remove);
  void Continue(Controller* controller, bool faults);
  // False: the action failed.
  bool Do(Controller* controller, const WriteStatus& write);
  bool Do(Controller* controller, const ApplyChildren&);
  bool Do(Controller* controller, const CreateInspection&);
  bool Do(Controller* controller, const DeleteInspection& remove);
  bool Do(Controller* controller, const CreatePod& create);
  bool Do(Controller* controller, const RemoveGate& remove);
  bool Do(Controller* controller, const DeletePod& remove);
  bool Do(Controller* controller, const StartGroup& start);
  bool Do(Controller* controller, const DrainGroup& drain);
  bool Do(Controller* controller, const StopGroup& stop);
  bool Do(Controller*, const Event&) { return true; }

  // The coordinator.
  void Coordinate(Controller* controller);
  void WatchMembers(const Controller& controller, Group* group);
  // Spare pods that took over, as the status says.
  static void AssignRanks(const Controller& controller, Group* group);
  void LoseMember(Group* group, size_t slot);
  static void SetLoaded(Group* group, size_t slot, bool loaded);
  void Connect(Controller* controller, Group* group);
  bool ClaimEpoch(Controller* controller, Group* group);

  void ScheduleOne();
  void RunKubelet();
  void Fault();
  void Replace(bool other);  // the leader, by itself started again or by the other one
  Pod* FindUid(const std::string& uid);
  Pod* DrawPod();
  Controller& leader() { return controllers_[leader_]; }
  const Controller& leader() const { return controllers_[leader_]; }
  void CheckProcesses();
  void CheckDecision(const api::MoEDeploymentStatus& next);
  // Workers of a group, as the spec or the decision says; 0: nothing is decided.
  int Width() const;

  const Options options_;
  std::mt19937_64 random_;
  absl::Time now_;
  uint64_t version_ = 1;
  api::MoEDeployment object_;
  std::map<std::string, Pod> pods_;
  std::vector<Node> nodes_;
  ObservedInspection inspection_;
  int64_t children_generation_ = 0;
  int gateways_ready_ = 0;
  bool quota_exceeded_ = false;
  Controller controllers_[2];
  size_t leader_ = 0;
  uint64_t num_uids_ = 0;
  std::vector<ObservedPod> created_;  // every pod that there ever was
  std::set<std::string> burnt_;       // names of pods that had a node
  std::set<std::pair<int, uint64_t>> claimed_;
  std::string violation_;
};

}  // namespace moe::reconcile

#endif  // MOE_TESTS_CONTROLLER_RECONCILE_SIMULATED_CLUSTER_H_
