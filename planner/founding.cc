#include "planner/founding.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"

namespace moe::planner {
namespace {

bool SmallerIsBetter(TargetKind kind) { return kind == TargetKind::kTime; }

// As many ranks as experts, or the most that divide them.
int ExpertRanks(const Scenario& scenario) {
  int ranks = std::min(scenario.model.num_experts, scenario.num_gpus);
  while (scenario.model.num_experts % ranks != 0) --ranks;
  return ranks;
}

std::vector<Attempt> MakeAttempts(const Scenario& scenario,
                                  const std::vector<ExchangeLibrary>& libraries) {
  const int ranks = ExpertRanks(scenario);
  Layout layout{.expert = ranks, .data = scenario.num_gpus / ranks, .attention_ranks = ranks};
  std::vector<Attempt> attempts;
  const auto add = [&attempts](std::string change, Scenario with, const Layout& of) {
    with.batch = kFoundingBatch;
    Attempt attempt{.change = std::move(change), .scenario = std::move(with), .layout = of};
    absl::StatusOr<Prediction> prediction = Predict(attempt.scenario, of);
    if (prediction.ok()) {
      attempt.prediction = *std::move(prediction);
    } else {
      attempt.refusal = std::string(prediction.status().message());
    }
    attempts.push_back(std::move(attempt));
  };
  const Layout replicas{.data = scenario.num_gpus};
  if (ranks == 1) {
    add("as founded needs more than one expert rank; whole models", scenario, replicas);
    return attempts;
  }
  layout.replicated_attention = true;
  layout.exchange = Exchange::kGather;
  add("as founded: attention on every GPU for all sequences, routed outputs gathered by all",
      scenario, layout);
  layout.replicated_attention = false;
  layout.exchange = Exchange::kSlots;
  add("each sequence on one GPU, captured decode with fixed slots", scenario, layout);
  layout.exchange = Exchange::kAllToAll;
  add("each sequence on one GPU, all-to-all of exact counts", scenario, layout);
  for (const ExchangeLibrary& library : libraries) {
    if (!library.started_by_device || library.name == scenario.network.library.name) continue;
    Scenario with = scenario;
    with.network.library = library;
    add(absl::StrCat("exact counts, rows moved by ", library.name), with, layout);
    with.assumptions.overlap = Overlap::kHalfBatches;
    add(absl::StrCat("exact counts, rows moved by ", library.name, ", two half batches take turns"),
        with, layout);
  }
  if (scenario.network.gpus_per_node < scenario.num_gpus) {
    Scenario with = scenario;
    with.network.gpus_per_node = scenario.num_gpus;
    layout.exchange = Exchange::kSlots;
    add("all GPUs on one NVLink fabric, captured decode with fixed slots", with, layout);
  }
  add("a whole model on every GPU, no exchange", scenario, replicas);
  return attempts;
}

// The widest cut of each expert over the GPUs of a node, on the same number of GPUs.
std::optional<Layout> SpreadExperts(const Scenario& scenario, const Layout& layout) {
  for (int parts = 8; parts > 1; parts /= 2) {
    Layout spread = layout;
    spread.tensor = parts;
    spread.expert = layout.expert / parts;
    spread.attention_ranks = spread.expert;
    if (spread.expert < 2 || layout.expert % parts != 0) continue;
    if (Predict(scenario, spread).ok()) return spread;
  }
  return std::nullopt;
}

// Ranks of a layer compute one after another, and all else stays.
double SequentialSeconds(const Prediction& prediction) {
  const ForwardTime& forward = prediction.forward;
  return forward.total_seconds() - forward.expert_seconds +
         forward.mean_expert_seconds * prediction.layout.expert;
}

double ValueOf(TargetKind kind, const Attempt& attempt, const Prediction& prediction,
               const std::optional<Layout>& spread) {
  switch (kind) {
    case TargetKind::kTime:
      return prediction.forward.total_seconds();
    case TargetKind::kRate: {
      Scenario within = attempt.scenario;
      within.batch.reset();
      within.target = {Target::Kind::kTimeAtMost, kFoundingSeconds};
      const absl::StatusOr<Prediction> most = Predict(within, attempt.layout);
      return most.ok() && most->meets_target ? most->sequences_per_second : 0;
    }
    case TargetKind::kUtilization:
      return prediction.utilization;
    case TargetKind::kMemory:
      return prediction.memory_efficiency.unique_share;
    case TargetKind::kLatencySaved: {
      const absl::StatusOr<Prediction> other = Predict(attempt.scenario, *spread);
      return other.ok() ? 1 - prediction.forward.total_seconds() / other->forward.total_seconds()
                        : 0;
    }
    case TargetKind::kSpeedup:
      return SequentialSeconds(prediction) / prediction.forward.total_seconds();
  }
  return 0;
}

bool Meets(TargetKind kind, double value, double goal) {
  return SmallerIsBetter(kind) ? value <= goal : value >= goal;
}

// The least batch, in powers of the 16th root of 2, that reaches the goal.
void FindBatch(TargetKind kind, double goal, const Attempt& attempt,
               const std::optional<Layout>& spread, Outcome* outcome) {
  for (double step = 0;; ++step) {
    const auto sequences = static_cast<int64_t>(std::ceil(std::exp2(step / 16)));
    if (sequences > attempt.prediction->max_sequences) return;
    Attempt at = attempt;
    at.scenario.batch = static_cast<double>(sequences) * attempt.layout.data;
    const Prediction there = PredictAt(at.scenario, at.layout, sequences);
    if (!Meets(kind, ValueOf(kind, at, there, spread), goal)) continue;
    outcome->batch_that_meets = at.scenario.batch;
    outcome->seconds_there = there.forward.total_seconds();
    return;
  }
}

}  // namespace

const Outcome* FoundingTarget::first_met() const {
  for (const Outcome& outcome : outcomes) {
    if (outcome.met) return &outcome;
  }
  return nullptr;
}

const Outcome* FoundingTarget::met_elsewhere() const {
  const Outcome* fastest = nullptr;
  for (const Outcome& outcome : outcomes) {
    if (outcome.batch_that_meets.has_value() &&
        (fastest == nullptr || outcome.seconds_there < fastest->seconds_there)) {
      fastest = &outcome;
    }
  }
  return fastest;
}

const Outcome& FoundingTarget::best() const {
  return *std::max_element(outcomes.begin(), outcomes.end(),
                           [this](const Outcome& a, const Outcome& b) {
                             return SmallerIsBetter(kind) ? a.value > b.value : a.value < b.value;
                           });
}

absl::StatusOr<FoundingReport> EvaluateFounding(const Scenario& scenario,
                                                const std::vector<ExchangeLibrary>& libraries) {
  absl::Status status = CheckScenario(scenario);
  if (!status.ok()) return status;
  FoundingReport report;
  report.attempts = MakeAttempts(scenario, libraries);
  const Attempt* works = nullptr;
  for (const Attempt& attempt : report.attempts) {
    if (!attempt.prediction.has_value()) continue;
    if (works == nullptr) works = &attempt;
    if (!report.spread.has_value() && attempt.layout.expert > 1 &&
        !attempt.layout.replicated_attention) {
      report.spread = SpreadExperts(attempt.scenario, attempt.layout);
    }
  }
  if (works == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no attempt can run the founding batch of ", kFoundingBatch,
                     " sequences: ", report.attempts.back().refusal));
  }
  struct Goal {
    TargetKind kind;
    double goal;
  };
  for (const Goal& goal :
       {Goal{TargetKind::kTime, kFoundingSeconds}, Goal{TargetKind::kRate, kFoundingRate},
        Goal{TargetKind::kUtilization, kFoundingUtilization},
        Goal{TargetKind::kMemory, kFoundingMemoryEfficiency},
        Goal{TargetKind::kLatencySaved, kFoundingLatencySaved},
        Goal{TargetKind::kSpeedup, kFoundingSpeedup}}) {
    if (goal.kind == TargetKind::kLatencySaved && !report.spread.has_value()) continue;
    FoundingTarget target{.kind = goal.kind, .goal = goal.goal};
    for (size_t i = 0; i < report.attempts.size(); ++i) {
      const Attempt& attempt = report.attempts[i];
      if (!attempt.prediction.has_value()) continue;
      Outcome outcome{.attempt = i};
      outcome.value = ValueOf(goal.kind, attempt, *attempt.prediction, report.spread);
      outcome.met = Meets(goal.kind, outcome.value, goal.goal);
      const bool has_batch = goal.kind != TargetKind::kTime && goal.kind != TargetKind::kRate;
      if (!outcome.met && has_batch) {
        FindBatch(goal.kind, goal.goal, attempt, report.spread, &outcome);
      }
      target.outcomes.push_back(outcome);
    }
    report.targets.push_back(std::move(target));
  }
  return report;
}

}  // namespace moe::planner
