#include "controller/reconcile/layout_decision.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "controller/api/parse.h"
#include "controller/reconcile/auto_layout.h"
#include "controller/reconcile/revision.h"

namespace moe::reconcile {
namespace {

// Rises with what is decided from the same inputs, so that decisions are looked at again.
constexpr int kRulesVersion = 1;

constexpr absl::Duration kNodesPoll = absl::Seconds(10);
constexpr char kAdoptAnnotation[] = "moe-operator.dev/adopt-layout";

// What to do about an annotation that was not acted upon; empty if there is nothing to say.
std::string AdoptionText(const std::string& asked, const api::LayoutDecision& decision) {
  if (asked.empty() || asked == decision.choice.layout) {
    return "";
  }
  if (decision.proposed.has_value() && decision.proposed->layout == asked) {
    return absl::StrCat(
        ". The annotation named it before it was proposed: remove it and write it "
        "again");
  }
  return absl::StrCat(". The annotation ", kAdoptAnnotation, " names ", asked,
                      ", which is not proposed");
}

// A field that a later version adds belongs in here only where it differs from its default:
// otherwise the upgrade itself would decide anew.
std::string SpecKey(const api::MoEDeploymentSpec& spec) {
  const api::ParallelismSpec& parallelism = spec.parallelism;
  return HashOf(absl::StrCat(spec.model.uri, "\n", static_cast<int>(spec.backend), ",",
                             spec.worker.gpus_per_pod, ",", spec.worker.nvlink_across_pods, ",",
                             static_cast<int>(parallelism.attention), ",",
                             parallelism.attention_ranks.value_or(0)));
}

void AppendGpus(const GpuInventory& gpus, std::string* text) {
  for (const GpuPool& pool : gpus.pools) {
    absl::StrAppend(text, "\n", pool.product, ",", pool.memory_bytes);
    for (const auto& [count, nodes] : pool.nodes_by_gpus) {
      absl::StrAppend(text, ",", count, "x", nodes);
    }
    if (pool.device.has_value()) {
      const planner::Device& device = *pool.device;
      absl::StrAppend(text, ",", device.memory_bytes, ",", device.bandwidth(), ",", device.flops(2),
                      ",", device.node_link_bytes_per_second);
    }
  }
  absl::StrAppend(text, "\n", gpus.network.link_bytes_per_second, ",", gpus.network.library.name);
}

std::string InputsKey(const Decision& decision) {
  const api::MoEDeploymentSpec& spec = decision.in.deployment.spec;
  const api::ModelStatus& model = *decision.status.model;
  const api::ModelShapeStatus shape = model.shape.value_or(api::ModelShapeStatus());
  std::string text = absl::StrCat(
      kRulesVersion, "\n", SpecKey(spec), "\n", spec.replicas, ",", spec.engine.max_sequences, ",",
      spec.engine.max_context, "\n", model.num_layers, ",", model.num_experts, ",", model.top_k,
      ",", model.weight_bytes, "\n", shape.hidden, ",", shape.intermediate, ",", shape.num_heads,
      ",", shape.num_kv_heads, ",", shape.head_dim, ",", shape.vocab_size, ",", shape.max_positions,
      ",", shape.tied_embeddings);
  if (spec.backend == api::Backend::kCuda && decision.in.gpus.has_value()) {
    AppendGpus(*decision.in.gpus, &text);
  }
  return HashOf(text);
}

// The layout that the present revision has, if it is what the spec still asks for beside its
// layout; nullptr if not.
const api::RevisionStatus* RunningLayout(const Decision& decision) {
  const api::RevisionStatus* revision = FindRevision(decision.old, decision.old.revision);
  if (revision == nullptr || decision.generation_changed() ||
      RevisionName(decision.in.deployment.spec, *revision, decision.old.worker_image) !=
          revision->name) {
    return nullptr;
  }
  return revision;
}

api::LayoutDecision Keep(const api::RevisionStatus& revision) {
  api::LayoutDecision kept;
  kept.choice.expert = revision.num_slots;
  kept.choice.attention_ranks = revision.attention_ranks;
  kept.choice.replicated_attention = revision.replicated_attention;
  kept.choice.layout =
      GroupLayoutName(revision.num_slots, revision.attention_ranks, revision.replicated_attention);
  kept.basis = kKept;
  kept.because = "it runs so already";
  return kept;
}

class Keeper {
 public:
  explicit Keeper(Decision* decision)
      : decision_(decision),
        spec_(decision->in.deployment.spec),
        kept_(decision->status.decision),
        spec_key_(SpecKey(spec_)),
        inputs_key_(InputsKey(*decision)) {}

  AutoState Run() {
    if (!nodes_known()) {
      // No list that is empty tells anybody that it has come.
      decision_->WakeAt(decision_->in.now + kNodesPoll);
    }
    if (!kept_.has_value() || kept_->spec_key != spec_key_) {
      const api::RevisionStatus* running = kept_.has_value() ? nullptr : RunningLayout(*decision_);
      if (running == nullptr) {
        return DecideAnew();
      }
      Set(Keep(*running));
      kept_->inputs_key.clear();  // not looked at yet
    }
    if (!may_change()) {
      return {.decided = true};
    }
    if (kept_->inputs_key != inputs_key_) {
      Review();
    }
    Adopt();
    return {.decided = true};
  }

 private:
  bool may_change() const { return !decision_->frozen() && !decision_->deleting(); }
  // Nodes that are not known yet are no reason to think that there are none.
  bool nodes_known() const {
    return spec_.backend == api::Backend::kCpu || decision_->in.gpus.has_value();
  }

  AutoLayout Decide(const api::LayoutChoice* present) const {
    const std::optional<GpuInventory>& gpus = decision_->in.gpus;
    return DecideAutoLayout({.spec = &spec_,
                             .model = &*decision_->status.model,
                             .gpus = gpus.has_value() ? &*gpus : nullptr},
                            present);
  }

  void Set(api::LayoutDecision decided) {
    kept_ = std::move(decided);
    kept_->decided_at = decision_->in.now;
    kept_->spec_key = spec_key_;
    kept_->inputs_key = inputs_key_;
    kept_->adoption_seen = decision_->in.deployment.adopt_layout;
  }

  AutoState DecideAnew() {
    if (!may_change()) {
      return {.reason = "Paused", .message = "nothing is decided while it is paused"};
    }
    AutoLayout result = Decide(nullptr);
    if (!result.decision.has_value()) {
      // An earlier decision stays in sight; its key says that it is about another spec.
      return {.failed = result.failed,
              .reason = std::move(result.reason),
              .message = std::move(result.message)};
    }
    Set(*std::move(result.decision));
    return {.decided = true};
  }

  void Review() {
    if (!nodes_known()) {
      return;
    }
    AutoLayout result = Decide(&kept_->choice);
    kept_->inputs_key = inputs_key_;
    kept_->proposed.reset();
    kept_->proposed_gpus.clear();
    kept_->review_problem.clear();
    if (!result.decision.has_value()) {
      kept_->review_problem = std::move(result.message);
    } else if (SameLayout(result.decision->choice, kept_->choice)) {
      // The figures are of the GPUs that there are now.
      api::LayoutDecision fresh = *std::move(result.decision);
      fresh.decided_at = kept_->decided_at;
      fresh.spec_key = spec_key_;
      fresh.inputs_key = inputs_key_;
      fresh.adoption_seen = kept_->adoption_seen;
      kept_ = std::move(fresh);
    } else {
      kept_->proposed = std::move(result.decision->choice);
      kept_->proposed_gpus = std::move(result.decision->gpus);
    }
  }

  void Adopt() {
    const std::string& asked = decision_->in.deployment.adopt_layout;
    if (asked == kept_->adoption_seen || !nodes_known()) {
      return;
    }
    if (kept_->proposed.has_value() && kept_->proposed->layout == asked) {
      // What was proposed is what would be decided now: the review has just seen to it.
      AutoLayout result = Decide(nullptr);
      if (result.decision.has_value()) {
        Set(*std::move(result.decision));
        return;
      }
    }
    kept_->adoption_seen = asked;
  }

  Decision* decision_;
  const api::MoEDeploymentSpec& spec_;
  std::optional<api::LayoutDecision>& kept_;
  const std::string spec_key_;
  const std::string inputs_key_;
};

}  // namespace

bool WantsShape(const api::MoEDeploymentSpec& spec, const api::ModelStatus& model) {
  return spec.parallelism.automatic && spec.backend == api::Backend::kCuda &&
         !model.shape.has_value() && !model.shape_missing;
}

AutoState DecideLayout(Decision* decision) {
  const api::MoEDeploymentSpec& spec = decision->in.deployment.spec;
  const std::optional<api::ModelStatus>& model = decision->status.model;
  if (!spec.parallelism.automatic) {
    decision->status.decision.reset();
    return {};
  }
  if (!model.has_value() || model->uri != spec.model.uri || WantsShape(spec, *model)) {
    return {.reason = "WaitingForModel", .message = "the model's files were not read yet"};
  }
  return Keeper(decision).Run();
}

std::string LayoutText(const api::MoEDeployment& deployment, const api::LayoutDecision& decision) {
  std::string text = absl::StrCat(DescribeChoice(decision.choice), "; ", decision.because);
  if (!decision.gpus.empty()) {
    absl::StrAppend(&text, "; decided from ", decision.gpus);
  }
  if (decision.proposed.has_value()) {
    absl::StrAppend(&text, ". With ", decision.proposed_gpus,
                    " better: ", DescribeChoice(*decision.proposed),
                    ". Nothing changes before the annotation ", kAdoptAnnotation, " says ",
                    decision.proposed->layout, ", or mode: Fixed says it");
  }
  if (!decision.review_problem.empty()) {
    absl::StrAppend(&text, ". Now it could not be decided: ", decision.review_problem);
  }
  absl::StrAppend(&text, AdoptionText(deployment.adopt_layout, decision));
  return text;
}

PlainText PlainReplicasText(const api::LayoutDecision& decision) {
  const api::PlainReplicas& plain = *decision.plain_replicas;
  if (!plain.figures.has_value()) {
    return {decision.choice.expert == 1 ? "PlainReplicas" : "NoRoom", plain.reason};
  }
  const double requests =
      decision.choice.figures.has_value() ? decision.choice.figures->requests_per_second : 0;
  std::string text = absl::StrFormat(
      "%d whole models on the same GPUs would complete %.2f requests/s with the same sequences in "
      "flight, %s %.2f: predicted, not measured",
      plain.replicas, plain.figures->requests_per_second, decision.choice.layout, requests);
  if (!plain.better) {
    return {"FewerRequests", std::move(text)};
  }
  absl::StrAppend(&text,
                  "; to have them write mode: Fixed, expert: 1 and replicas: ", plain.replicas);
  if (plain.replicas > api::kMaxReplicas) {
    absl::StrAppend(&text, ", in several MoEDeployments of at most ", api::kMaxReplicas);
  }
  return {"MoreRequests", std::move(text)};
}

}  // namespace moe::reconcile
