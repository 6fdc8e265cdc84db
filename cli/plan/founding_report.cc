#include "cli/plan/founding_report.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/plan/report.h"
#include "cli/plan/text_table.h"
#include "planner/feasibility.h"

namespace moe::cli {
namespace {

using planner::Attempt;
using planner::FoundingTarget;
using planner::Outcome;
using planner::TargetKind;
using planner::WithThousands;

std::string Value(TargetKind kind, double value) {
  switch (kind) {
    case TargetKind::kTime:
      return absl::StrFormat("%.2f ms", value * 1e3);
    case TargetKind::kRate:
      return absl::StrCat(WithThousands(value), " seq/s");
    case TargetKind::kUtilization:
    case TargetKind::kMemory:
    case TargetKind::kLatencySaved:
      return absl::StrFormat("%.3g%%", value * 100);
    case TargetKind::kSpeedup:
      return absl::StrFormat("%.2gx", value);
  }
  return "";
}

std::string Heading(const FoundingTarget& target, const planner::FoundingReport& report) {
  const std::string goal = Value(target.kind, target.goal);
  switch (target.kind) {
    case TargetKind::kTime:
      return absl::StrCat("a forward pass in ", goal);
    case TargetKind::kRate:
      return absl::StrFormat("%s, in passes of at most %.0f ms", goal,
                             planner::kFoundingSeconds * 1e3);
    case TargetKind::kUtilization:
      return absl::StrCat("GPUs busy for ", goal, " of a pass");
    case TargetKind::kMemory:
      return absl::StrCat(goal, " of the memory in use holds nothing twice");
    case TargetKind::kLatencySaved:
      return absl::StrFormat("%s to 70%% lower latency than experts that are cut over GPUs (%s)",
                             goal, LayoutName(*report.spread));
    case TargetKind::kSpeedup:
      return absl::StrFormat("%s to 10x the rate of ranks that compute one after another", goal);
  }
  return "";
}

// "2.1 times the goal" in the direction of the goal, or "38% short of it".
std::string Distance(const FoundingTarget& target, double value) {
  if (value <= 0) return "not at all";
  const double ratio = target.kind == TargetKind::kTime ? target.goal / value : value / target.goal;
  if (ratio >= 1) return absl::StrFormat("%.2f times the goal", ratio);
  return absl::StrFormat("%.0f%% of the goal", ratio * 100);
}

std::string WhatStandsInTheWay(TargetKind kind, const Attempt& attempt) {
  if (kind == TargetKind::kMemory) {
    const planner::MemoryUse& use = attempt.prediction->memory;
    return absl::StrFormat(
        "of %.1f GB on a GPU, %.1f GB are weights (%.0f%% of a group's held once), %.1f GB buffers "
        "and reserve, %.1f GB KV cache",
        use.total_bytes() / 1e9, use.weight_bytes() / 1e9,
        attempt.prediction->memory_efficiency.unique_weight_share * 100,
        (use.buffer_bytes + use.reserved_bytes) / 1e9, use.kv_bytes / 1e9);
  }
  const planner::ForwardTime& forward = attempt.prediction->forward;
  const planner::Limit limit = forward.main_limit();
  return absl::StrFormat("%s takes %.2f of %.2f ms", DescribeLimit(limit),
                         forward.by_limit[static_cast<size_t>(limit)] * 1e3,
                         forward.total_seconds() * 1e3);
}

std::string FormatTarget(const FoundingTarget& target, const planner::FoundingReport& report) {
  std::string text = absl::StrCat("\n", Heading(target, report), "\n");
  TextTable table({"", "<", "<", "<", "<"});
  for (const Outcome& outcome : target.outcomes) {
    const Attempt& attempt = report.attempts[outcome.attempt];
    std::string more;
    if (outcome.batch_that_meets.has_value()) {
      more = absl::StrFormat("reached at %s sequences, in passes of %.2f ms",
                             WithThousands(*outcome.batch_that_meets), outcome.seconds_there * 1e3);
    }
    table.AddRow(
        {"", absl::StrCat(outcome.attempt + 1, "."), Value(target.kind, outcome.value),
         absl::StrCat(outcome.met ? "reached, " : "not reached, ", Distance(target, outcome.value)),
         more.empty() && !outcome.met ? WhatStandsInTheWay(target.kind, attempt) : more});
  }
  absl::StrAppend(&text, table.Format());
  if (const Outcome* met = target.first_met(); met != nullptr) {
    absl::StrAppendFormat(&text, "   => %s, by attempt %d: %s\n",
                          met->attempt == 0 ? "reached as founded" : "reached with a change",
                          met->attempt + 1, report.attempts[met->attempt].change);
  } else {
    const Outcome& best = target.best();
    absl::StrAppendFormat(&text, "   => not reached; nearest is attempt %d (%s): %s\n",
                          best.attempt + 1, report.attempts[best.attempt].change,
                          WhatStandsInTheWay(target.kind, report.attempts[best.attempt]));
    if (const Outcome* other = target.met_elsewhere(); other != nullptr) {
      absl::StrAppendFormat(
          &text,
          "      reached with %s sequences in flight by attempt %d (%s), in passes of %.2f ms\n",
          WithThousands(*other->batch_that_meets), other->attempt + 1,
          report.attempts[other->attempt].change, other->seconds_there * 1e3);
    }
  }
  return text;
}

}  // namespace

std::string FormatFounding(const planner::Scenario& scenario,
                           const planner::FoundingReport& report) {
  planner::Scenario shown = scenario;
  shown.batch = planner::kFoundingBatch;
  std::string text = FormatScenario(shown);
  absl::StrAppendFormat(
      &text, "\n%s sequences in flight: what %s seq/s in passes of %.0f ms come to, by attempt\n",
      WithThousands(planner::kFoundingBatch), WithThousands(planner::kFoundingRate),
      planner::kFoundingSeconds * 1e3);
  TextTable table({"", "<", "<layout", "ms", "<limited by", "<how"});
  for (size_t i = 0; i < report.attempts.size(); ++i) {
    const Attempt& attempt = report.attempts[i];
    table.AddRow(
        {"", absl::StrCat(i + 1, "."), LayoutName(attempt.layout),
         attempt.prediction.has_value()
             ? absl::StrFormat("%.2f", attempt.prediction->forward.total_seconds() * 1e3)
             : "-",
         attempt.prediction.has_value() ? DescribeLimit(attempt.prediction->forward.main_limit())
                                        : "cannot work",
         attempt.prediction.has_value() ? attempt.change
                                        : absl::StrCat(attempt.change, ": ", attempt.refusal)});
  }
  absl::StrAppend(&text, table.Format());
  for (const FoundingTarget& target : report.targets) {
    absl::StrAppend(&text, FormatTarget(target, report));
  }
  absl::StrAppend(&text, "\nNo worker has run on a GPU yet: these are predictions.\n",
                  FormatAssumptions(scenario));
  return text;
}

}  // namespace moe::cli
