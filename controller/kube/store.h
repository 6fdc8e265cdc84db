// The objects of one type as a Reflector last saw them.
//
// Thread-safe. Snapshots are shared and never change. Objects are kept without
// metadata.managedFields, which is half of their size and of no use here; an update that leaves it
// out keeps it.
//
// Tested by tests/controller/kube/store_test.cc.
#ifndef MOE_CONTROLLER_KUBE_STORE_H_
#define MOE_CONTROLLER_KUBE_STORE_H_

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "controller/kube/api.h"
#include "controller/kube/reflector.h"

namespace moe::kube {

class Store : public ReflectorHandler {
 public:
  using Object = std::shared_ptr<const Json>;
  using Labels = std::map<std::string, std::string>;

  struct Change {
    ObjectKey key;
    // The value of the label that objects are grouped by, now or before; may be empty.
    std::string owner;
  };
  // Called by the reflector's thread after each change, without a lock held; must not block. An
  // object whose owner changed is told for both.
  using ChangeCallback = std::function<void(const Change&)>;

  // Objects are grouped by the label `owner_label`, which ListOwned looks up fast.
  explicit Store(std::string owner_label = "moe-operator.dev/deployment")
      : owner_label_(std::move(owner_label)) {}

  // Before the reflector starts.
  void SetChangeCallback(ChangeCallback callback) { callback_ = std::move(callback); }
  // Before the reflector starts: takes out of each object what nobody reads. It must leave the
  // name, the namespace and the resourceVersion.
  void SetTrim(std::function<void(Json*)> trim) { trim_ = std::move(trim); }

  // Null: there is none.
  Object Get(const ObjectKey& key) const;
  // Those of a namespace (empty: all) that have all of these labels, sorted by key.
  std::vector<Object> List(const std::string& ns = "", const Labels& labels = {}) const;
  // Those of a namespace whose owner label has this value, sorted by key.
  std::vector<Object> ListOwned(const std::string& ns, const std::string& owner) const;
  size_t size() const;

  // The first list has come: what is not here does not exist.
  bool synced() const;
  // False after `timeout`.
  bool AwaitSynced(absl::Duration timeout) const;

  // What this process has just written, so that it does not decide from an older state until the
  // watch brings it. Dropped unless an earlier version of the object is here: one that is not may
  // be deleted already. Tells nobody.
  void Learn(Json object);

  void OnReplace(std::vector<Json> objects) override;
  void OnUpsert(Json object) override;
  void OnRemove(Json object) override;

 private:
  // Returns what has changed; an empty `object` removes.
  void SetLocked(const ObjectKey& key, Object object, std::vector<Change>* changes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Tell(const std::vector<Change>& changes) const;
  // Without managedFields and what SetTrim takes out.
  Object Trim(Json object) const;

  const std::string owner_label_;
  ChangeCallback callback_;
  std::function<void(Json*)> trim_;
  mutable absl::Mutex mutex_;
  bool synced_ ABSL_GUARDED_BY(mutex_) = false;
  std::map<ObjectKey, Object> objects_ ABSL_GUARDED_BY(mutex_);
  // By namespace and owner.
  std::map<ObjectKey, std::map<ObjectKey, Object>> owned_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace moe::kube

#endif  // MOE_CONTROLLER_KUBE_STORE_H_
