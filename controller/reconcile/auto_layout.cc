#include "controller/reconcile/auto_layout.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "controller/reconcile/planned_layout.h"
#include "planner/layout.h"

namespace moe::reconcile {
namespace {

AutoLayout Refuse(absl::string_view reason, std::string message, bool failed = false) {
  return {.failed = failed, .reason = std::string(reason), .message = std::move(message)};
}

// The widest of `widths`, with attention as the spec asks or on `attention_ranks` of its workers.
api::LayoutChoice Widest(const api::MoEDeploymentSpec& spec, const std::vector<int>& widths,
                         int attention_ranks) {
  const api::ParallelismSpec& asked = spec.parallelism;
  api::LayoutChoice choice;
  choice.expert = widths.back();
  choice.replicated_attention = asked.attention == api::Attention::kReplicated;
  choice.attention_ranks =
      choice.replicated_attention ? choice.expert : asked.attention_ranks.value_or(attention_ranks);
  choice.layout =
      GroupLayoutName(choice.expert, choice.attention_ranks, choice.replicated_attention);
  return choice;
}

// What the widest layout is called in words.
std::string WidthText(int width, int num_experts) {
  return width == num_experts ? absl::StrCat("one worker for each of the ", num_experts, " experts")
                              : absl::StrCat(width, " workers for ", num_experts,
                                             " experts, as many as pods, replicas and GPUs allow");
}

AutoLayout ByRule(const api::MoEDeploymentSpec& spec, int num_experts,
                  const std::vector<int>& widths, int attention_ranks, const char* basis,
                  absl::string_view why) {
  api::LayoutDecision decision;
  decision.choice = Widest(spec, widths, attention_ranks);
  decision.basis = basis;
  decision.because = absl::StrCat(WidthText(decision.choice.expert, num_experts), ": ", why);
  return {.decision = std::move(decision)};
}

AutoLayout NoWidth(const api::MoEDeploymentSpec& spec, const api::ModelStatus& model) {
  const int gpus_per_pod = spec.worker.gpus_per_pod;
  return Refuse("InvalidLayout",
                absl::StrCat("the model ", model.uri, " has ", model.num_experts,
                             " experts in each of ", model.num_layers, " layers, and ",
                             model.num_experts, " workers can't be put into pods of ", gpus_per_pod,
                             "; write a worker.gpusPerPod that divides ", model.num_experts),
                /*failed=*/true);
}

AutoLayout OnGpus(const AutoLayoutInput& input, const api::LayoutChoice* present) {
  const api::MoEDeploymentSpec& spec = *input.spec;
  const api::ModelStatus& model = *input.model;
  if (input.gpus == nullptr) {
    return Refuse("NodesNotKnown",
                  "the cluster's nodes are not known: the operator needs the right to list and "
                  "watch nodes (rbac.readNodes of its chart); or write mode: Fixed and expert");
  }
  const GpuInventory& gpus = *input.gpus;
  if (gpus.pools.empty()) {
    return Refuse("NoGpus",
                  absl::StrCat("no node that workers may run on has GPUs of the label "
                               "nvidia.com/gpu.product and the resource nvidia.com/gpu",
                               DescribeLeftOut(gpus),
                               "; where nodes come only once pods wait for them, write mode: Fixed "
                               "and expert"));
  }
  if (gpus.pools.size() > 1) {
    return Refuse("GpusOfSeveralKinds",
                  absl::StrCat("workers of one group need GPUs of one kind, and there are ",
                               DescribeGpus(gpus),
                               "; write a nodeSelector for nvidia.com/gpu.product into "
                               "worker.podTemplate"));
  }
  const GpuPool& pool = gpus.pools.front();
  const int gpus_per_pod = spec.worker.gpus_per_pod;
  const int spares = spec.worker.spares;
  const int usable = pool.UsableBy(gpus_per_pod);
  if (PossibleWidths(spec, model.num_experts, std::numeric_limits<int>::max()).empty()) {
    return NoWidth(spec, model);
  }
  const std::vector<int> widths = PossibleWidths(spec, model.num_experts, usable);
  if (widths.empty()) {
    return Refuse(
        "NotEnoughGpus",
        absl::StrCat(std::max(spec.replicas, 1), " groups of pods of ", gpus_per_pod, " GPUs",
                     spares == 0 ? "" : absl::StrCat(", each with ", spares, " spare,"),
                     " can't be made of ", DescribeGpus(gpus), DescribeLeftOut(gpus),
                     ", of which such pods can use ", usable, "; lower replicas",
                     spares == 0 ? "" : ", worker.spares", " or worker.gpusPerPod, or add nodes"));
  }
  AutoLayout result;
  const absl::StatusOr<planner::ModelShape> shape = PlannerShape(model);
  if (!shape.ok()) {
    result = ByRule(spec, model.num_experts, widths, widths.back(), kUnknownShape,
                    absl::StrCat("there are no figures, since ", shape.status().message()));
  } else if (!pool.device.has_value()) {
    result = ByRule(
        spec, model.num_experts, widths, widths.back(), kUnknownGpu,
        absl::StrCat("there are no figures, since the planner does not know ", pool.product));
  } else {
    result = PlanLayout(spec, *shape, pool, gpus.network, widths, present);
  }
  if (result.decision.has_value()) {
    result.decision->gpus = DescribeGpus(gpus);
    result.decision->choice.num_gpus = result.decision->choice.expert * std::max(spec.replicas, 1);
  }
  return result;
}

}  // namespace

std::string GroupLayoutName(int expert, int attention_ranks, bool replicated_attention) {
  planner::Layout layout{.expert = expert,
                         .replicated_attention = replicated_attention,
                         .attention_ranks = attention_ranks};
  if (expert > 1) {
    layout.exchange = replicated_attention ? planner::Exchange::kGather : planner::Exchange::kSlots;
  }
  return planner::LayoutName(layout);
}

absl::StatusOr<planner::ModelShape> PlannerShape(const api::ModelStatus& model) {
  if (!model.shape.has_value()) {
    return absl::FailedPreconditionError(
        "the worker image that read the model does not tell its shape: it is older than the "
        "operator");
  }
  const api::ModelShapeStatus& known = *model.shape;
  planner::ModelShape shape{.name = model.uri,
                            .hidden = known.hidden,
                            .num_layers = model.num_layers,
                            .num_experts = model.num_experts,
                            .top_k = model.top_k,
                            .expert_intermediate = known.intermediate,
                            .vocab_size = known.vocab_size,
                            .tied_embeddings = known.tied_embeddings,
                            .max_positions = known.max_positions};
  planner::SetGroupedQueryAttention(known.num_heads, known.num_kv_heads, known.head_dim, &shape);
  if (absl::Status status = planner::CheckShape(shape); !status.ok()) {
    return status;
  }
  // The index of the tensors knows what they take, norms included.
  const double bytes =
      static_cast<double>(model.weight_bytes) / static_cast<double>(shape.total_params());
  if (bytes < 0.25 || bytes > 8) {
    return absl::InvalidArgumentError(absl::StrCat("the model's ", model.weight_bytes,
                                                   " bytes do not fit its ", shape.total_params(),
                                                   " parameters"));
  }
  shape.bytes_per_weight = bytes;
  return shape;
}

AutoLayout DecideAutoLayout(const AutoLayoutInput& input, const api::LayoutChoice* present) {
  const api::MoEDeploymentSpec& spec = *input.spec;
  const api::ModelStatus& model = *input.model;
  if (model.num_experts < 1 || model.num_layers < 1) {
    return Refuse("InvalidLayout", absl::StrCat("nothing can be made of the model ", model.uri),
                  /*failed=*/true);
  }
  if (spec.backend == api::Backend::kCuda) {
    return OnGpus(input, present);
  }
  const std::vector<int> widths =
      PossibleWidths(spec, model.num_experts, std::numeric_limits<int>::max());
  if (widths.empty()) {
    return NoWidth(spec, model);
  }
  return ByRule(spec, model.num_experts, widths, /*attention_ranks=*/1, kCpuRule,
                "there are no figures, since the planner knows no CPUs");
}

}  // namespace moe::reconcile
