// A MoEDeployment from the API server's JSON to the typed value, with defaults filled in. Pure.
//
// The CRD's schema has refused most of what is refused here; but an object may be older than the
// schema, and the schema may not be this version's. So everything is checked again, and nothing
// that is not built is ignored. Fields that nobody here knows are.
//
// Tested by tests/controller/api/parse_test.cc, fuzzed by tests/fuzz/moe_deployment_fuzz.cc.
#ifndef MOE_CONTROLLER_API_PARSE_H_
#define MOE_CONTROLLER_API_PARSE_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "controller/api/moe_deployment.h"
#include "nlohmann/json.hpp"

namespace moe::api {

inline constexpr int kMaxReplicas = 64;
inline constexpr int kMaxExpert = 1024;
inline constexpr int kMaxGpusPerPod = 16;
inline constexpr int kMaxSpares = 16;  // pods, of each group
// Of one MoEDeployment, so that its status stays within bounds.
inline constexpr int kMaxWorkers = 2048;
// The names of pods, NAME-gGROUP-sSLOT-INCARNATION, must be labels.
inline constexpr int kMaxNameLength = 40;

struct ParsedDeployment {
  MoEDeployment deployment;
  // InvalidArgument, naming the field: deployment.spec then holds defaults only and is not to be
  // used.
  absl::Status spec_status;
};

// Fails with InvalidArgument, naming the field, if metadata or status can't be understood: what was
// claimed for this object is then unknown, and nothing may be done for it.
absl::StatusOr<ParsedDeployment> ParseMoEDeployment(const nlohmann::json& object);

// `spec` is the value of the object's field `spec`. Messages name fields from there:
// "spec.replicas".
absl::StatusOr<MoEDeploymentSpec> ParseSpec(const nlohmann::json& spec);

// Where a model lies: in `path` of the claim, or, with an empty claim, of the container.
struct ModelLocation {
  std::string claim;
  std::string path;  // in a claim without a leading slash (empty: its root), else absolute

  friend bool operator==(const ModelLocation&, const ModelLocation&) = default;
};

// pvc://CLAIM/PATH or file:///PATH. Fails with InvalidArgument; a path can't leave its claim.
absl::StatusOr<ModelLocation> ParseModelUri(absl::string_view uri);

}  // namespace moe::api

#endif  // MOE_CONTROLLER_API_PARSE_H_
