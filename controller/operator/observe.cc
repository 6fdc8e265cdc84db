#include "controller/operator/observe.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "controller/api/timestamp.h"
#include "controller/manifests/names.h"
#include "controller/operator/pod_state.h"

namespace moe::controller {
namespace {

using kube::Json;
using reconcile::ObservedGateway;
using reconcile::ObservedGroup;
using reconcile::ObservedInspection;
using reconcile::ObservedPod;

const Json* At(const Json& object, std::initializer_list<const char*> path) {
  const Json* value = &object;
  for (const char* key : path) {
    if (!value->is_object()) return nullptr;
    const auto found = value->find(key);
    if (found == value->end()) return nullptr;
    value = &*found;
  }
  return value;
}

std::string TextAt(const Json& object, std::initializer_list<const char*> path) {
  const Json* value = At(object, path);
  return value != nullptr && value->is_string() ? value->get<std::string>() : "";
}

std::optional<int64_t> IntAt(const Json& object, std::initializer_list<const char*> path) {
  const Json* value = At(object, path);
  if (value == nullptr || !value->is_number_integer()) return std::nullopt;
  return value->get<int64_t>();
}

const Json& ListAt(const Json& object, std::initializer_list<const char*> path) {
  static const auto* const kEmpty = new Json(Json::array());
  const Json* value = At(object, path);
  return value != nullptr && value->is_array() ? *value : *kEmpty;
}

absl::Time TimeAt(const Json& object, std::initializer_list<const char*> path) {
  const absl::StatusOr<absl::Time> time = api::ParseTimestamp(TextAt(object, path));
  return time.ok() ? *time : absl::InfinitePast();
}

// The condition of a type in status.conditions, or null.
const Json* ConditionOf(const Json& object, absl::string_view type) {
  for (const Json& condition : ListAt(object, {"status", "conditions"})) {
    if (TextAt(condition, {"type"}) == type) return &condition;
  }
  return nullptr;
}

const Json* StatusOfContainer(const Json& pod, absl::string_view name) {
  for (const Json& status : ListAt(pod, {"status", "containerStatuses"})) {
    if (TextAt(status, {"name"}) == name) return &status;
  }
  return nullptr;
}

// What every pod passes through says nothing.
bool IsOrdinary(absl::string_view waiting_reason) {
  return waiting_reason.empty() || waiting_reason == "ContainerCreating" ||
         waiting_reason == "PodInitializing";
}

struct Waiting {
  std::string reason;
  std::string message;
};

Waiting WaitingOf(const Json& pod) {
  for (const char* list : {"initContainerStatuses", "containerStatuses"}) {
    for (const Json& status : ListAt(pod, {"status", list})) {
      Waiting waiting{TextAt(status, {"state", "waiting", "reason"}),
                      TextAt(status, {"state", "waiting", "message"})};
      if (!IsOrdinary(waiting.reason)) return waiting;
    }
  }
  return {};
}

std::string UnschedulableOf(const Json& pod) {
  const Json* scheduled = ConditionOf(pod, "PodScheduled");
  if (scheduled == nullptr || TextAt(*scheduled, {"status"}) != "False" ||
      TextAt(*scheduled, {"reason"}) != "Unschedulable") {
    return "";
  }
  return TextAt(*scheduled, {"message"});
}

struct Ending {
  std::optional<int> exit_code;
  std::string reason;
  std::string message;
};

// How the pod ended: by its worker, else by what failed before it, else as the kubelet says.
Ending EndingOf(const Json& pod) {
  Ending ending;
  const auto read = [&ending](const Json& status) {
    const std::optional<int64_t> code = IntAt(status, {"state", "terminated", "exitCode"});
    if (!code.has_value()) return false;
    ending.exit_code = static_cast<int>(*code);
    ending.reason = TextAt(status, {"state", "terminated", "reason"});
    ending.message = TextAt(status, {"state", "terminated", "message"});
    return true;
  };
  const Json* worker = StatusOfContainer(pod, manifests::kWorker);
  if (worker == nullptr || !read(*worker)) {
    for (const Json& status : ListAt(pod, {"status", "initContainerStatuses"})) {
      if (IntAt(status, {"state", "terminated", "exitCode"}).value_or(0) == 0) continue;
      read(status);
      ending.message = absl::StrCat("init container ", TextAt(status, {"name"}), " failed",
                                    ending.message.empty() ? "" : ": ", ending.message);
    }
  }
  // Evicted, Preempted, NodeLost: the pod's own reason tells more than the container's "Error".
  if (const std::string reason = TextAt(pod, {"status", "reason"}); !reason.empty()) {
    ending.reason = reason;
    if (ending.message.empty()) ending.message = TextAt(pod, {"status", "message"});
  }
  return ending;
}

ObservedPod::Phase PhaseOf(const Json& pod) {
  const std::string phase = TextAt(pod, {"status", "phase"});
  if (phase == "Running") return ObservedPod::Phase::kRunning;
  if (phase == "Succeeded") return ObservedPod::Phase::kSucceeded;
  if (phase == "Failed") return ObservedPod::Phase::kFailed;
  return ObservedPod::Phase::kPending;
}

bool IsReady(const Json& pod) {
  const Json* ready = ConditionOf(pod, "Ready");
  return ready != nullptr && TextAt(*ready, {"status"}) == "True";
}

bool HasGate(const Json& pod) {
  for (const Json& gate : ListAt(pod, {"spec", "schedulingGates"})) {
    if (TextAt(gate, {"name"}) == manifests::kGangGate) return true;
  }
  return false;
}

// One sentence on why a pod does not run; empty if there is none.
std::string ProblemOf(const Json& pod) {
  if (const std::string unschedulable = UnschedulableOf(pod); !unschedulable.empty()) {
    return absl::StrCat("not scheduled: ", unschedulable);
  }
  const Waiting waiting = WaitingOf(pod);
  if (waiting.reason.empty()) return "";
  return absl::StrCat(waiting.reason, waiting.message.empty() ? "" : ": ", waiting.message);
}

// nullopt: the image is from before shapes were told, or one of the numbers makes no sense.
std::optional<api::ModelShapeStatus> ParseShape(const Json& report) {
  constexpr int64_t kMost = 1 << 24;
  api::ModelShapeStatus shape;
  struct Size {
    const char* name;
    int* out;
  };
  for (const Size& size :
       {Size{"hidden", &shape.hidden}, Size{"intermediate", &shape.intermediate},
        Size{"num_heads", &shape.num_heads}, Size{"num_kv_heads", &shape.num_kv_heads},
        Size{"head_dim", &shape.head_dim}, Size{"vocab_size", &shape.vocab_size},
        Size{"max_positions", &shape.max_positions}}) {
    const std::optional<int64_t> number = IntAt(report, {"shape", size.name});
    if (!number.has_value() || *number < 1 || *number > kMost) return std::nullopt;
    *size.out = static_cast<int>(*number);
  }
  const Json* tied = At(report, {"shape", "tied_embeddings"});
  if (tied == nullptr || !tied->is_boolean()) return std::nullopt;
  shape.tied_embeddings = tied->get<bool>();
  return shape;
}

// The line that `moe-worker --inspect` leaves behind.
std::optional<api::ModelStatus> ParseInspection(const std::string& text, const std::string& uri) {
  const Json report = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  const std::optional<int64_t> num_layers = IntAt(report, {"num_layers"});
  const std::optional<int64_t> num_experts = IntAt(report, {"num_experts"});
  const std::optional<int64_t> top_k = IntAt(report, {"top_k"});
  const std::optional<int64_t> weight_bytes = IntAt(report, {"weight_bytes"});
  constexpr int64_t kMost = 1 << 20;
  for (const auto& number : {num_layers, num_experts, top_k}) {
    if (!number.has_value() || *number < 1 || *number > kMost) return std::nullopt;
  }
  if (!weight_bytes.has_value() || *weight_bytes < 0) return std::nullopt;
  api::ModelStatus model{.uri = uri,
                         .num_layers = static_cast<int>(*num_layers),
                         .num_experts = static_cast<int>(*num_experts),
                         .top_k = static_cast<int>(*top_k),
                         .weight_bytes = static_cast<uint64_t>(*weight_bytes),
                         .shape = ParseShape(report)};
  model.shape_missing = !model.shape.has_value();
  return model;
}

ObservedGroup::Phase PhaseOf(coordinator::v1::GroupState::Phase phase) {
  using State = coordinator::v1::GroupState;
  switch (phase) {
    case State::LOADING:
      return ObservedGroup::Phase::kLoading;
    case State::CONNECTING:
      return ObservedGroup::Phase::kConnecting;
    case State::ACTIVE:
      return ObservedGroup::Phase::kActive;
    case State::RECOVERING:
      return ObservedGroup::Phase::kRecovering;
    case State::FAILED:
      return ObservedGroup::Phase::kFailed;
    case State::STOPPING:
      return ObservedGroup::Phase::kStopping;
    default:
      return ObservedGroup::Phase::kStarting;
  }
}

}  // namespace

std::optional<ObservedPod> ObservePod(const Json& pod) {
  if (manifests::LabelOf(pod, manifests::kLabelComponent) != manifests::kWorker) {
    return std::nullopt;
  }
  const std::optional<int> group =
      manifests::NumberOf(manifests::LabelOf(pod, manifests::kLabelGroup));
  const std::optional<int> slot =
      manifests::NumberOf(manifests::LabelOf(pod, manifests::kLabelSlot));
  const std::optional<int> incarnation =
      manifests::NumberOf(manifests::AnnotationOf(pod, manifests::kAnnotationIncarnation));
  if (!group.has_value() || !slot.has_value() || !incarnation.has_value()) return std::nullopt;
  ObservedPod observed;
  observed.name = TextAt(pod, {"metadata", "name"});
  observed.uid = TextAt(pod, {"metadata", "uid"});
  observed.group = *group;
  observed.slot = *slot;
  observed.incarnation = *incarnation;
  observed.revision = manifests::LabelOf(pod, manifests::kLabelRevision);
  observed.node = TextAt(pod, {"spec", "nodeName"});
  observed.ip = TextAt(pod, {"status", "podIP"});
  observed.phase = PhaseOf(pod);
  observed.gated = HasGate(pod);
  observed.terminating = IsTerminating(pod);
  observed.ready = IsReady(pod);
  observed.created_at = TimeAt(pod, {"metadata", "creationTimestamp"});
  Waiting waiting = WaitingOf(pod);
  observed.waiting_reason = std::move(waiting.reason);
  observed.waiting_message = std::move(waiting.message);
  observed.unschedulable = UnschedulableOf(pod);
  Ending ending = EndingOf(pod);
  observed.exit_code = ending.exit_code;
  observed.exit_reason = std::move(ending.reason);
  observed.termination_message = std::move(ending.message);
  return observed;
}

std::optional<absl::Time> EndOfPod(const Json& pod) {
  const Json* worker = StatusOfContainer(pod, manifests::kWorker);
  if (worker == nullptr) return std::nullopt;
  const absl::Time at = TimeAt(*worker, {"state", "terminated", "finishedAt"});
  if (at == absl::InfinitePast()) return std::nullopt;
  return at;
}

ObservedInspection ObserveInspection(const Json* pod) {
  ObservedInspection observed;
  if (pod == nullptr) return observed;
  observed.exists = true;
  observed.uid = TextAt(*pod, {"metadata", "uid"});
  observed.uri = manifests::AnnotationOf(*pod, manifests::kAnnotationModelUri);
  observed.terminating = IsTerminating(*pod);
  observed.created_at = TimeAt(*pod, {"metadata", "creationTimestamp"});
  const ObservedPod::Phase phase = PhaseOf(*pod);
  observed.done = phase == ObservedPod::Phase::kSucceeded || phase == ObservedPod::Phase::kFailed;
  if (!observed.done) {
    observed.problem = ProblemOf(*pod);
    return observed;
  }
  const Ending ending = EndingOf(*pod);
  if (phase == ObservedPod::Phase::kSucceeded) {
    observed.result = ParseInspection(ending.message, observed.uri);
    if (!observed.result.has_value()) {
      observed.problem = absl::StrCat("the inspect pod ended without a report: ", ending.message);
    }
    return observed;
  }
  observed.problem = ending.message;
  if (observed.problem.empty()) {
    observed.problem = ending.reason.empty()
                           ? "the inspect pod failed"
                           : absl::StrCat("the inspect pod failed: ", ending.reason);
  }
  return observed;
}

ObservedGateway ObserveGateway(const Json* deployment, const std::vector<JsonPtr>& gateway_pods) {
  ObservedGateway observed;
  if (deployment == nullptr) return observed;
  observed.exists = true;
  observed.replicas = static_cast<int>(IntAt(*deployment, {"spec", "replicas"}).value_or(1));
  observed.ready_replicas =
      static_cast<int>(IntAt(*deployment, {"status", "readyReplicas"}).value_or(0));
  observed.rolled =
      IntAt(*deployment, {"status", "observedGeneration"}).value_or(0) >=
          IntAt(*deployment, {"metadata", "generation"}).value_or(0) &&
      IntAt(*deployment, {"status", "updatedReplicas"}).value_or(0) == observed.replicas &&
      IntAt(*deployment, {"status", "replicas"}).value_or(0) == observed.replicas &&
      observed.ready_replicas == observed.replicas;
  // Quota or admission: no pod exists that could say so.
  if (const Json* failure = ConditionOf(*deployment, "ReplicaFailure");
      failure != nullptr && TextAt(*failure, {"status"}) == "True") {
    observed.problem = TextAt(*failure, {"message"});
  }
  for (const JsonPtr& pod : gateway_pods) {
    if (observed.problem.empty() && !IsTerminating(*pod)) observed.problem = ProblemOf(*pod);
  }
  return observed;
}

ObservedGroup ObserveGroup(int index, const coordinator::v1::GroupState& state) {
  ObservedGroup observed;
  observed.index = index;
  observed.phase = PhaseOf(state.phase());
  observed.reason = state.reason();
  observed.epoch = state.epoch();
  observed.draining = state.draining();
  observed.num_running = state.num_running();
  observed.num_waiting = state.num_waiting();
  observed.model_digest = state.model_digest();
  for (const coordinator::v1::GroupState::Worker& worker : state.workers()) {
    observed.rank_loaded.push_back(worker.loaded_bytes() > 0);
  }
  uint64_t expert_tokens = 0;
  for (const uint64_t tokens : state.expert_tokens()) expert_tokens += tokens;
  observed.generated_tokens = expert_tokens;
  return observed;
}

std::optional<api::ExpertLoadStatus> SummarizeExpertLoad(
    const std::vector<std::shared_ptr<const coordinator::v1::GroupState>>& groups, absl::Time now) {
  std::vector<uint64_t> tokens;  // by expert
  for (const auto& group : groups) {
    const auto num_experts = static_cast<size_t>(group->num_experts());
    if (num_experts == 0) continue;
    // Two revisions may differ in their model; the load of both together says nothing.
    if (!tokens.empty() && tokens.size() != num_experts) continue;
    tokens.resize(num_experts);
    for (int i = 0; i < group->expert_tokens_size(); ++i) {
      tokens[static_cast<size_t>(i) % num_experts] += group->expert_tokens(i);
    }
  }
  api::ExpertLoadStatus load;
  for (const uint64_t count : tokens) load.tokens += count;
  if (load.tokens == 0) return std::nullopt;
  std::vector<size_t> order(tokens.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&tokens](size_t a, size_t b) { return tokens[a] > tokens[b]; });
  const auto total = static_cast<double>(load.tokens);
  load.max_over_mean =
      static_cast<double>(tokens[order.front()]) * static_cast<double>(tokens.size()) / total;
  const auto describe = [&](size_t expert, std::string* text) {
    absl::StrAppendFormat(text, "%s%d (%.1f%%)", text->empty() ? "" : ", ", expert,
                          100.0 * static_cast<double>(tokens[expert]) / total);
  };
  const size_t num_shown = std::min<size_t>(5, order.size());
  for (size_t i = 0; i < num_shown; ++i) {
    describe(order[i], &load.hottest);
    describe(order[order.size() - 1 - i], &load.coldest);
  }
  load.at = now;
  return load;
}

std::string ControllerOf(const Json& object) {
  for (const Json& owner : ListAt(object, {"metadata", "ownerReferences"})) {
    const Json* is_controller = At(owner, {"controller"});
    if (is_controller != nullptr && *is_controller == true) return TextAt(owner, {"uid"});
  }
  return "";
}

bool OwnedBy(const Json& object, const std::string& uid) {
  return !uid.empty() && ControllerOf(object) == uid;
}

}  // namespace moe::controller
