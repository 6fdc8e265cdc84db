#include "controller/api/layout_decision_json.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "controller/api/bounded_text.h"
#include "controller/api/timestamp.h"

namespace moe::api {
namespace {

using Json = nlohmann::json;

constexpr int kMaxInt = std::numeric_limits<int>::max();

void Put(Json* object, const char* name, absl::string_view text) {
  if (!text.empty()) {
    (*object)[name] = HeadOf(text, kMaxDecisionText);
  }
}

void Put(Json* object, const char* name, double number) {
  if (std::isfinite(number)) {
    (*object)[name] = number;
  }
}

Json ToJson(const LayoutFigures& figures) {
  Json json = {{"sequences", figures.sequences}};
  Put(&json, "passMilliseconds", figures.pass_milliseconds);
  Put(&json, "tokensPerSecond", figures.tokens_per_second);
  Put(&json, "requestsPerSecond", figures.requests_per_second);
  json["gpuMemoryBytes"] =
      std::min(figures.gpu_memory_bytes, uint64_t{std::numeric_limits<int64_t>::max()});
  Put(&json, "limitedBy", figures.limited_by);
  return json;
}

Json ToJson(const LayoutChoice& choice) {
  Json json = {{"expert", choice.expert}, {"attentionRanks", choice.attention_ranks}};
  Put(&json, "layout", choice.layout);
  if (choice.replicated_attention) {
    json["replicatedAttention"] = true;
  }
  if (choice.num_gpus > 0) {
    json["gpus"] = choice.num_gpus;
  }
  if (choice.figures.has_value()) {
    json["figures"] = ToJson(*choice.figures);
  }
  Put(&json, "needs", choice.needs);
  return json;
}

Json ToJson(const PlainReplicas& plain) {
  Json json = {{"better", plain.better}};
  if (plain.replicas > 0) {
    json["replicas"] = plain.replicas;
  }
  if (plain.figures.has_value()) {
    json["figures"] = ToJson(*plain.figures);
  }
  Put(&json, "reason", plain.reason);
  return json;
}

void Read(const FieldReader& fields, LayoutFigures* figures) {
  fields.Integer("sequences", 0, kMaxInt, &figures->sequences);
  fields.Number("passMilliseconds", &figures->pass_milliseconds);
  fields.Number("tokensPerSecond", &figures->tokens_per_second);
  fields.Number("requestsPerSecond", &figures->requests_per_second);
  fields.Count("gpuMemoryBytes", &figures->gpu_memory_bytes);
  fields.String("limitedBy", kMaxDecisionText, &figures->limited_by);
}

void Read(const FieldReader& fields, LayoutChoice* choice) {
  fields.String("layout", kMaxDecisionText, &choice->layout);
  fields.Integer("expert", 0, kMaxInt, &choice->expert);
  fields.Integer("attentionRanks", 0, kMaxInt, &choice->attention_ranks);
  fields.Boolean("replicatedAttention", &choice->replicated_attention);
  fields.Integer("gpus", 0, kMaxInt, &choice->num_gpus);
  if (fields.Has("figures")) {
    Read(fields.Object("figures"), &choice->figures.emplace());
  }
  fields.String("needs", kMaxDecisionText, &choice->needs);
}

void Read(const FieldReader& fields, PlainReplicas* plain) {
  fields.Boolean("better", &plain->better);
  fields.Integer("replicas", 0, kMaxInt, &plain->replicas);
  if (fields.Has("figures")) {
    Read(fields.Object("figures"), &plain->figures.emplace());
  }
  fields.String("reason", kMaxDecisionText, &plain->reason);
}

template <typename Part>
void ReadOptional(const FieldReader& fields, absl::string_view name, std::optional<Part>* part) {
  if (fields.Has(name)) {
    Read(fields.Object(name), &part->emplace());
  }
}

}  // namespace

Json ToJson(const LayoutDecision& decision) {
  Json json = {{"chosen", ToJson(decision.choice)}};
  Put(&json, "basis", decision.basis);
  Put(&json, "because", decision.because);
  Put(&json, "gpus", decision.gpus);
  Put(&json, "assumptions", decision.assumptions);
  for (const LayoutChoice& alternative : decision.alternatives) {
    json["alternatives"].push_back(ToJson(alternative));
  }
  if (decision.plain_replicas.has_value()) {
    json["plainReplicas"] = ToJson(*decision.plain_replicas);
  }
  if (decision.proposed.has_value()) {
    json["proposed"] = ToJson(*decision.proposed);
  }
  Put(&json, "proposedGpus", decision.proposed_gpus);
  Put(&json, "reviewProblem", decision.review_problem);
  if (decision.decided_at != absl::InfinitePast()) {
    json["decidedAt"] = FormatTimestamp(decision.decided_at);
  }
  Put(&json, "specKey", decision.spec_key);
  Put(&json, "inputsKey", decision.inputs_key);
  Put(&json, "adoptionSeen", decision.adoption_seen);
  return json;
}

void Read(const FieldReader& fields, LayoutDecision* decision) {
  Read(fields.Object("chosen"), &decision->choice);
  fields.String("basis", kMaxDecisionText, &decision->basis);
  fields.String("because", kMaxDecisionText, &decision->because);
  fields.String("gpus", kMaxDecisionText, &decision->gpus);
  fields.String("assumptions", kMaxDecisionText, &decision->assumptions);
  for (const FieldReader& entry : fields.Objects("alternatives", kMaxAlternatives)) {
    Read(entry, &decision->alternatives.emplace_back());
  }
  ReadOptional(fields, "plainReplicas", &decision->plain_replicas);
  ReadOptional(fields, "proposed", &decision->proposed);
  fields.String("proposedGpus", kMaxDecisionText, &decision->proposed_gpus);
  fields.String("reviewProblem", kMaxDecisionText, &decision->review_problem);
  fields.Timestamp("decidedAt", &decision->decided_at);
  fields.String("specKey", kMaxDecisionText, &decision->spec_key);
  fields.String("inputsKey", kMaxDecisionText, &decision->inputs_key);
  fields.String("adoptionSeen", kMaxDecisionText, &decision->adoption_seen);
}

}  // namespace moe::api
