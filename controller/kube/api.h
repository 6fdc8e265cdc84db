// What the controller asks of a Kubernetes API server, as an interface: the client over HTTP
// implements it, and tests put a server of their own behind it.
//
// Objects are JSON here, at the edge; nothing below controller/api and controller/reconcile sees
// it.
#ifndef MOE_CONTROLLER_KUBE_API_H_
#define MOE_CONTROLLER_KUBE_API_H_

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "nlohmann/json.hpp"

namespace moe::kube {

using Json = nlohmann::json;

// One kind of object, for example {"apps", "v1", "deployments", "Deployment"}; the core group is
// "".
struct ResourceType {
  std::string group;
  std::string version;
  std::string plural;
  std::string kind;
  bool namespaced = true;

  std::string ApiVersion() const { return group.empty() ? version : group + "/" + version; }
};

struct ObjectKey {
  std::string ns;  // empty for kinds that belong to no namespace
  std::string name;

  friend auto operator<=>(const ObjectKey&, const ObjectKey&) = default;
};

struct DeleteOptions {
  std::string uid = {};                      // delete this very object, not a later one of its name
  std::optional<absl::Duration> grace = {};  // unset: the object's own
  bool foreground = false;                   // dependents go first
};

// Thread-safe. Calls block, for at most the client's request deadline. Errors:
//   NotFound            404
//   AlreadyExists       409 of a Create
//   Aborted             409 of anything else: the resourceVersion or the uid is not the present one
//   PermissionDenied    401, 403
//   InvalidArgument     400, 422: the server's message says which field
//   OutOfRange          410: the resourceVersion is too old
//   ResourceExhausted   403 of an exceeded quota
//   Unavailable         429, 5xx, no connection, no answer in time: worth trying again
// An Unavailable answer says nothing of whether the write was done.
class Api {
 public:
  virtual ~Api() = default;

  virtual absl::StatusOr<Json> Get(const ResourceType& type, const ObjectKey& key) = 0;
  // The whole list, page by page. `selector` is a label selector; empty: all. `ns` empty: all.
  virtual absl::StatusOr<Json> List(const ResourceType& type, const std::string& ns,
                                    const std::string& selector) = 0;
  virtual absl::StatusOr<Json> Create(const ResourceType& type, const std::string& ns,
                                      const Json& object, bool dry_run = false) = 0;
  // PUT; fails with Aborted unless object.metadata.resourceVersion is the present one.
  virtual absl::StatusOr<Json> Update(const ResourceType& type, const Json& object) = 0;
  virtual absl::StatusOr<Json> UpdateStatus(const ResourceType& type, const Json& object) = 0;
  // Server-side apply as this controller's field manager, taking over conflicting fields. It does
  // not fence: a late one overwrites; use Update where that matters.
  virtual absl::StatusOr<Json> Apply(const ResourceType& type, const Json& object) = 0;
  // JSON merge patch; put metadata.resourceVersion or metadata.uid in to guard it.
  virtual absl::StatusOr<Json> MergePatch(const ResourceType& type, const ObjectKey& key,
                                          const Json& patch) = 0;
  virtual absl::Status Delete(const ResourceType& type, const ObjectKey& key,
                              const DeleteOptions& options) = 0;
};

}  // namespace moe::kube

#endif  // MOE_CONTROLLER_KUBE_API_H_
