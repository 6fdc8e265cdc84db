// One deployment as DecidePlan observes it, with a perfect world around it: every action succeeds
// at once. Tests change what is observed and look at the plan.
#ifndef MOE_TESTS_CONTROLLER_RECONCILE_SCENE_H_
#define MOE_TESTS_CONTROLLER_RECONCILE_SCENE_H_

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/time/time.h"
#include "controller/reconcile/plan.h"

namespace moe::reconcile {

template <typename T>
std::vector<T> All(const Plan& plan) {
  std::vector<T> found;
  for (const Action& action : plan.actions) {
    if (const T* one = std::get_if<T>(&action)) {
      found.push_back(*one);
    }
  }
  return found;
}

// "WriteStatus", "CreatePod g0-s1-0 gated", "DeletePod prod-demo..." in order, without events.
std::vector<std::string> Describe(const Plan& plan);

class Scene {
 public:
  // EP`expert` of a model with 8 experts, the term claimed, the model read.
  explicit Scene(int expert = 4, int replicas = 1);

  Observed observed;

  Plan Decide() const { return DecidePlan(observed); }
  void Apply(const Plan& plan);
  // Decides and applies, once.
  Plan Step();
  // Gives every pod without a gate a node, two pods to a node.
  void Schedule();
  // Step() and what a healthy cluster makes of it, six seconds long.
  Plan Turn();
  // What a healthy cluster does until nothing is left to do. False if that takes more than 60
  // turns.
  bool Settle();
  void Edit();  // a new generation, after a change of the spec
  void Advance(absl::Duration time) { observed.now += time; }

  api::MoEDeploymentSpec& spec() { return observed.deployment.spec; }
  api::MoEDeploymentStatus& status() { return observed.deployment.status; }
  api::GroupStatus& group(int index);
  ObservedGroup& running(int index);
  bool runs(int index) const;
  // The newest one of the slot.
  ObservedPod& pod(int group, int slot);
  void Erase(const std::string& pod_name);
  std::vector<int> groups() const;  // indexes
  int num_active() const;
  const api::Condition& condition(std::string_view type) const;

 private:
  void Do(const WriteStatus& write);
  void Do(const ApplyChildren&) { observed.children_current = true; }
  void Do(const CreateInspection&);
  void Do(const DeleteInspection&) { observed.inspection = {}; }
  void Do(const CreatePod& create);
  void Do(const RemoveGate& remove);
  void Do(const DeletePod& remove);
  void Do(const StartGroup& start);
  void Do(const DrainGroup& drain) { running(drain.index).draining = true; }
  void Do(const StopGroup& stop);
  void Do(const Event&) {}

  // A group whose pods all have a node runs.
  void Activate();

  int num_uids_ = 0;
};

}  // namespace moe::reconcile

#endif  // MOE_TESTS_CONTROLLER_RECONCILE_SCENE_H_
