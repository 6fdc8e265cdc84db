// What an API server's answer means: JSON within limits, and errors as absl::Status. Pure.
//
// Tested by tests/controller/kube/answer_test.cc.
#ifndef MOE_CONTROLLER_KUBE_ANSWER_H_
#define MOE_CONTROLLER_KUBE_ANSWER_H_

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "controller/kube/api.h"

namespace moe::kube {

// Copying and printing a JSON value recurse, so its depth is bounded before one is built. The
// deepest of Kubernetes' own schemas, JSONSchemaProps aside, stay below 40.
inline constexpr int kMaxJsonDepth = 128;

// The JSON object that `text` is. Internal: it is none, or too deep.
absl::StatusOr<Json> ParseObject(absl::string_view text);

// The error of an answer with this HTTP code and body (a Status object, or anything), as api.h maps
// it. `what` is the verb, the type and the object. REQUIRES: code is not 2xx.
absl::Status ErrorOf(int code, absl::string_view body, absl::string_view what, bool is_create,
                     std::optional<absl::Duration> retry_after = std::nullopt);

// How long the server asked to wait before the next try; at most a minute.
std::optional<absl::Duration> RetryAfter(const absl::Status& status);
// The Retry-After header: seconds. Nothing else is in use among API servers.
std::optional<absl::Duration> ParseRetryAfter(absl::string_view header);

// A Create was refused because its namespace is being deleted.
bool IsNamespaceTerminating(const absl::Status& status);

// metadata.FIELD when it is a string, else "".
std::string MetadataString(const Json& object, absl::string_view field);
// metadata.labels[NAME], or "".
std::string LabelOf(const Json& object, absl::string_view name);
ObjectKey KeyOf(const Json& object);
// "pods default/name", for messages.
std::string Describe(const ResourceType& type, const ObjectKey& key);

}  // namespace moe::kube

#endif  // MOE_CONTROLLER_KUBE_ANSWER_H_
