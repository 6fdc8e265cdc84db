// LayoutDecision as a part of a MoEDeployment's status. Pure.
//
// Texts are cut to kMaxDecisionText bytes each; what is empty is left out.
//
// Tested by tests/controller/api/status_json_test.cc.
#ifndef MOE_CONTROLLER_API_LAYOUT_DECISION_JSON_H_
#define MOE_CONTROLLER_API_LAYOUT_DECISION_JSON_H_

#include <cstddef>

#include "controller/api/field_reader.h"
#include "controller/api/layout_decision.h"
#include "nlohmann/json.hpp"

namespace moe::api {

inline constexpr size_t kMaxDecisionText = 512;

nlohmann::json ToJson(const LayoutDecision& decision);

// Errors go to the reader.
void Read(const FieldReader& fields, LayoutDecision* decision);

}  // namespace moe::api

#endif  // MOE_CONTROLLER_API_LAYOUT_DECISION_JSON_H_
