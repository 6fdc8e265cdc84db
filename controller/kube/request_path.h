// Paths of the API. Pure.
//
// Tested by tests/controller/kube/request_path_test.cc.
#ifndef MOE_CONTROLLER_KUBE_REQUEST_PATH_H_
#define MOE_CONTROLLER_KUBE_REQUEST_PATH_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "controller/kube/api.h"

namespace moe::kube {

// InvalidArgument unless the key can name an object of this type: with a namespace exactly if the
// type has them, and every part one segment of a path. An empty name would turn a delete of one
// object into a delete of all.
absl::Status CheckKey(const ResourceType& type, const ObjectKey& key);

// "/apis/apps/v1/namespaces/NS/deployments"; `ns` empty: of all namespaces.
std::string CollectionPath(const ResourceType& type, const std::string& ns);
// With the name, and the subresource unless it is empty. REQUIRES: CheckKey.
std::string ObjectPath(const ResourceType& type, const ObjectKey& key,
                       absl::string_view subresource = "");

// Percent-encoded, for a segment of a path or the value of a query.
std::string Escape(absl::string_view text);

}  // namespace moe::kube

#endif  // MOE_CONTROLLER_KUBE_REQUEST_PATH_H_
