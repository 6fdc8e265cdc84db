// The objects of an API server, in memory, with the rules that clients depend on: resourceVersions
// and conflicts, uid preconditions, the status subresource, server-side apply, graceful deletion of
// pods, garbage collection along owner references, and a history for watches.
//
// Thread-safe. FakeApiServer puts HTTP before it; tests also use it directly, as "somebody else".
//
// Tested by tests/controller/kube/fake_objects_test.cc.
#ifndef MOE_TESTS_CONTROLLER_KUBE_FAKE_OBJECTS_H_
#define MOE_TESTS_CONTROLLER_KUBE_FAKE_OBJECTS_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "controller/kube/api.h"

namespace moe::kube::testing {

// What a request is answered with; an error's body is a Status object.
struct FakeAnswer {
  int code = 200;
  Json body = {};
  bool ok() const { return code < 300; }
};

// `cause`: reason of the one entry of details.causes; empty: none.
FakeAnswer ErrorAnswer(int code, const std::string& reason, const std::string& message,
                       const std::string& cause = "");

class FakeObjects {
 public:
  enum class Part { kAll, kStatus };

  // As requests. `object` is what a client sent.
  FakeAnswer Create(const ResourceType& type, const std::string& ns, Json object,
                    bool dry_run = false);
  FakeAnswer Get(const ResourceType& type, const ObjectKey& key) const;
  // One page; `limit` 0: everything. Pages of one list show one moment.
  FakeAnswer ListPage(const ResourceType& type, const std::string& ns, const std::string& selector,
                      size_t limit = 0, const std::string& token = "");
  FakeAnswer Replace(const ResourceType& type, const ObjectKey& key, Json object, Part part);
  FakeAnswer MergePatch(const ResourceType& type, const ObjectKey& key, const Json& patch,
                        Part part);
  FakeAnswer Apply(const ResourceType& type, const ObjectKey& key, const Json& object,
                   const std::string& manager);
  // `options`: a DeleteOptions object, or null.
  FakeAnswer Delete(const ResourceType& type, const ObjectKey& key, const Json& options);

  // As somebody else, without conditions. Put makes or replaces the object, status included, and
  // returns what is now stored; namespace and name are the object's own.
  Json Put(const ResourceType& type, Json object);
  std::optional<Json> Find(const ResourceType& type, const ObjectKey& key) const;
  std::vector<Json> All(const ResourceType& type, const std::string& ns = "") const;
  // False when there is no such object.
  bool Edit(const ResourceType& type, const ObjectKey& key,
            const std::function<void(Json&)>& change);
  // The kubelet is done with a pod, or a finalizer: the object is gone now, and what it owned.
  bool Finish(const ResourceType& type, const ObjectKey& key);
  // From now on the namespace refuses new objects, as one that is being deleted.
  void TerminateNamespace(const std::string& ns);
  // Forgets the history: watches that begin at an older version, and pages of older lists, answer
  // 410. Watches that are open go on.
  void Compact();
  // Waits until `condition` holds of the object (null when there is none). False after `timeout`.
  bool Await(const ResourceType& type, const ObjectKey& key,
             const std::function<bool(const Json* object)>& condition,
             absl::Duration timeout = absl::Seconds(20));

  // For watches.
  struct Change {
    int64_t version = 0;
    std::string type = {};  // TypeName
    Json before = {};       // null: it did not exist
    Json after = {};        // of a deletion: the last state; `deleted` tells
    bool deleted = false;
  };
  int64_t version() const;
  // Whether a watch may begin after `version`.
  bool Remembers(int64_t version) const;
  // The changes of one type after `version`, and up to which version these are all. Nothing when
  // there were more than are kept.
  struct Changes {
    int64_t version = 0;
    std::vector<Change> list = {};
  };
  std::optional<Changes> ChangesAfter(const ResourceType& type, int64_t version) const;
  // Returns when there is something above `version`, or after `timeout`.
  void AwaitChange(int64_t version, absl::Duration timeout) const;

 private:
  using Objects = std::map<ObjectKey, Json>;
  struct Page {
    int64_t version = 0;
    std::vector<Json> rest = {};
  };

  Json* FindLocked(const std::string& type, const ObjectKey& key)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Stores `object` with a new resourceVersion, unless nothing changed.
  Json StoreLocked(const std::string& type, const ObjectKey& key, Json object)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  FakeAnswer WriteLocked(const ResourceType& type, const ObjectKey& key, Json object, Part part)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  FakeAnswer CreateLocked(const ResourceType& type, const std::string& ns, Json object,
                          bool dry_run) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  FakeAnswer DeleteLocked(const std::string& type, const ObjectKey& key, const Json& options)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RemoveLocked(const std::string& type, const ObjectKey& key)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DeleteDependentsLocked(const std::string& uid) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool OrphanedLocked(const Json& object) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable absl::Mutex mutex_;
  int64_t version_ ABSL_GUARDED_BY(mutex_) = 1000;
  int64_t compacted_ ABSL_GUARDED_BY(mutex_) = 1000;  // older ones are forgotten
  int64_t trimmed_ ABSL_GUARDED_BY(mutex_) = 1000;    // of history_, which begins after it
  uint64_t next_uid_ ABSL_GUARDED_BY(mutex_) = 1;
  uint64_t next_page_ ABSL_GUARDED_BY(mutex_) = 1;
  std::map<std::string, Objects> types_ ABSL_GUARDED_BY(mutex_);
  std::deque<Change> history_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, Page> pages_ ABSL_GUARDED_BY(mutex_);
  std::set<std::string> gone_uids_ ABSL_GUARDED_BY(mutex_);
  std::set<std::string> terminating_ ABSL_GUARDED_BY(mutex_);
  // What each field manager applied last, by uid and manager.
  std::map<std::pair<std::string, std::string>, Json> applied_ ABSL_GUARDED_BY(mutex_);
};

// Whether the labels of `object` match a selector of "a=b", "a!=b", "a" and "!a" parts.
bool MatchesSelector(const Json& object, const std::string& selector);
// "apps/deployments"; the core group is empty.
std::string TypeName(const ResourceType& type);
// metadata.FIELD as a string, or "".
std::string MetaString(const Json& object, const std::string& field);

}  // namespace moe::kube::testing

#endif  // MOE_TESTS_CONTROLLER_KUBE_FAKE_OBJECTS_H_
