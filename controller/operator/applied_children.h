// Which children of one deployment are as they should be.
//
// A child counts as current when it was applied by this process with its present content, and the
// cached object is that one: the same uid, no later generation (somebody else edited it), the same
// content hash (a controller that led before applied its own). So a controller that takes over
// applies everything once.
//
// Not thread-safe: a deployment is reconciled by one thread at a time.
// Tested by tests/controller/operator/applied_children_test.cc.
#ifndef MOE_CONTROLLER_OPERATOR_APPLIED_CHILDREN_H_
#define MOE_CONTROLLER_OPERATOR_APPLIED_CHILDREN_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "controller/kube/api.h"
#include "controller/manifests/children.h"

namespace moe::controller {

class AppliedChildren {
 public:
  struct Removal {
    kube::ResourceType type;
    kube::ObjectKey key;
    std::string uid;
  };
  struct Difference {
    std::vector<manifests::Child> apply;
    std::vector<Removal> remove;
    bool empty() const { return apply.empty() && remove.empty(); }
  };
  // The cached object, or null.
  using Lookup = std::function<std::shared_ptr<const kube::Json>(const kube::ResourceType&,
                                                                 const kube::ObjectKey&)>;
  struct Live {
    kube::ResourceType type;
    std::shared_ptr<const kube::Json> object;
  };

  // `owned`: all children of the deployment in the caches.
  Difference Compare(const std::vector<manifests::Child>& desired, const Lookup& lookup,
                     const std::vector<Live>& owned, absl::Time now) const;

  // `result`: what the API server made of it.
  void OnApplied(const manifests::Child& child, const kube::Json& result, absl::Time now);
  void Clear() { applied_.clear(); }

 private:
  struct Applied {
    std::string uid;
    std::string hash;
    int64_t generation = 0;
    absl::Time at;
  };
  using Name = std::pair<std::string, kube::ObjectKey>;  // plural, key

  bool IsCurrent(const manifests::Child& child, const kube::Json* live, absl::Time now) const;

  std::map<Name, Applied> applied_;
};

}  // namespace moe::controller

#endif  // MOE_CONTROLLER_OPERATOR_APPLIED_CHILDREN_H_
