#include "controller/reconcile/planned_layout.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "controller/api/parse.h"
#include "planner/feasibility.h"
#include "planner/layout.h"
#include "planner/memory.h"
#include "planner/prediction.h"
#include "planner/search.h"

namespace moe::reconcile {
namespace {

using planner::Exchange;
using planner::Layout;
using planner::Prediction;
using planner::Scenario;

constexpr int kInputTokens = 512;
constexpr int kOutputTokens = 128;
// Of these, one at most is not built: the others can be had.
constexpr int kMaxNotBuilt = 1;

struct Candidate {
  Prediction prediction = {};
  std::string needs = {};
  bool built = true;
};

double Rounded(double number, double unit) { return std::round(number / unit) * unit; }

api::LayoutFigures FiguresOf(const Prediction& prediction) {
  return {.sequences = static_cast<int>(prediction.sequences),
          .pass_milliseconds = Rounded(prediction.forward.total_seconds() * 1e3, 1e-3),
          .tokens_per_second = Rounded(prediction.sequences_per_second, 1),
          .requests_per_second = Rounded(prediction.completed_per_second, 1e-2),
          .gpu_memory_bytes = static_cast<uint64_t>(prediction.memory.total_bytes()),
          .limited_by = planner::DescribeLimit(prediction.forward.main_limit())};
}

api::LayoutChoice ChoiceOf(const Candidate& candidate) {
  Layout group = candidate.prediction.layout;
  api::LayoutChoice choice;
  choice.expert = group.expert;
  choice.attention_ranks = group.attention_ranks;
  choice.replicated_attention = group.replicated_attention;
  choice.num_gpus = static_cast<int>(group.num_gpus());
  choice.figures = FiguresOf(candidate.prediction);
  choice.needs = candidate.needs;
  // Of one group: replicas come and go.
  group.data = 1;
  choice.layout = planner::LayoutName(group);
  return choice;
}

class LayoutPlanner {
 public:
  LayoutPlanner(const api::MoEDeploymentSpec& spec, const planner::ModelShape& shape,
                const GpuPool& pool, const planner::Network& network)
      : spec_(spec), pool_(pool), replicas_(std::max(spec.replicas, 1)) {
    scenario_.model = shape;
    scenario_.device = *pool.device;
    scenario_.network = network;
    const int gpus_per_pod = spec.worker.gpus_per_pod;
    scenario_.network.gpus_per_node =
        spec.worker.nvlink_across_pods ? pool.MinGpusOfNode() : gpus_per_pod;
    scenario_.num_gpus =
        std::max(0, pool.UsableBy(gpus_per_pod) - replicas_ * spec.worker.spares * gpus_per_pod);
    int context = shape.max_positions;
    if (spec.engine.max_context > 0) {
      context = std::min(context, spec.engine.max_context);
    }
    scenario_.input_tokens = kInputTokens;
    scenario_.output_tokens = kOutputTokens;
    if (context > 1 && context < kInputTokens + kOutputTokens) {
      scenario_.output_tokens = std::max(1, context / 5);
      scenario_.input_tokens = context - scenario_.output_tokens;
    }
  }

  AutoLayout Plan(const std::vector<int>& widths, const api::LayoutChoice* present) {
    if (const absl::Status status = CheckScenario(scenario_); !status.ok()) {
      return {.reason = "NoPlan", .message = std::string(status.message())};
    }
    absl::Status refused;
    std::vector<Candidate> candidates = Possible(scenario_, widths, &refused);
    if (candidates.empty()) {
      return {.reason = "ModelDoesNotFit",
              .message = absl::StrCat(
                  "no layout that can be made fits: ",
                  refused.ok() ? absl::StrCat("parallelism.attentionRanks is ",
                                              spec_.parallelism.attention_ranks.value_or(1),
                                              ", and groups can have ", widths.back(), " workers")
                               : std::string(refused.message()))};
    }
    Sort(&candidates);
    const Candidate& chosen = Choose(candidates, present);
    api::LayoutDecision decision;
    decision.choice = ChoiceOf(chosen);
    decision.basis = kPlanned;
    const bool is_best = &chosen == &candidates.front();
    decision.because =
        absl::StrCat(is_best ? "it completes the most requests of " : "none of ", candidates.size(),
                     " layouts that can be made", is_best ? "" : " completes 5% more requests",
                     "; predicted, not measured");
    decision.assumptions = Assumptions();
    decision.plain_replicas = PlainReplicasFor(chosen.prediction);
    decision.alternatives = Alternatives(candidates, chosen);
    return {.decision = std::move(decision)};
  }

 private:
  absl::StatusOr<Prediction> Predict(const Scenario& scenario, const Layout& layout) const {
    absl::Status status = CheckSizes(layout, scenario.model, scenario.network, scenario.num_gpus);
    if (status.ok()) {
      status = CheckMemory(layout, scenario.model, scenario.device, scenario.assumptions,
                           scenario.full_context());
    }
    if (!status.ok()) {
      return status;
    }
    const int64_t fit =
        planner::MaxSequences(scenario.model, layout, scenario.assumptions,
                              scenario.device.memory_bytes, scenario.full_context());
    return PredictAt(scenario, layout, std::min<int64_t>(spec_.engine.max_sequences, fit));
  }

  // Layouts of one group of that width that the spec allows.
  std::vector<Layout> LayoutsOf(int width) const {
    const api::ParallelismSpec& asked = spec_.parallelism;
    Layout layout{.expert = width, .data = replicas_};
    if (width == 1) {
      if (asked.attention_ranks.value_or(1) != 1) {
        return {};
      }
      return {layout};
    }
    std::vector<Layout> layouts;
    if (asked.attention != api::Attention::kReplicated) {
      layout.exchange = Exchange::kSlots;
      for (int ranks = width; ranks >= 1; ranks = ranks == 1 ? 0 : std::max(1, ranks / 2)) {
        if (!asked.attention_ranks.has_value() && width % ranks == 0) {
          layout.attention_ranks = ranks;
          layouts.push_back(layout);
        }
      }
      if (asked.attention_ranks.has_value() && *asked.attention_ranks <= width) {
        layout.attention_ranks = *asked.attention_ranks;
        layouts.push_back(layout);
      }
    }
    if (asked.attention != api::Attention::kSharded && !asked.attention_ranks.has_value()) {
      layout.exchange = Exchange::kGather;
      layout.replicated_attention = true;
      layout.attention_ranks = width;
      layouts.push_back(layout);
    }
    return layouts;
  }

  // `refused`: why the first layout of the widest group can't work, where it can't.
  std::vector<Candidate> Possible(const Scenario& scenario, const std::vector<int>& widths,
                                  absl::Status* refused) const {
    std::vector<Candidate> candidates;
    for (const int width : widths) {
      bool is_first = true;
      for (const Layout& layout : LayoutsOf(width)) {
        absl::StatusOr<Prediction> prediction = Predict(scenario, layout);
        if (prediction.ok()) {
          candidates.push_back({.prediction = *std::move(prediction)});
        } else if (is_first) {
          *refused = prediction.status();
        }
        is_first = false;
      }
    }
    return candidates;
  }

  void Sort(std::vector<Candidate>* candidates) const {
    std::stable_sort(candidates->begin(), candidates->end(),
                     [this](const Candidate& a, const Candidate& b) {
                       return IsBetter(scenario_.target, a.prediction, b.prediction);
                     });
  }

  // The best, unless the present one is about as good.
  static const Candidate& Choose(const std::vector<Candidate>& candidates,
                                 const api::LayoutChoice* present) {
    const Candidate& best = candidates.front();
    if (present == nullptr) {
      return best;
    }
    for (const Candidate& candidate : candidates) {
      if (SameLayout(ChoiceOf(candidate), *present)) {
        return best.prediction.completed_per_second <
                       candidate.prediction.completed_per_second * kWorthwhile
                   ? candidate
                   : best;
      }
    }
    return best;
  }

  std::string Assumptions() const {
    std::string text = absl::StrFormat(
        "%d sequences in flight in each of %d groups or what fits, of %d input and %d output "
        "tokens",
        spec_.engine.max_sequences, replicas_, scenario_.input_tokens, scenario_.output_tokens);
    absl::StrAppendFormat(&text, "; %s, a network link of %.0f Gb/s for each GPU",
                          scenario_.network.library.title,
                          scenario_.network.link_bytes_per_second * 8 / 1e9);
    if (scenario_.network.gpus_per_node > 1) {
      absl::StrAppend(&text, ", NVLink among ", scenario_.network.gpus_per_node, " GPUs");
    } else {
      absl::StrAppend(&text, ", no NVLink between pods of one GPU");
    }
    return text;
  }

  // The same GPUs and the same sequences, with the whole model on each GPU.
  api::PlainReplicas PlainReplicasFor(const Prediction& chosen) const {
    api::PlainReplicas plain;
    plain.replicas = static_cast<int>(chosen.layout.num_gpus());
    if (chosen.layout.expert == 1) {
      plain.reason = "these are plain replicas";
      return plain;
    }
    Scenario scenario = scenario_;
    scenario.batch = chosen.total_sequences();
    const Layout layout{.data = plain.replicas};
    absl::Status status = CheckMemory(layout, scenario.model, scenario.device, scenario.assumptions,
                                      scenario.full_context());
    const int64_t fit =
        planner::MaxSequences(scenario.model, layout, scenario.assumptions,
                              scenario.device.memory_bytes, scenario.full_context());
    const auto sequences = static_cast<int64_t>(std::ceil(*scenario.batch / layout.data));
    if (status.ok() && sequences > fit) {
      status = absl::ResourceExhaustedError(absl::StrFormat(
          "beside a whole model a GPU has room for %d sequences, and %d are to run on each", fit,
          sequences));
    }
    if (!status.ok()) {
      plain.reason = std::string(status.message());
      return plain;
    }
    const Prediction prediction = PredictAt(scenario, layout, sequences);
    plain.figures = FiguresOf(prediction);
    plain.better = prediction.completed_per_second > chosen.completed_per_second * kWorthwhile;
    return plain;
  }

  // With all GPUs of a node in one pod. Nothing where that is so already.
  std::vector<Candidate> WithWholeNodes() const {
    const int node_gpus = std::min(pool_.MinGpusOfNode(), api::kMaxGpusPerPod);
    api::MoEDeploymentSpec spec = spec_;
    spec.worker.gpus_per_pod = node_gpus;
    spec.worker.nvlink_across_pods = false;
    if (node_gpus <= scenario_.network.gpus_per_node) {
      return {};
    }
    const Scenario scenario = WholeNodes();
    absl::Status refused;
    std::vector<Candidate> candidates = Possible(
        scenario, PossibleWidths(spec, scenario.model.num_experts, scenario.num_gpus), &refused);
    for (Candidate& candidate : candidates) {
      candidate.needs = absl::StrCat("worker.gpusPerPod: ", node_gpus);
    }
    return candidates;
  }

  Scenario WholeNodes() const {
    Scenario scenario = scenario_;
    const int node_gpus = std::min(pool_.MinGpusOfNode(), api::kMaxGpusPerPod);
    scenario.network.gpus_per_node = std::max(node_gpus, scenario_.network.gpus_per_node);
    scenario.num_gpus = pool_.UsableBy(node_gpus);
    return scenario;
  }

  // What other engines do and this one does not.
  std::vector<Candidate> NotBuilt() const {
    Scenario one_group = WholeNodes();
    const Scenario scenario = one_group;
    const std::string pods =
        scenario.network.gpus_per_node > scenario_.network.gpus_per_node
            ? absl::StrCat(" and worker.gpusPerPod: ", scenario.network.gpus_per_node)
            : "";
    one_group.num_gpus = scenario.num_gpus / replicas_;
    std::vector<Candidate> candidates;
    if (one_group.num_gpus < 1) {
      return candidates;
    }
    for (Layout layout : AllLayouts(one_group)) {
      const std::string missing = WhatIsNotBuilt(layout);
      if (missing.empty() || layout.copies > 1 || layout.spares > 0) {
        continue;
      }
      layout.data = replicas_;
      absl::StatusOr<Prediction> prediction = Predict(scenario, layout);
      if (prediction.ok()) {
        candidates.push_back({.prediction = *std::move(prediction),
                              .needs = absl::StrCat(missing, " (not built)", pods),
                              .built = false});
      }
    }
    return candidates;
  }

  // The best of each width that is not the chosen one's.
  std::vector<api::LayoutChoice> Alternatives(std::vector<Candidate> all,
                                              const Candidate& chosen) const {
    const std::string chosen_key = StrategyName(chosen.prediction.layout);
    for (std::vector<Candidate>& more :
         std::vector<std::vector<Candidate>>{WithWholeNodes(), NotBuilt()}) {
      std::move(more.begin(), more.end(), std::back_inserter(all));
    }
    Sort(&all);
    std::set<std::string> seen = {chosen_key};
    std::vector<api::LayoutChoice> alternatives;
    int num_not_built = 0;
    for (const Candidate& candidate : all) {
      if (alternatives.size() == api::kMaxAlternatives) {
        break;
      }
      if (!candidate.built && num_not_built == kMaxNotBuilt) {
        continue;
      }
      if (seen.insert(absl::StrCat(StrategyName(candidate.prediction.layout), candidate.needs))
              .second) {
        num_not_built += candidate.built ? 0 : 1;
        alternatives.push_back(ChoiceOf(candidate));
      }
    }
    return alternatives;
  }

  const api::MoEDeploymentSpec& spec_;
  const GpuPool& pool_;
  const int replicas_;
  Scenario scenario_;
};

}  // namespace

std::vector<int> PossibleWidths(const api::MoEDeploymentSpec& spec, int num_experts, int num_gpus) {
  const int replicas = std::max(spec.replicas, 1);
  const int num_spare_gpus = spec.worker.spares * spec.worker.gpus_per_pod;
  const int most = std::min({num_experts, api::kMaxExpert, api::kMaxWorkers / replicas,
                             num_gpus / replicas - num_spare_gpus});
  std::vector<int> widths;
  for (int width = spec.worker.gpus_per_pod; width <= most; width += spec.worker.gpus_per_pod) {
    if (num_experts % width == 0) {
      widths.push_back(width);
    }
  }
  return widths;
}

AutoLayout PlanLayout(const api::MoEDeploymentSpec& spec, const planner::ModelShape& shape,
                      const GpuPool& pool, const planner::Network& network,
                      const std::vector<int>& widths, const api::LayoutChoice* present) {
  return LayoutPlanner(spec, shape, pool, network).Plan(widths, present);
}

}  // namespace moe::reconcile
