// Workers as pods, which somebody else creates and deletes: the reconciler.
//
// What the group asks for is written down here (wanted slots, unwanted pods) for the reconciler to
// read; what the reconciler observes comes in through Observe and becomes the group's starts and
// exits. A group counts ranks, pods have slots: the runtime translates.
//
// A pod may hold several ranks, one process for each. It comes and goes as a whole: whoever of its
// processes ends or is given up, all of its ranks have ended, and one new pod fills them again. So
// each of them counts a lost pod once, and the group's budget is one of pods.
//
// A pod that the group gave up counts as ended at once. It may hang in Terminating for as long as
// it likes; its successor has another uid, and nothing that it still says is heard.
//
// Tested by tests/runtime/pod_runtime_test.cc.
#ifndef MOE_RUNTIME_POD_RUNTIME_H_
#define MOE_RUNTIME_POD_RUNTIME_H_

#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "runtime/runtime.h"

namespace moe::runtime {

// One pod of the group, as the API server shows it.
struct WorkerPod {
  int slot = 0;
  int incarnation = 0;  // of the slot; the highest one counts
  std::string uid;
  bool ended = false;
  std::string description;  // how it ended: "exited with status 1", "was evicted"
  std::string last_lines;   // of its log
};

// A pod that is to be deleted.
struct UnwantedPod {
  std::string uid;
  std::string reason;  // why the group has given it up; empty: a higher incarnation replaced it

  friend bool operator==(const UnwantedPod&, const UnwantedPod&) = default;
};

// Methods are thread-safe.
class PodRuntime : public Runtime {
 public:
  // `slot_of_rank`[rank]: the pod's slot, each equally often and side by side. Pods of other slots
  // are spare ones, of which the group knows nothing. `on_change` is
  // called when WantedSlots or UnwantedPods have changed, on the caller's thread; it must not block
  // nor call the runtime.
  PodRuntime(std::vector<int> slot_of_rank, std::function<void()> on_change);

  // All pods of the group that there are; one that is missing was deleted. Called before the group
  // is started, so that pods of an earlier controller are found, and after each change.
  void Observe(const std::vector<WorkerPod>& pods);

  // Spare pods take over: from now on ranks are in other slots than before. Nothing for a list of
  // another number of ranks. Takes effect with the next Observe.
  void Assign(const std::vector<int>& slot_of_rank);

  // Pods below `claimed`[slot] never count. Takes effect with the next Observe.
  void RaiseIncarnations(const std::vector<int>& claimed);

  // The slots for which the group asks for a pod of a higher incarnation, ascending.
  std::vector<int> WantedSlots() const;
  // The pods that the group has given up, or that a higher incarnation has replaced.
  std::vector<UnwantedPod> UnwantedPods() const;

  // Reports at once the pods that were observed before.
  void SetCallbacks(Callbacks callbacks) override;
  // Nullopt: the slot is wanted from now on, until Observe shows a new pod for it. It is not when
  // it has one, which another rank has asked for: that has been reported.
  absl::StatusOr<std::optional<std::string>> StartWorker(int rank) override;
  void Kill(std::string_view worker_id, std::string_view reason) override;
  // Wants nothing and calls nobody any more. The pods stay: the reconciler deletes them.
  void StopAll(absl::Duration grace) override;

 private:
  struct Pod {
    int slot = 0;
    int incarnation = 0;
    int first_rank = 0;    // as on_started told
    bool started = false;  // on_started was called
    bool exited = false;   // on_exit was called, or it never counted
    bool unwanted = false;
    std::string kill_reason;
  };

  // As the process calls itself that a pod has for `rank`.
  std::string WorkerIdOf(const std::string& uid, int rank) const;
  bool Apply(const std::vector<WorkerPod>& pods) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Start(const std::string& uid, Pod* pod) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Exit(const std::string& uid, Pod* pod, const std::string& description,
            const std::string& last_lines) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const int ranks_per_pod_;
  const std::function<void()> on_change_;

  // Held while the callbacks are called, which keeps them in order.
  mutable absl::Mutex mu_;
  std::vector<int> slot_of_rank_ ABSL_GUARDED_BY(mu_);
  Callbacks callbacks_ ABSL_GUARDED_BY(mu_);
  bool connected_ ABSL_GUARDED_BY(mu_) = false;  // SetCallbacks was called
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<WorkerPod> observed_ ABSL_GUARDED_BY(mu_);               // until connected_
  std::map<std::string, Pod, std::less<>> pods_ ABSL_GUARDED_BY(mu_);  // by uid
  std::set<int> wanted_ ABSL_GUARDED_BY(mu_);                          // slots
  // The highest incarnation seen or claimed of each slot.
  std::map<int, int> incarnation_ ABSL_GUARDED_BY(mu_);
};

}  // namespace moe::runtime

#endif  // MOE_RUNTIME_POD_RUNTIME_H_
