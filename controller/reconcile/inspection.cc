#include "controller/reconcile/inspection.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "controller/api/conditions.h"
#include "controller/reconcile/layout_decision.h"

namespace moe::reconcile {
namespace {

constexpr char kUnreadable[] = "ModelUnreadable";

absl::Time RetryTime(const Decision& decision) {
  const absl::Time failed_at = decision.in.inspection.created_at;
  const api::Condition* before = api::FindCondition(decision.old.conditions, "ModelReady");
  absl::Duration unreadable_for = absl::ZeroDuration();
  if (before != nullptr && before->reason == kUnreadable) {
    unreadable_for = failed_at - before->last_transition;
  }
  return failed_at + std::clamp(unreadable_for, kFirstInspectionRetry, kMaxInspectionRetry);
}

ModelState OnDone(Decision* decision) {
  const ObservedInspection& inspection = decision->in.inspection;
  const std::string& uri = decision->in.deployment.spec.model.uri;
  const absl::Time retry_at = RetryTime(*decision);
  if (!decision->frozen() && !decision->deleting()) {
    if (retry_at <= decision->in.now || decision->generation_changed()) {
      decision->Do(DeleteInspection{inspection.uid});
    } else {
      decision->WakeAt(retry_at);
    }
  }
  return {
      "False", kUnreadable,
      absl::StrCat(uri, " can't be read: ",
                   inspection.problem.empty() ? "the inspect pod said nothing" : inspection.problem,
                   "; it is tried again from time to time, and at once when the spec changes")};
}

}  // namespace

ModelState DecideModel(Decision* decision) {
  const ObservedInspection& inspection = decision->in.inspection;
  const std::string& uri = decision->in.deployment.spec.model.uri;
  const bool may_act = !decision->frozen() && !decision->deleting();
  const bool of_this_uri = inspection.exists && inspection.uri == uri;
  const bool known = decision->old.model.has_value() && decision->old.model->uri == uri;
  // Another image may tell what an earlier one did not.
  if (known && decision->generation_changed()) {
    decision->status.model->shape_missing = false;
  }
  const bool wants_shape = known && WantsShape(decision->in.deployment.spec, *decision->old.model);
  if (known && !wants_shape) {
    // It is kept until what it found is durable.
    if (inspection.exists && !inspection.terminating && may_act) {
      decision->Do(DeleteInspection{inspection.uid});
    }
  } else if (of_this_uri && inspection.done && inspection.result.has_value()) {
    decision->status.model = inspection.result;
    decision->status.model->uri = uri;
  } else if (of_this_uri && inspection.done && !inspection.terminating) {
    return OnDone(decision);
  } else {
    if (!inspection.exists && may_act) {
      decision->Do(CreateInspection{});
    } else if (inspection.exists && !of_this_uri && !inspection.terminating && may_act) {
      decision->Do(DeleteInspection{inspection.uid});
    }
    const api::Condition* before = api::FindCondition(decision->old.conditions, "ModelReady");
    if (before != nullptr && before->reason == kUnreadable && !decision->generation_changed()) {
      // While it is tried again, what was wrong stays visible.
      return {before->status, before->reason, before->message};
    }
    const std::string problem =
        of_this_uri && !inspection.problem.empty() ? absl::StrCat(": ", inspection.problem) : "";
    return {"Unknown", decision->frozen() ? "Paused" : "Inspecting",
            absl::StrCat("reading ", uri, problem)};
  }
  const api::ModelStatus& model = *decision->status.model;
  return {"True", "Inspected",
          absl::StrCat(uri, ": ", model.num_layers, " layers with ", model.num_experts,
                       " experts each, ", model.top_k, " chosen per token")};
}

}  // namespace moe::reconcile
