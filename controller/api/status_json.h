// The status of a MoEDeployment to JSON and back. Pure.
//
// What is empty or zero is left out, but for the counts that people and autoscalers look for. Read
// back, the result equals what was written, within the bounds below.
//
// An object of the API server has a bounded size, and every watcher gets all of it with each
// change, so a status is kept under kMaxStatusBytes: texts are cut (the last log at its front), and
// where the lists of ranks do not fit, the ranks that are not Active come first and groups of low
// index before others; ranks_left_out counts the rest.
//
// Tested by tests/controller/api/status_json_test.cc.
#ifndef MOE_CONTROLLER_API_STATUS_JSON_H_
#define MOE_CONTROLLER_API_STATUS_JSON_H_

#include <cstddef>

#include "absl/status/statusor.h"
#include "controller/api/moe_deployment.h"
#include "nlohmann/json.hpp"

namespace moe::api {

// As compact JSON.
inline constexpr size_t kMaxStatusBytes = size_t{63} * 1024;

inline constexpr size_t kMaxLastLogBytes = 2048;
inline constexpr size_t kMaxMessageBytes = 1024;  // of a condition
inline constexpr size_t kMaxReasonBytes = 200;    // of a group, of the last failure
inline constexpr size_t kMaxGpuFailures = 32;

// Strings that are not UTF-8 become it, with a question mark for each byte that is none.
nlohmann::json StatusToJson(const MoEDeploymentStatus& status);

// Null gives an empty status. Fails with InvalidArgument, naming the field.
absl::StatusOr<MoEDeploymentStatus> StatusFromJson(const nlohmann::json& json);

// Whether both are the same object for the API server; a status that was read back lacks what
// StatusToJson cuts.
bool SameStatus(const MoEDeploymentStatus& a, const MoEDeploymentStatus& b);

}  // namespace moe::api

#endif  // MOE_CONTROLLER_API_STATUS_JSON_H_
