#include "cli/plan/manifest.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/plan/report.h"
#include "controller/api/parse.h"
#include "planner/feasibility.h"

namespace moe::cli {
namespace {

using planner::Layout;
using planner::Prediction;

// What an object may be called: lower-case letters, digits and '-', from a letter on.
std::string ObjectName(const std::string& model) {
  std::string name;
  for (const char c : model) {
    const bool fits = absl::ascii_isalnum(static_cast<unsigned char>(c));
    if (fits) {
      name += absl::ascii_tolower(static_cast<unsigned char>(c));
    } else if (!name.empty() && name.back() != '-') {
      name += '-';
    }
  }
  if (name.empty() || !absl::ascii_isalpha(static_cast<unsigned char>(name[0]))) {
    name.insert(0, "moe-");
  }
  name.resize(std::min<size_t>(name.size(), api::kMaxNameLength));
  while (name.back() == '-') name.pop_back();
  return name;
}

}  // namespace

absl::Status CheckExpressible(const Layout& layout) {
  if (const std::string missing = WhatIsNotBuilt(layout); !missing.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat(LayoutName(layout), ": a MoEDeployment can't say it yet: ", missing));
  }
  if (layout.expert > api::kMaxExpert || layout.data > api::kMaxReplicas ||
      layout.num_gpus() > api::kMaxWorkers) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "%s: one MoEDeployment has at most %d replicas of at most %d workers, %s workers in all: "
        "plan for a part of the GPUs and write several",
        LayoutName(layout), api::kMaxReplicas, api::kMaxExpert,
        planner::WithThousands(api::kMaxWorkers)));
  }
  if (layout.spares > api::kMaxSpares) {
    return absl::FailedPreconditionError(absl::StrFormat("%s: a group has at most %d spare pods",
                                                         LayoutName(layout), api::kMaxSpares));
  }
  return absl::OkStatus();
}

absl::StatusOr<Prediction> BestExpressible(const planner::SearchResult& result) {
  absl::Status best = absl::FailedPreconditionError(
      result.refused.empty() ? "there is no layout" : result.refused.front().reason);
  bool is_first = true;
  for (const Prediction& prediction : result.ranked) {
    absl::Status status = CheckExpressible(prediction.layout);
    if (status.ok()) return prediction;
    if (is_first) best = std::move(status);
    is_first = false;
  }
  return best;
}

std::string FormatManifest(const planner::Scenario& scenario, const Prediction& prediction,
                           const planner::SearchResult& result) {
  const Layout& layout = prediction.layout;
  const std::string name = ObjectName(scenario.model.name);
  std::string text = absl::StrFormat(
      "# %s on %s x %s, from `moe plan`: predicted, not measured.\n"
      "# %s sequences/s in passes of %.2f ms with %s sequences in flight; %s completed requests/s "
      "of "
      "%d + %d tokens.\n"
      "# Limited by %s.\n",
      LayoutName(layout), planner::WithThousands(static_cast<double>(layout.num_gpus())),
      scenario.device.title, planner::WithThousands(prediction.sequences_per_second),
      prediction.forward.total_seconds() * 1e3,
      planner::WithThousands(prediction.total_sequences()), Figure(prediction.completed_per_second),
      scenario.input_tokens, scenario.output_tokens,
      DescribeLimit(prediction.forward.main_limit()));
  if (!result.ranked.empty() && !(result.ranked.front().layout == layout)) {
    const Prediction& best = result.ranked.front();
    absl::StrAppendFormat(
        &text, "# The best layout is %s (%s sequences/s, %.2f ms). %s\n", LayoutName(best.layout),
        planner::WithThousands(best.sequences_per_second), best.forward.total_seconds() * 1e3,
        std::string(CheckExpressible(best.layout).message()));
  }
  absl::StrAppend(&text,
                  "# No worker has run on a GPU yet. Write where the model lies and the images.\n");
  absl::StrAppendFormat(&text,
                        "apiVersion: moe-operator.dev/v1alpha1\n"
                        "kind: MoEDeployment\n"
                        "metadata:\n"
                        "  name: %s\n"
                        "spec:\n"
                        "  model:\n"
                        "    name: %s\n"
                        "    uri: pvc://models/%s\n"
                        "  replicas: %d\n"
                        "  parallelism:\n"
                        "    expert: %d\n",
                        name, name, name, layout.data, layout.expert);
  if (layout.replicated_attention) {
    absl::StrAppend(&text, "    attention: Replicated\n");
  } else {
    absl::StrAppendFormat(&text, "    attention: Sharded\n    attentionRanks: %d\n",
                          layout.attention_ranks);
  }
  absl::StrAppend(&text, "    exchange: Nccl\n  backend: CUDA\n  engine:\n");
  // A step holds every sequence's row, and a chunk of prompts beside them.
  const int64_t step_tokens = std::min<int64_t>(
      1 << 20, std::max<int64_t>(prediction.sequences, scenario.assumptions.prefill_rows));
  absl::StrAppendFormat(&text,
                        "    maxSequences: %d\n    maxStepTokens: %d\n    maxContext: %.0f\n"
                        "    kvCacheMemory: %.0fMi\n",
                        prediction.sequences, step_tokens, scenario.full_context(),
                        std::ceil(prediction.memory.kv_bytes / 1048576));
  const int gpus_per_node = scenario.network.gpus_per_node;
  const bool whole_nodes = gpus_per_node > 1 && gpus_per_node <= api::kMaxGpusPerPod &&
                           layout.expert % gpus_per_node == 0;
  if (whole_nodes || layout.spares > 0) absl::StrAppend(&text, "  worker:\n");
  if (whole_nodes) {
    absl::StrAppendFormat(&text,
                          "    # Workers of one pod reach each other over NVLink.\n"
                          "    gpusPerPod: %d\n",
                          gpus_per_node);
  }
  if (layout.spares > 0) {
    const int gpus_per_pod = whole_nodes ? gpus_per_node : 1;
    absl::StrAppendFormat(&text, "    # Pods of each group that wait for a loss.\n    spares: %d\n",
                          (layout.spares + gpus_per_pod - 1) / gpus_per_pod);
  }
  return text;
}

}  // namespace moe::cli
