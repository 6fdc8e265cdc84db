// See parse.h.
#include "controller/api/parse.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "controller/api/bounded_text.h"
#include "controller/api/field_reader.h"
#include "controller/api/layout_decision_json.h"
#include "controller/api/status_json.h"

namespace moe::api {
namespace {

using Json = nlohmann::json;

constexpr int kMaxInt = std::numeric_limits<int>::max();
constexpr size_t kMaxNameBytes = 253;  // of a Kubernetes object
constexpr size_t kMaxUriBytes = 1024;

bool IsLabelChar(char c) {
  return absl::ascii_islower(static_cast<unsigned char>(c)) ||
         absl::ascii_isdigit(static_cast<unsigned char>(c)) || c == '-';
}

// Lower-case letters, digits and '-'.
bool IsDnsLabel(absl::string_view label) {
  return !label.empty() && label.size() <= 63 && label.front() != '-' && label.back() != '-' &&
         absl::c_all_of(label, IsLabelChar);
}

// RFC 1123: labels joined by dots.
bool IsDnsName(absl::string_view name) {
  return name.size() <= kMaxNameBytes && absl::c_all_of(absl::StrSplit(name, '.'), IsDnsLabel);
}

// "4,096", as people read it.
std::string WithThousands(int64_t number) {
  std::string text = absl::StrCat(number);
  for (size_t at = text.size(); at > 3; at -= 3) {
    text.insert(at - 3, ",");
  }
  return text;
}

// An optional name of another object.
void ReadName(const FieldReader& fields, absl::string_view field, std::string* out) {
  fields.String(field, kMaxNameBytes, out);
  if (fields.Has(field) && !IsDnsName(*out)) {
    fields.Fail(field, "must be a name of lower-case letters, digits, '-' and '.'");
  }
}

void ReadModel(const FieldReader& fields, ModelSpec* model) {
  fields.String("name", 128, &model->name);
  if (model->name.empty()) {
    fields.Fail("name", "write what clients call the model, for example olmoe-1b-7b");
  }
  for (const char c : model->name) {
    if (!absl::ascii_isgraph(static_cast<unsigned char>(c)) || c == '"' || c == '\\') {
      fields.Fail("name", "must be letters, digits and punctuation without quotes or blanks");
    }
  }
  fields.String("uri", kMaxUriBytes, &model->uri);
  if (const absl::StatusOr<ModelLocation> location = ParseModelUri(model->uri); !location.ok()) {
    fields.Fail("uri", location.status().message());
  }
}

void ReadParallelism(const FieldReader& fields, int replicas, ParallelismSpec* parallelism) {
  fields.Choice<bool>("mode", {{"Fixed", false}, {"Auto", true}}, &parallelism->automatic);
  fields.Integer("expert", 1, kMaxExpert, &parallelism->expert);
  fields.Integer("tensor", 1, kMaxExpert, &parallelism->tensor);
  fields.Integer("pipeline", 1, kMaxExpert, &parallelism->pipeline);
  fields.Choice<Attention>("attention",
                           {{"Auto", Attention::kAuto},
                            {"Sharded", Attention::kSharded},
                            {"Replicated", Attention::kReplicated}},
                           &parallelism->attention);
  fields.Integer("attentionRanks", 1, kMaxExpert, &parallelism->attention_ranks);
  fields.Choice<Exchange>(
      "exchange", {{"Auto", Exchange::kAuto}, {"Tcp", Exchange::kTcp}, {"Nccl", Exchange::kNccl}},
      &parallelism->exchange);
  if (parallelism->automatic == fields.Has("expert")) {
    fields.Fail("expert", parallelism->automatic
                              ? "leave it out with mode: Auto, or write mode: Fixed"
                              : "write the number of workers, for example 64, or mode: Auto");
  }
  if (parallelism->tensor > 1 || parallelism->pipeline > 1) {
    const int expert = std::max(parallelism->expert, 1);
    fields.Fail(
        parallelism->tensor > 1 ? "tensor" : "pipeline",
        absl::StrCat(
            "EP", expert, " x TP", parallelism->tensor, " x PP", parallelism->pipeline, " x DP",
            replicas, " needs ",
            WithThousands(int64_t{expert} * parallelism->tensor * parallelism->pipeline * replicas),
            " workers, and tensor and pipeline parallelism are not built yet: write "
            "tensor: 1 and pipeline: 1, which needs ",
            expert, " x ", replicas));
  }
  if (parallelism->attention_ranks.has_value()) {
    if (parallelism->attention == Attention::kReplicated) {
      fields.Fail("attentionRanks", "leave it out with attention: Replicated");
    }
    if (!parallelism->automatic && *parallelism->attention_ranks > parallelism->expert) {
      fields.Fail("attentionRanks",
                  absl::StrCat("must be at most expert, which is ", parallelism->expert));
    }
  }
  if (int64_t{std::max(parallelism->expert, 1)} * replicas > kMaxWorkers) {
    fields.Fail("expert", absl::StrCat(parallelism->expert, " workers x ", replicas,
                                       " replicas are more than the ", WithThousands(kMaxWorkers),
                                       " workers of one MoEDeployment: write several of them"));
  }
}

void ReadEngine(const FieldReader& fields, EngineSpec* engine) {
  fields.Integer("maxSequences", 1, 65536, &engine->max_sequences);
  fields.Integer("maxStepTokens", 1, 1 << 20, &engine->max_step_tokens);
  fields.Integer("maxQueue", 0, 1 << 20, &engine->max_queue);
  fields.Integer("maxContext", 0, kMaxInt, &engine->max_context);
  fields.Quantity("kvCacheMemory", &engine->kv_cache_bytes);
  absl::Duration deadline = absl::Seconds(engine->step_deadline_seconds);
  fields.Duration("stepDeadline", absl::Seconds(1), absl::Hours(1), &deadline);
  engine->step_deadline_seconds = absl::ToDoubleSeconds(deadline);
}

void ReadWorker(const FieldReader& fields, Backend backend, const ParallelismSpec& parallelism,
                WorkerSpec* worker) {
  fields.Integer("spares", 0, kMaxSpares, &worker->spares);
  fields.Integer("expertCopies", 1, kMaxExpert, &worker->expert_copies);
  if (worker->expert_copies > 1) {
    fields.Fail("expertCopies", "spare copies of experts are not built yet: write expertCopies: 1");
  }
  fields.Integer("gpusPerPod", 1, kMaxGpusPerPod, &worker->gpus_per_pod);
  if (!parallelism.automatic && parallelism.expert % worker->gpus_per_pod != 0) {
    fields.Fail("gpusPerPod",
                absl::StrCat(parallelism.expert, " workers can't be put into pods of ",
                             worker->gpus_per_pod, ": write a gpusPerPod that divides ",
                             "parallelism.expert, or 1"));
  }
  fields.Boolean("nvlinkAcrossPods", &worker->nvlink_across_pods);
  if (worker->nvlink_across_pods && backend != Backend::kCuda) {
    fields.Fail("nvlinkAcrossPods",
                "needs GPUs: write backend: CUDA, or leave nvlinkAcrossPods out");
  }
  if (worker->nvlink_across_pods && worker->gpus_per_pod > 1) {
    fields.Fail("nvlinkAcrossPods",
                "is for pods with one GPU; the workers of one pod use NVLink without it: leave "
                "nvlinkAcrossPods out, or write gpusPerPod: 1");
  }
  fields.Duration("gangTimeout", absl::Seconds(1), absl::Hours(24), &worker->gang_timeout);
  fields.Raw("podTemplate", &worker->pod_template);
}

void ReadGateway(const FieldReader& fields, GatewaySpec* gateway) {
  fields.Integer("replicas", 1, 100, &gateway->replicas);
  fields.Duration("maxHold", absl::ZeroDuration(), absl::Hours(1), &gateway->max_hold);
  if (fields.Has("apiKeySecretRef")) {
    const FieldReader secret = fields.Object("apiKeySecretRef");
    ReadName(secret, "name", &gateway->api_key_secret_name);
    if (gateway->api_key_secret_name.empty()) {
      secret.Fail("name", "write the name of a Secret of this namespace");
    }
    secret.String("key", kMaxNameBytes, &gateway->api_key_secret_key);
    if (gateway->api_key_secret_key.empty()) {
      secret.Fail("key", "write a key of the Secret, for example api-key");
    }
  }
  fields.Raw("podTemplate", &gateway->pod_template);
}

void ReadIngress(const FieldReader& fields, IngressSpec* ingress) {
  fields.String("host", kMaxNameBytes, &ingress->host);
  absl::string_view host = ingress->host;
  absl::ConsumePrefix(&host, "*.");
  if (!IsDnsName(host)) {
    fields.Fail("host", "write a host name, for example moe.example.com");
  }
  ReadName(fields, "className", &ingress->class_name);
  ReadName(fields, "tlsSecretName", &ingress->tls_secret_name);
  fields.StringMap("annotations", 64, &ingress->annotations);
}

void ReadIntOrPercent(const FieldReader& fields, absl::string_view name, IntOrPercent* out) {
  const Json* value = fields.Find(name);
  if (value == nullptr) {
    return;
  }
  if (!value->is_string()) {
    *out = {};
    fields.Integer(name, 0, kMaxReplicas, &out->value);
    return;
  }
  absl::string_view digits = value->get_ref<const std::string&>();
  int percent = 0;
  if (!absl::ConsumeSuffix(&digits, "%") || digits.empty() || digits.size() > 3 ||
      !absl::c_all_of(digits, [](unsigned char c) { return absl::ascii_isdigit(c); }) ||
      !absl::SimpleAtoi(digits, &percent) || percent > 100) {
    fields.Fail(name, "must be a number of groups or a percentage such as 25%");
    return;
  }
  *out = {percent, true};
}

void ReadUpdateStrategy(const FieldReader& fields, UpdateStrategySpec* strategy) {
  ReadIntOrPercent(fields, "maxUnavailable", &strategy->max_unavailable);
  ReadIntOrPercent(fields, "maxSurge", &strategy->max_surge);
  if (strategy->max_unavailable.value == 0 && strategy->max_surge.value == 0) {
    fields.Fail("maxSurge",
                "nothing could be updated with maxUnavailable and maxSurge both 0: write 1 for one "
                "of them");
  }
}

void ReadMetadata(const FieldReader& fields, MoEDeployment* deployment) {
  fields.String("namespace", kMaxNameBytes, &deployment->ns);
  fields.String("name", kMaxNameBytes, &deployment->name);
  if (deployment->ns.empty() || deployment->name.empty()) {
    fields.Fail(deployment->ns.empty() ? "namespace" : "name", "is missing");
  }
  fields.String("uid", 64, &deployment->uid);
  fields.String("resourceVersion", 64, &deployment->resource_version);
  fields.Integer("generation", 0, std::numeric_limits<int64_t>::max(), &deployment->generation);
  deployment->created_at = absl::InfinitePast();
  fields.Timestamp("creationTimestamp", &deployment->created_at);
  deployment->deleting = fields.Has("deletionTimestamp");
  const Json* paused = fields.Object("annotations").Find("moe-operator.dev/paused");
  deployment->paused = paused != nullptr && *paused == "true";
  const Json* adopt = fields.Object("annotations").Find("moe-operator.dev/adopt-layout");
  if (adopt != nullptr && adopt->is_string()) {
    deployment->adopt_layout = HeadOf(adopt->get_ref<const std::string&>(), kMaxDecisionText);
  }
}

}  // namespace

absl::StatusOr<ModelLocation> ParseModelUri(absl::string_view uri) {
  const auto refuse = [&uri](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat(
        why, uri.empty() ? "" : absl::StrCat(" ('", absl::CHexEscape(uri.substr(0, 128)), "')"),
        ": write pvc://CLAIM/PATH or file:///PATH"));
  };
  ModelLocation location;
  absl::string_view path = uri;
  if (absl::ConsumePrefix(&path, "pvc://")) {
    const size_t slash = path.find('/');
    if (slash == absl::string_view::npos) {
      return refuse("no '/' follows the claim");
    }
    location.claim = std::string(path.substr(0, slash));
    if (!IsDnsName(location.claim)) {
      return refuse("this is no name of a claim");
    }
    path.remove_prefix(slash + 1);
  } else if (!absl::ConsumePrefix(&path, "file:///")) {
    return refuse("a model comes from a PersistentVolumeClaim or from a path of the container");
  }
  std::vector<absl::string_view> parts;
  for (const absl::string_view part : absl::StrSplit(path, '/')) {
    if (part == "..") {
      return refuse("a path has no '..'");
    }
    if (!part.empty() && part != ".") {
      parts.push_back(part);
    }
    for (const char c : part) {
      if (absl::ascii_iscntrl(static_cast<unsigned char>(c))) {
        return refuse("a path has no control characters");
      }
    }
  }
  location.path = absl::StrJoin(parts, "/");
  if (location.claim.empty()) {
    if (parts.empty()) {
      return refuse("the path is empty");
    }
    location.path.insert(0, "/");
  }
  return location;
}

absl::StatusOr<MoEDeploymentSpec> ParseSpec(const Json& json) {
  absl::Status error;
  const FieldReader fields(json, "spec", &error);
  MoEDeploymentSpec spec;
  for (const absl::string_view name : {"model", "parallelism"}) {
    if (!fields.Has(name)) {
      fields.Fail(name, "is missing");
    }
  }
  ReadModel(fields.Object("model"), &spec.model);
  fields.Integer("replicas", 0, kMaxReplicas, &spec.replicas);
  ReadParallelism(fields.Object("parallelism"), spec.replicas, &spec.parallelism);
  fields.Choice<Backend>("backend", {{"CPU", Backend::kCpu}, {"CUDA", Backend::kCuda}},
                         &spec.backend);
  if (spec.backend == Backend::kCpu && spec.parallelism.exchange == Exchange::kNccl) {
    fields.Fail("parallelism.exchange", "Nccl needs backend: CUDA: write exchange: Tcp or Auto");
  }
  if (spec.backend == Backend::kCuda && spec.parallelism.exchange == Exchange::kTcp) {
    fields.Fail("parallelism.exchange", "Tcp needs backend: CPU: write exchange: Nccl or Auto");
  }
  ReadEngine(fields.Object("engine"), &spec.engine);
  ReadWorker(fields.Object("worker"), spec.backend, spec.parallelism, &spec.worker);
  ReadGateway(fields.Object("gateway"), &spec.gateway);
  if (fields.Has("ingress")) {
    ReadIngress(fields.Object("ingress"), &spec.ingress.emplace());
  }
  ReadUpdateStrategy(fields.Object("updateStrategy"), &spec.update_strategy);
  int deadline = static_cast<int>(absl::ToInt64Seconds(spec.progress_deadline));
  fields.Integer("progressDeadlineSeconds", 1, kMaxInt, &deadline);
  spec.progress_deadline = absl::Seconds(deadline);
  if (!error.ok()) {
    return error;
  }
  return spec;
}

absl::StatusOr<ParsedDeployment> ParseMoEDeployment(const Json& object) {
  absl::Status error;
  const FieldReader fields(object, "", &error);
  ParsedDeployment parsed;
  ReadMetadata(fields.Object("metadata"), &parsed.deployment);
  if (!error.ok()) {
    return error;
  }
  const Json* status = fields.Find("status");
  absl::StatusOr<MoEDeploymentStatus> read = StatusFromJson(status == nullptr ? Json() : *status);
  if (!read.ok()) {
    return read.status();
  }
  parsed.deployment.status = *std::move(read);
  const Json* spec = fields.Find("spec");
  absl::StatusOr<MoEDeploymentSpec> parsed_spec = ParseSpec(spec == nullptr ? Json() : *spec);
  parsed.spec_status = parsed_spec.status();
  const std::string& name = parsed.deployment.name;
  if (parsed.spec_status.ok() &&
      (name.size() > kMaxNameLength || !IsDnsLabel(name) || name.front() < 'a')) {
    parsed.spec_status = absl::InvalidArgumentError(
        absl::StrCat("metadata.name: must be a label of at most ", kMaxNameLength,
                     " bytes that begins with a letter, so that names of pods and Services fit"));
  }
  if (parsed.spec_status.ok()) {
    parsed.deployment.spec = *std::move(parsed_spec);
  }
  return parsed;
}

}  // namespace moe::api
