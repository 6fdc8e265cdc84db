// See status_json.h.
#include "controller/api/status_json.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "controller/api/bounded_text.h"
#include "controller/api/field_reader.h"
#include "controller/api/layout_decision_json.h"
#include "controller/api/number_list.h"
#include "controller/api/parse.h"
#include "controller/api/timestamp.h"

namespace moe::api {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxText = 1024;       // of a text that is read and never written longer
constexpr size_t kMaxListText = 16384;  // of a list of slots
constexpr size_t kMaxConditions = 32;
// Those that are wanted, those that surge, and those that still drain.
constexpr size_t kMaxGroups = size_t{4} * kMaxReplicas;
constexpr int kMaxInt = std::numeric_limits<int>::max();

// The bytes that each kind of text may take.
struct TextLimits {
  size_t last_log = kMaxLastLogBytes;
  size_t message = kMaxMessageBytes;
  size_t reason = kMaxReasonBytes;
};

// ---- Writing ----

void Put(Json* object, const char* name, absl::string_view text) {
  if (!text.empty()) {
    (*object)[name] = HeadOf(text, kMaxText);
  }
}

void Put(Json* object, const char* name, uint64_t number) {
  if (number != 0) {
    (*object)[name] = std::min(number, uint64_t{std::numeric_limits<int64_t>::max()});
  }
}

void Put(Json* object, const char* name, absl::Time time) {
  if (time != absl::InfinitePast()) {
    (*object)[name] = FormatTimestamp(time);
  }
}

Json ToJson(const RankStatus& rank) {
  Json json = {{"rank", rank.rank}};
  Put(&json, "pod", rank.pod);
  if (rank.process.has_value()) {
    json["process"] = *rank.process;
  }
  Put(&json, "node", rank.node);
  Put(&json, "experts", rank.experts);
  Put(&json, "phase", rank.phase);
  return json;
}

Json ToJson(const GroupStatus& group, const TextLimits& limits) {
  Json json = {{"index", group.index}};
  Put(&json, "revision", group.revision);
  Put(&json, "phase", group.phase);
  Put(&json, "reason", HeadOf(group.reason, limits.reason));
  Put(&json, "epoch", group.epoch);
  if (group.active) {
    json["active"] = true;
  }
  // Never cut: what they claim must be read back whole.
  if (!group.incarnations.empty()) {
    json["incarnations"] = FormatRuns(group.incarnations);
  }
  if (!group.slot_of_rank.empty()) {
    json["slotOfRank"] = FormatRanges(group.slot_of_rank);
  }
  if (group.ready_spares.has_value()) {
    json["readySpares"] = *group.ready_spares;
  }
  Put(&json, "gangAttempts", static_cast<uint64_t>(std::max(group.gang_attempts, 0)));
  Put(&json, "gangSince", group.gang_since);
  Put(&json, "gangRetryAt", group.gang_retry_at);
  Put(&json, "drainingSince", group.draining_since);
  return json;
}

Json ToJson(const RevisionStatus& revision) {
  const EngineSpec& engine = revision.engine;
  return {{"name", revision.name},
          {"backend", revision.backend == Backend::kCuda ? "CUDA" : "CPU"},
          {"numSlots", revision.num_slots},
          {"gpusPerPod", revision.gpus_per_pod},
          {"numLayers", revision.num_layers},
          {"numExperts", revision.num_experts},
          {"attentionRanks", revision.attention_ranks},
          {"replicatedAttention", revision.replicated_attention},
          {"maxSequences", engine.max_sequences},
          {"maxStepTokens", engine.max_step_tokens},
          {"maxQueue", engine.max_queue},
          {"maxContext", engine.max_context},
          {"kvCacheBytes", engine.kv_cache_bytes},
          {"stepDeadlineSeconds", engine.step_deadline_seconds}};
}

Json ToJson(const ModelShapeStatus& shape) {
  return {{"hiddenSize", shape.hidden},          {"expertIntermediateSize", shape.intermediate},
          {"numHeads", shape.num_heads},         {"numKvHeads", shape.num_kv_heads},
          {"headDim", shape.head_dim},           {"vocabSize", shape.vocab_size},
          {"maxPositions", shape.max_positions}, {"tiedEmbeddings", shape.tied_embeddings}};
}

Json ToJson(const ModelStatus& model) {
  Json json = {{"numLayers", model.num_layers}, {"numExperts", model.num_experts}};
  Put(&json, "uri", model.uri);
  json["topK"] = model.top_k;
  Put(&json, "weightBytes", model.weight_bytes);
  if (model.shape.has_value()) {
    json["shape"] = ToJson(*model.shape);
  }
  if (model.shape_missing) {
    json["shapeMissing"] = true;
  }
  return json;
}

Json ToJson(const FailureStatus& failure, const TextLimits& limits) {
  Json json = {{"group", failure.group}, {"slot", failure.slot}};
  Put(&json, "pod", failure.pod);
  if (failure.rank >= 0) {
    json["rank"] = failure.rank;
  }
  Put(&json, "node", failure.node);
  if (failure.exit_code.has_value()) {
    json["exitCode"] = *failure.exit_code;
  }
  Put(&json, "reason", HeadOf(failure.reason, limits.reason));
  if (const std::string log = TailOf(failure.last_log, limits.last_log); !log.empty()) {
    json["lastLog"] = log;
  }
  Put(&json, "at", failure.at);
  return json;
}

Json ToJson(const StartupStatus& startup) {
  Json json = Json::object();
  Put(&json, "started", startup.started);
  Put(&json, "scheduled", startup.scheduled);
  Put(&json, "imagesPulled", startup.images_pulled);
  Put(&json, "weightsLoaded", startup.weights_loaded);
  Put(&json, "communicator", startup.communicator);
  Put(&json, "firstToken", startup.first_token);
  return json;
}

Json ToJson(const ExpertLoadStatus& load) {
  Json json = {{"tokens", load.tokens}};
  if (std::isfinite(load.max_over_mean)) {
    json["maxOverMean"] = load.max_over_mean;
  }
  Put(&json, "hottest", load.hottest);
  Put(&json, "coldest", load.coldest);
  Put(&json, "at", load.at);
  return json;
}

Json ToJson(const Condition& condition, const TextLimits& limits) {
  return {{"type", condition.type},
          {"status", condition.status},
          {"reason", condition.reason},
          {"message", HeadOf(condition.message, limits.message)},
          {"lastTransitionTime", FormatTimestamp(condition.last_transition)},
          {"observedGeneration", condition.observed_generation}};
}

Json WithoutRanks(const MoEDeploymentStatus& status, const TextLimits& limits) {
  Json json = {{"replicas", status.replicas},
               {"readyReplicas", status.ready_replicas},
               {"updatedReplicas", status.updated_replicas}};
  Put(&json, "observedGeneration",
      static_cast<uint64_t>(std::max<int64_t>(status.observed_generation, 0)));
  Put(&json, "strategy", status.strategy);
  Put(&json, "term", status.term);
  Put(&json, "revision", status.revision);
  for (const RevisionStatus& revision : status.revisions) {
    json["revisions"].push_back(ToJson(revision));
  }
  Put(&json, "workerImage", status.worker_image);
  Put(&json, "gatewayImage", status.gateway_image);
  Put(&json, "workers", status.workers);
  Put(&json, "epoch", status.epoch);
  Put(&json, "url", status.url);
  Put(&json, "hpaPodSelector", status.hpa_pod_selector);
  if (status.model.has_value()) {
    json["model"] = ToJson(*status.model);
  }
  if (status.decision.has_value()) {
    json["decision"] = api::ToJson(*status.decision);
  }
  for (const GroupStatus& group : status.groups) {
    json["groups"].push_back(ToJson(group, limits));
  }
  Put(&json, "nextIncarnation", static_cast<uint64_t>(std::max(status.next_incarnation, 0)));
  Put(&json, "removedEpoch", status.removed_epoch);
  Put(&json, "progressAt", status.progress_at);
  if (status.last_failure.has_value()) {
    json["lastFailure"] = ToJson(*status.last_failure, limits);
  }
  for (const GpuFailureStatus& failure : status.gpu_failures) {
    Json& entry = json["gpuFailures"].emplace_back(Json{{"pod", failure.pod}});
    Put(&entry, "node", failure.node);
    Put(&entry, "at", failure.at);
  }
  if (status.startup.has_value()) {
    json["startup"] = ToJson(*status.startup);
  }
  if (status.expert_load.has_value()) {
    json["expertLoad"] = ToJson(*status.expert_load);
  }
  for (const Condition& condition : status.conditions) {
    json["conditions"].push_back(ToJson(condition, limits));
  }
  return json;
}

// Adds the lists of ranks as far as `budget` bytes go.
void AddRanks(const MoEDeploymentStatus& status, size_t budget, Json* json) {
  // What "ranks":[...] and "ranksLeftOut":2048 take beside the entries.
  constexpr size_t kGroupOverhead = 40;
  budget -= std::min(budget, kGroupOverhead * status.groups.size());
  std::vector<std::vector<bool>> kept;
  kept.reserve(status.groups.size());
  for (const GroupStatus& group : status.groups) {
    kept.emplace_back(group.ranks.size(), false);
  }
  for (const bool active : {false, true}) {
    for (size_t g = 0; g < status.groups.size(); ++g) {
      const std::vector<RankStatus>& ranks = status.groups[g].ranks;
      for (size_t r = 0; r < ranks.size(); ++r) {
        if ((ranks[r].phase == "Active") != active) {
          continue;
        }
        const size_t size = ToJson(ranks[r]).dump().size() + 1;
        if (size <= budget) {
          budget -= size;
          kept[g][r] = true;
        }
      }
    }
  }
  for (size_t g = 0; g < status.groups.size(); ++g) {
    const GroupStatus& group = status.groups[g];
    Json& entry = (*json)["groups"][g];
    int left_out = std::max(group.ranks_left_out, 0);
    for (size_t r = 0; r < group.ranks.size(); ++r) {
      if (kept[g][r]) {
        entry["ranks"].push_back(ToJson(group.ranks[r]));
      } else {
        ++left_out;
      }
    }
    Put(&entry, "ranksLeftOut", static_cast<uint64_t>(left_out));
  }
}

// ---- Reading ----

void ReadList(const FieldReader& fields, absl::string_view name,
              absl::StatusOr<std::vector<int>> (*parse)(absl::string_view, size_t),
              std::vector<int>* out) {
  std::string text;
  fields.String(name, kMaxListText, &text);
  absl::StatusOr<std::vector<int>> list = parse(text, kMaxExpert);
  if (!list.ok()) {
    fields.Fail(name, list.status().message());
    return;
  }
  *out = *std::move(list);
}

void Read(const FieldReader& fields, GroupStatus* group) {
  fields.Integer("index", 0, kMaxInt, &group->index);
  fields.String("revision", kMaxText, &group->revision);
  fields.String("phase", kMaxText, &group->phase);
  fields.String("reason", kMaxText, &group->reason);
  fields.Count("epoch", &group->epoch);
  fields.Boolean("active", &group->active);
  ReadList(fields, "incarnations", ParseRuns, &group->incarnations);
  ReadList(fields, "slotOfRank", ParseRanges, &group->slot_of_rank);
  fields.Integer("readySpares", 0, kMaxExpert, &group->ready_spares);
  fields.Integer("gangAttempts", 0, kMaxInt, &group->gang_attempts);
  fields.Timestamp("gangSince", &group->gang_since);
  fields.Timestamp("gangRetryAt", &group->gang_retry_at);
  fields.Timestamp("drainingSince", &group->draining_since);
  for (const FieldReader& entry : fields.Objects("ranks", kMaxExpert)) {
    RankStatus& rank = group->ranks.emplace_back();
    entry.Integer("rank", 0, kMaxExpert, &rank.rank);
    entry.String("pod", kMaxText, &rank.pod);
    entry.Integer("process", 0, kMaxGpusPerPod - 1, &rank.process);
    entry.String("node", kMaxText, &rank.node);
    entry.String("experts", kMaxText, &rank.experts);
    entry.String("phase", kMaxText, &rank.phase);
  }
  fields.Integer("ranksLeftOut", 0, kMaxInt, &group->ranks_left_out);
}

void Read(const FieldReader& fields, RevisionStatus* revision) {
  fields.String("name", kMaxText, &revision->name);
  fields.Choice<Backend>("backend", {{"CPU", Backend::kCpu}, {"CUDA", Backend::kCuda}},
                         &revision->backend);
  fields.Integer("numSlots", 0, kMaxExpert, &revision->num_slots);
  fields.Integer("gpusPerPod", 1, kMaxGpusPerPod, &revision->gpus_per_pod);
  fields.Integer("numLayers", 0, kMaxInt, &revision->num_layers);
  fields.Integer("numExperts", 0, kMaxInt, &revision->num_experts);
  fields.Integer("attentionRanks", 0, kMaxExpert, &revision->attention_ranks);
  fields.Boolean("replicatedAttention", &revision->replicated_attention);
  EngineSpec& engine = revision->engine;
  fields.Integer("maxSequences", 0, kMaxInt, &engine.max_sequences);
  fields.Integer("maxStepTokens", 0, kMaxInt, &engine.max_step_tokens);
  fields.Integer("maxQueue", 0, kMaxInt, &engine.max_queue);
  fields.Integer("maxContext", 0, kMaxInt, &engine.max_context);
  fields.Count("kvCacheBytes", &engine.kv_cache_bytes);
  fields.Number("stepDeadlineSeconds", &engine.step_deadline_seconds);
}

void Read(const FieldReader& fields, ModelShapeStatus* shape) {
  fields.Integer("hiddenSize", 0, kMaxInt, &shape->hidden);
  fields.Integer("expertIntermediateSize", 0, kMaxInt, &shape->intermediate);
  fields.Integer("numHeads", 0, kMaxInt, &shape->num_heads);
  fields.Integer("numKvHeads", 0, kMaxInt, &shape->num_kv_heads);
  fields.Integer("headDim", 0, kMaxInt, &shape->head_dim);
  fields.Integer("vocabSize", 0, kMaxInt, &shape->vocab_size);
  fields.Integer("maxPositions", 0, kMaxInt, &shape->max_positions);
  fields.Boolean("tiedEmbeddings", &shape->tied_embeddings);
}

void Read(const FieldReader& fields, ModelStatus* model) {
  fields.String("uri", kMaxText, &model->uri);
  fields.Integer("numLayers", 0, kMaxInt, &model->num_layers);
  fields.Integer("numExperts", 0, kMaxInt, &model->num_experts);
  fields.Integer("topK", 0, kMaxInt, &model->top_k);
  fields.Count("weightBytes", &model->weight_bytes);
  if (fields.Has("shape")) {
    Read(fields.Object("shape"), &model->shape.emplace());
  }
  fields.Boolean("shapeMissing", &model->shape_missing);
}

void Read(const FieldReader& fields, FailureStatus* failure) {
  fields.String("pod", kMaxText, &failure->pod);
  fields.Integer("group", 0, kMaxInt, &failure->group);
  fields.Integer("slot", 0, kMaxInt, &failure->slot);
  fields.Integer("rank", 0, kMaxInt, &failure->rank);
  fields.String("node", kMaxText, &failure->node);
  fields.Integer("exitCode", std::numeric_limits<int>::min(), kMaxInt, &failure->exit_code);
  fields.String("reason", kMaxText, &failure->reason);
  fields.String("lastLog", kMaxLastLogBytes, &failure->last_log);
  fields.Timestamp("at", &failure->at);
}

void Read(const FieldReader& fields, StartupStatus* startup) {
  fields.Timestamp("started", &startup->started);
  fields.Timestamp("scheduled", &startup->scheduled);
  fields.Timestamp("imagesPulled", &startup->images_pulled);
  fields.Timestamp("weightsLoaded", &startup->weights_loaded);
  fields.Timestamp("communicator", &startup->communicator);
  fields.Timestamp("firstToken", &startup->first_token);
}

void Read(const FieldReader& fields, ExpertLoadStatus* load) {
  fields.Count("tokens", &load->tokens);
  fields.Number("maxOverMean", &load->max_over_mean);
  fields.String("hottest", kMaxText, &load->hottest);
  fields.String("coldest", kMaxText, &load->coldest);
  fields.Timestamp("at", &load->at);
}

void Read(const FieldReader& fields, Condition* condition) {
  fields.String("type", kMaxText, &condition->type);
  fields.String("status", kMaxText, &condition->status);
  fields.String("reason", kMaxText, &condition->reason);
  fields.String("message", kMaxMessageBytes, &condition->message);
  fields.Timestamp("lastTransitionTime", &condition->last_transition);
  fields.Integer("observedGeneration", 0, std::numeric_limits<int64_t>::max(),
                 &condition->observed_generation);
}

template <typename Part>
void ReadOptional(const FieldReader& fields, absl::string_view name, std::optional<Part>* part) {
  if (fields.Has(name)) {
    Read(fields.Object(name), &part->emplace());
  }
}

}  // namespace

Json StatusToJson(const MoEDeploymentStatus& status) {
  TextLimits limits;
  Json json = WithoutRanks(status, limits);
  size_t size = json.dump().size();
  // What is left out here could be said better by nothing: many failures with long words.
  while (size > kMaxStatusBytes && limits.reason > 1) {
    limits = {limits.last_log / 2, limits.message / 2, limits.reason / 2};
    json = WithoutRanks(status, limits);
    size = json.dump().size();
  }
  AddRanks(status, kMaxStatusBytes - std::min(size, kMaxStatusBytes), &json);
  return json;
}

absl::StatusOr<MoEDeploymentStatus> StatusFromJson(const Json& json) {
  absl::Status error;
  const FieldReader fields(json, "status", &error);
  MoEDeploymentStatus status;
  fields.Integer("observedGeneration", 0, std::numeric_limits<int64_t>::max(),
                 &status.observed_generation);
  fields.String("strategy", kMaxText, &status.strategy);
  fields.Count("term", &status.term);
  fields.Integer("replicas", 0, kMaxInt, &status.replicas);
  fields.Integer("readyReplicas", 0, kMaxInt, &status.ready_replicas);
  fields.Integer("updatedReplicas", 0, kMaxInt, &status.updated_replicas);
  fields.String("revision", kMaxText, &status.revision);
  for (const FieldReader& entry : fields.Objects("revisions", kMaxGroups)) {
    Read(entry, &status.revisions.emplace_back());
  }
  fields.String("workerImage", kMaxText, &status.worker_image);
  fields.String("gatewayImage", kMaxText, &status.gateway_image);
  fields.String("workers", kMaxText, &status.workers);
  fields.Count("epoch", &status.epoch);
  fields.String("url", kMaxText, &status.url);
  fields.String("hpaPodSelector", kMaxText, &status.hpa_pod_selector);
  ReadOptional(fields, "model", &status.model);
  if (fields.Has("decision")) {
    api::Read(fields.Object("decision"), &status.decision.emplace());
  }
  for (const FieldReader& entry : fields.Objects("groups", kMaxGroups)) {
    Read(entry, &status.groups.emplace_back());
  }
  fields.Integer("nextIncarnation", 0, kMaxInt, &status.next_incarnation);
  fields.Count("removedEpoch", &status.removed_epoch);
  fields.Timestamp("progressAt", &status.progress_at);
  ReadOptional(fields, "lastFailure", &status.last_failure);
  for (const FieldReader& entry : fields.Objects("gpuFailures", kMaxGpuFailures)) {
    GpuFailureStatus& failure = status.gpu_failures.emplace_back();
    entry.String("pod", kMaxText, &failure.pod);
    entry.String("node", kMaxText, &failure.node);
    entry.Timestamp("at", &failure.at);
  }
  ReadOptional(fields, "startup", &status.startup);
  ReadOptional(fields, "expertLoad", &status.expert_load);
  for (const FieldReader& entry : fields.Objects("conditions", kMaxConditions)) {
    Read(entry, &status.conditions.emplace_back());
  }
  if (!error.ok()) {
    return error;
  }
  return status;
}

bool SameStatus(const MoEDeploymentStatus& a, const MoEDeploymentStatus& b) {
  return StatusToJson(a) == StatusToJson(b);
}

}  // namespace moe::api
