#include "controller/reconcile/revision.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "controller/api/parse.h"
#include "nlohmann/json.hpp"

namespace moe::reconcile {
namespace {

Target Impossible(absl::string_view reason, std::string message) {
  return {.failed = true, .reason = std::string(reason), .message = std::move(message)};
}

Target InvalidLayout(std::string message) {
  return Impossible("InvalidLayout", std::move(message));
}

// What mode: Fixed says.
api::LayoutChoice AsWritten(const api::ParallelismSpec& parallelism) {
  api::LayoutChoice choice;
  choice.expert = parallelism.expert;
  choice.replicated_attention = parallelism.attention == api::Attention::kReplicated;
  choice.attention_ranks =
      choice.replicated_attention ? parallelism.expert : parallelism.attention_ranks.value_or(1);
  return choice;
}

// An empty target is fine: `layout` is set.
Target CheckLayout(const api::MoEDeploymentSpec& spec, const api::ModelStatus& model,
                   const api::LayoutChoice& choice, api::RevisionStatus* layout) {
  const int expert = choice.expert;
  const std::string what = absl::StrCat("the model ", model.uri, " has ", model.num_experts,
                                        " experts in each of ", model.num_layers, " layers");
  if (model.num_experts < 1 || model.num_layers < 1) {
    return InvalidLayout(absl::StrCat(what, ", which nothing can be made of"));
  }
  if (expert < 1 || expert > model.num_experts) {
    return InvalidLayout(absl::StrCat(
        what, ", so parallelism.expert can be 1 to ", model.num_experts, ", not ", expert,
        "; write ", model.num_experts, " for one expert per worker, or mode: Auto"));
  }
  const int64_t num_workers = int64_t{expert} * spec.replicas;
  if (expert > api::kMaxExpert || num_workers > api::kMaxWorkers) {
    return InvalidLayout(
        absl::StrCat(what, "; ", expert, " workers in each of ", spec.replicas, " groups are ",
                     num_workers, ", and one deployment has at most ", api::kMaxWorkers, " (",
                     api::kMaxExpert, " in a group); lower replicas or parallelism.expert"));
  }
  const int gpus_per_pod = spec.worker.gpus_per_pod;
  if (expert % gpus_per_pod != 0) {
    return InvalidLayout(absl::StrCat(what, ", and ", expert, " workers can't be put into pods of ",
                                      gpus_per_pod, "; write a worker.gpusPerPod that divides ",
                                      expert));
  }
  layout->backend = spec.backend;
  layout->num_slots = expert;
  layout->gpus_per_pod = gpus_per_pod;
  layout->num_layers = model.num_layers;
  layout->num_experts = model.num_experts;
  layout->replicated_attention = choice.replicated_attention;
  layout->attention_ranks = choice.attention_ranks;
  layout->engine = spec.engine;
  if (layout->attention_ranks < 1 || layout->attention_ranks > expert) {
    return InvalidLayout(absl::StrCat("parallelism.attentionRanks can be 1 to ", expert,
                                      ", the workers of a group, not ", layout->attention_ranks));
  }
  return {};
}

}  // namespace

std::string HashOf(absl::string_view text) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : text) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  }
  return absl::StrFormat("%016x", hash);
}

// A field that a later version adds belongs in here only where it differs from its default:
// otherwise the upgrade itself would roll all workers.
std::string RevisionName(const api::MoEDeploymentSpec& spec, const api::RevisionStatus& layout,
                         absl::string_view worker_image) {
  const api::EngineSpec& engine = layout.engine;
  nlohmann::json parts = {
      {"uri", spec.model.uri},
      {"image", worker_image},
      {"template", spec.worker.pod_template},
      {"backend", static_cast<int>(spec.backend)},
      {"exchange", static_cast<int>(spec.parallelism.exchange)},
      {"gpusPerPod", spec.worker.gpus_per_pod},
      {"spares", spec.worker.spares},
      {"expertCopies", spec.worker.expert_copies},
      {"slots", layout.num_slots},
      {"attentionRanks", layout.attention_ranks},
      {"replicated", layout.replicated_attention},
      {"engine",
       {engine.max_sequences, engine.max_step_tokens, engine.max_queue, engine.max_context,
        engine.kv_cache_bytes, engine.step_deadline_seconds}},
  };
  if (spec.worker.nvlink_across_pods) {
    parts["nvlinkAcrossPods"] = true;
  }
  const std::string text =
      parts.dump(-1, ' ', /*ensure_ascii=*/true, nlohmann::json::error_handler_t::replace);
  return HashOf(text);
}

Target DecideTarget(Decision* decision, const AutoState& automatic) {
  const Observed& in = decision->in;
  api::MoEDeploymentStatus& status = decision->status;
  const api::MoEDeploymentSpec& spec = in.deployment.spec;
  if (!in.spec_status.ok()) {
    return Impossible("InvalidSpec", std::string(in.spec_status.message()));
  }
  if (!status.model.has_value() || status.model->uri != spec.model.uri) {
    return {.reason = "WaitingForModel", .message = "the model's files were not read yet"};
  }
  if (spec.parallelism.automatic && !automatic.decided) {
    return {.failed = automatic.failed, .reason = automatic.reason, .message = automatic.message};
  }
  api::RevisionStatus layout;
  if (Target problem = CheckLayout(
          spec, *status.model,
          spec.parallelism.automatic ? status.decision->choice : AsWritten(spec.parallelism),
          &layout);
      problem.failed) {
    return problem;
  }
  layout.name = RevisionName(spec, layout, status.worker_image);
  if (status.worker_image.empty() || layout.name != status.revision) {
    status.worker_image = in.worker_image;
    status.gateway_image = in.gateway_image;
    layout.name = RevisionName(spec, layout, status.worker_image);
    status.revision = layout.name;
  }
  if (FindRevision(status, layout.name) == nullptr) {
    status.revisions.push_back(std::move(layout));
  }
  Target target;
  target.known = true;
  return target;
}

void ForgetRevisions(Decision* decision) {
  api::MoEDeploymentStatus& status = decision->status;
  std::erase_if(status.revisions, [&](const api::RevisionStatus& revision) {
    return revision.name != status.revision &&
           std::none_of(
               status.groups.begin(), status.groups.end(),
               [&](const api::GroupStatus& group) { return group.revision == revision.name; });
  });
}

}  // namespace moe::reconcile
