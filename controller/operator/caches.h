// What this controller knows of the cluster: the MoEDeployments, the objects that the operator made
// for them, and the nodes with GPUs, as watches bring them.
//
// Methods are thread-safe. Tested by tests/controller/operator/operator_test.cc.
#ifndef MOE_CONTROLLER_OPERATOR_CACHES_H_
#define MOE_CONTROLLER_OPERATOR_CACHES_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "controller/kube/api.h"
#include "controller/kube/client.h"
#include "controller/kube/reflector.h"
#include "controller/kube/store.h"

namespace moe::controller {

struct CachesOptions {
  std::vector<std::string> namespaces = {};  // empty: all
  bool nodes = true;                         // whether to watch the nodes that have GPUs
  // Of the watches' retries.
  absl::Duration first_backoff = absl::Milliseconds(800);
};

class Caches {
 public:
  // Told the MoEDeployment that a change concerns; must not block. Nodes concern those of mode:
  // Auto on GPUs.
  using Changed = std::function<void(const kube::ObjectKey& deployment)>;

  // `client` must outlive it.
  Caches(kube::Client& client, CachesOptions options, Changed changed);
  // Stop() if not yet done.
  ~Caches();
  Caches(const Caches&) = delete;
  Caches& operator=(const Caches&) = delete;

  // All but the pods, which are what there are most of and what changes most: a standby has no use
  // for them.
  void Start();
  // The pods, too, from now on.
  void StartPods();
  // Call Client::Shutdown before, so that nothing is waited for.
  void Stop();
  // All first lists of what was started have come, but for that of the nodes: a controller that may
  // not read them does everything else.
  bool synced() const;

  using Object = kube::Store::Object;
  // Null: there is none.
  Object Get(const kube::ResourceType& type, const kube::ObjectKey& key) const;
  // Of all namespaces when `ns` is empty.
  std::vector<Object> List(const kube::ResourceType& type, const std::string& ns = "") const;
  // Those labelled as belonging to a MoEDeployment.
  std::vector<Object> Owned(const kube::ResourceType& type,
                            const kube::ObjectKey& deployment) const;
  // Those with the label nvidia.com/gpu.product, without what observe_nodes.h does not read;
  // nullopt while they are not known, or not watched.
  std::optional<std::vector<Object>> GpuNodes() const;
  // What this process has written: Get and Owned show it until the watch brings it or a later
  // version, so that nothing is decided from before a write of our own.
  void Learn(const kube::ResourceType& type, kube::Json object);

  // Watches that were begun again, and lists behind them.
  int64_t num_watch_restarts() const;

 private:
  struct Watched {
    std::string ns;  // empty: all
    kube::Store store;
    std::unique_ptr<kube::Reflector> reflector;
  };

  // In all namespaces when `namespaces` is empty.
  void AddType(kube::Client& client, const CachesOptions& options, const kube::ResourceType& type,
               const std::string& selector, std::vector<std::string> namespaces);
  void OnChange(const kube::ResourceType& type, const kube::Store::Change& change) const;
  const Watched* Find(const kube::ResourceType& type, const std::string& ns) const;
  Object Newest(const kube::ResourceType& type, Object cached) const;
  Object NewestLocked(const kube::ResourceType& type, Object cached) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Changed changed_;
  mutable absl::Mutex mu_;
  bool pods_started_ ABSL_GUARDED_BY(mu_) = false;
  // By plural and key.
  mutable std::map<std::pair<std::string, kube::ObjectKey>, Object> learned_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, std::vector<std::unique_ptr<Watched>>> watched_;  // by plural
};

}  // namespace moe::controller

#endif  // MOE_CONTROLLER_OPERATOR_CACHES_H_
