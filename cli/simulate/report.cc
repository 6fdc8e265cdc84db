#include "cli/simulate/report.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "cli/plan/report.h"
#include "cli/plan/text_table.h"
#include "planner/feasibility.h"

namespace moe::cli {
namespace {

using Json = nlohmann::json;
using planner::WithThousands;
using simulator::Config;
using simulator::Distribution;
using simulator::Recovery;
using simulator::Result;
using simulator::StepTotals;

std::string Count(int64_t count) { return WithThousands(static_cast<double>(count)); }
std::string Milliseconds(double seconds) {
  return seconds >= 0.1 ? WithThousands(seconds * 1e3) : absl::StrFormat("%.2f", seconds * 1e3);
}
std::string Percent(double share) { return absl::StrFormat("%.1f%%", share * 100); }

int64_t KvTokens(const Result& result) {
  return int64_t{result.leader.limits.kv_blocks_per_owner} * result.leader.limits.kv_block_tokens;
}

std::string FormatSetting(const Config& config, const LoadText& load, const Result& result) {
  const planner::Layout& layout = config.layout;
  const engine::SchedulerLimits& limits = result.leader.limits;
  std::string text = FormatHardware(config.scenario);
  absl::StrAppendFormat(
      &text, "layout  %s: %s of %d ranks, %s; %s\n", LayoutName(layout),
      layout.data == 1 ? "1 group" : absl::StrCat(Count(layout.data), " groups"), layout.expert,
      layout.replicated_attention ? "attention on all"
                                  : absl::StrFormat("%d with attention", layout.attention_ranks),
      layout.expert == 1 ? "nothing moves" : DescribeExchange(layout.exchange));
  absl::StrAppendFormat(
      &text,
      "load    %s for %s, %s input and %s output tokens; router %s; seed %d\n"
      "limits  a group runs %s sequences and %s rows in a step, %s may wait; KV cache of %s tokens "
      "on each attention rank\n",
      load.arrivals, absl::FormatDuration(config.duration), load.input_tokens, load.output_tokens,
      load.router, config.seed, Count(limits.max_sequences), Count(limits.max_step_tokens),
      Count(result.leader.max_queue), Count(KvTokens(result)));
  return text;
}

std::string FormatRequests(const Result& r) {
  std::string text = absl::StrFormat("requests  %s arrived, %s completed", Count(r.num_arrived),
                                     Count(r.num_completed));
  const auto add = [&text](int64_t count, const char* what) {
    if (count > 0) absl::StrAppend(&text, ", ", Count(count), " ", what);
  };
  add(r.num_rejected, "refused by a full queue (429)");
  add(r.num_too_long, "too long");
  add(r.num_failed, "failed");
  add(r.num_in_flight, "still in flight");
  add(r.num_moved, "went on in another group");
  absl::StrAppendFormat(&text, "; the last one ended at %.1f s\n", r.last_end_seconds);
  absl::StrAppendFormat(
      &text, "rates     %s requests/s completed, %s output tokens/s, over %.4g s\n",
      Figure(static_cast<double>(r.num_completed_in_window) / r.window_seconds),
      WithThousands(static_cast<double>(r.num_output_tokens_in_window) / r.window_seconds),
      r.window_seconds);
  return text;
}

std::string FormatLatencies(const Result& result) {
  TextTable table({"<milliseconds", "mean", "p50", "p90", "p99", "max"});
  const auto add = [&table](const char* name, const Distribution& d) {
    table.AddRow({name, Milliseconds(d.mean), Milliseconds(d.p50), Milliseconds(d.p90),
                  Milliseconds(d.p99), Milliseconds(d.max)});
  };
  add("time to first token", result.first_token);
  add("time per output token", result.per_output_token);
  add("between two tokens", result.between_tokens);
  add("end to end", result.end_to_end);
  return table.Format();
}

std::string FormatEngine(const Result& result) {
  std::string text;
  TextTable table({"<each group", "mean", "p50", "p90", "p99", "max"});
  const auto add = [&table](const char* name, const Distribution& d, const auto& format) {
    table.AddRow(
        {name, format(d.mean), format(d.p50), format(d.p90), format(d.p99), format(d.max)});
  };
  const auto number = [](double value) { return Figure(value); };
  add("sequences that run", result.running, number);
  add("sequences that wait", result.waiting, number);
  add("KV cache in use", result.kv_usage, Percent);
  // Leaders say it once a second.
  if (result.running.count > 0) text = table.Format();
  absl::StrAppendFormat(
      &text, "%s preemptions; %s prompt tokens computed, of %s in the prompts that were answered\n",
      Count(static_cast<int64_t>(result.num_preemptions)),
      Count(static_cast<int64_t>(result.num_computed_prompt_tokens)),
      Count(result.num_input_tokens));
  return text;
}

struct Part {
  const char* name;
  double seconds;
};

std::vector<Part> PartsOf(const StepTotals& s) {
  return {{"attention", s.attention_seconds},
          {"KV", s.kv_seconds},
          {"router and dense", s.dense_seconds},
          {"experts", s.expert_seconds},
          {"head", s.head_seconds},
          {"exchange", s.exchange_seconds},
          {"tensor", s.tensor_seconds},
          {"host", s.host_seconds},
          {"steps as measured", s.measured_seconds}};
}

std::string FormatUtilization(const Result& result) {
  const StepTotals& s = result.steps;
  std::string text;
  if (s.num_steps > 0) {
    const auto steps = static_cast<double>(s.num_steps);
    absl::StrAppendFormat(
        &text,
        "steps     %s of %s ms and %s rows on average, %s with rows of prompts; busiest rank %.2f "
        "times the mean\n",
        Count(s.num_steps), Milliseconds(s.seconds / steps), Figure(s.rows / steps),
        Percent(static_cast<double>(s.num_prefill_steps) / steps), s.traffic / steps);
  }
  if (result.group_seconds <= 0) return text;
  const double all = result.group_seconds;
  std::vector<std::string> parts;
  for (const Part& part : PartsOf(s)) {
    if (part.seconds <= 0) continue;
    parts.push_back(absl::StrCat(part.name, " ", Percent(part.seconds / all)));
  }
  if (s.hidden_seconds > 0) {
    parts.push_back(absl::StrCat("hidden -", Percent(s.hidden_seconds / all)));
  }
  if (result.down_seconds > 0) {
    parts.push_back(absl::StrCat("no epoch ", Percent(result.down_seconds / all)));
  }
  const double idle = std::max(0.0, all - s.seconds - result.down_seconds);
  parts.push_back(absl::StrCat("idle ", Percent(idle / all)));
  absl::StrAppend(&text, "time      ", absl::StrJoin(parts, ", "), "\n");
  // What is measured has no parts.
  if (s.busy_seconds > 0) {
    absl::StrAppend(&text, "GPUs      compute or read memory for ", Percent(s.busy_seconds / all),
                    " of the time, on average\n");
  }
  return text;
}

std::string FormatRecoveries(const Result& result) {
  if (result.recoveries.empty()) return "";
  TextTable table({"<failure", "group", "ranks", "at s", "known after s", "epoch", "active after s",
                   "token after s", "sequences", "KV tokens lost"});
  for (const Recovery& r : result.recoveries) {
    const auto after = [&r](const std::optional<double>& time) {
      return time.has_value() ? absl::StrFormat("%.2f", *time - r.failed_at) : std::string("never");
    };
    table.AddRow({r.what, absl::StrCat(r.group), absl::StrCat(r.num_ranks),
                  absl::StrFormat("%.2f", r.failed_at), after(r.detected_at),
                  r.active_at.has_value() ? absl::StrCat(r.epoch_after) : std::string("-"),
                  after(r.active_at), after(r.token_at), Count(r.num_sequences),
                  Count(r.lost_kv_tokens)});
  }
  return absl::StrCat("\n", table.Format());
}

std::string FormatBasis(const Config& config, const LoadText& load, const Result& result) {
  const simulator::ProcessTimes& t = config.times;
  return absl::StrFormat(
      "\nSimulated, not measured: %s\n(docs/simulator.md). From nothing to every group serving "
      "took "
      "%.1f s: %s until a process connects,\nweights at %.3g GB/s, %s to join the ranks; each of "
      "the "
      "three is assumed.\n",
      load.steps.empty()
          ? absl::StrCat("step times are the planner's, which is ",
                         config.scenario.device.calibrated() ? "calibrated on this machine"
                                                             : "not calibrated on hardware yet")
          : absl::StrCat("only step times are, in ", load.steps),
      result.startup_seconds, absl::FormatDuration(t.start), t.load_bytes_per_second / 1e9,
      absl::FormatDuration(t.connect));
}

Json ToJson(const Distribution& d) {
  return {{"count", d.count}, {"mean", d.mean}, {"p50", d.p50},
          {"p90", d.p90},     {"p99", d.p99},   {"max", d.max}};
}

Json ToJson(const std::optional<double>& value) {
  return value.has_value() ? Json(*value) : Json(nullptr);
}

Json ToJson(const Recovery& r) {
  return {{"failure", r.what},
          {"group", r.group},
          {"ranks", r.num_ranks},
          {"failed_at_seconds", r.failed_at},
          {"detected_at_seconds", ToJson(r.detected_at)},
          {"active_at_seconds", ToJson(r.active_at)},
          {"token_at_seconds", ToJson(r.token_at)},
          {"epoch_before", r.epoch_before},
          {"epoch_after", r.epoch_after},
          {"sequences", r.num_sequences},
          {"lost_kv_tokens", r.lost_kv_tokens}};
}

Json ScenarioToJson(const Config& config, const LoadText& load, const Result& result) {
  const planner::Scenario& s = config.scenario;
  const engine::SchedulerLimits& limits = result.leader.limits;
  const simulator::ProcessTimes& t = config.times;
  Json failures = Json::array();
  for (const simulator::Failure& failure : config.failures) {
    failures.push_back(
        {{"at_seconds", absl::ToDoubleSeconds(failure.at)}, {"what", DescribeFailure(failure)}});
  }
  return {{"model", s.model.name},
          {"layout", LayoutName(config.layout)},
          {"gpus", config.layout.num_gpus()},
          {"gpu", s.device.name},
          {"gpus_per_node", s.network.gpus_per_node},
          {"link_bytes_per_second", s.network.link_bytes_per_second},
          {"exchange_library", s.network.library.name},
          {"arrivals", load.arrivals},
          {"input_tokens", load.input_tokens},
          {"output_tokens", load.output_tokens},
          {"router", load.router},
          {"duration_seconds", absl::ToDoubleSeconds(config.duration)},
          {"seed", config.seed},
          {"failures", std::move(failures)},
          {"limits",
           {{"max_sequences", limits.max_sequences},
            {"max_step_tokens", limits.max_step_tokens},
            {"max_queue", result.leader.max_queue},
            {"max_context", result.leader.max_context},
            {"kv_tokens_of_attention_rank", KvTokens(result)}}},
          {"assumed",
           {{"start_seconds", absl::ToDoubleSeconds(t.start)},
            {"load_bytes_per_second", t.load_bytes_per_second},
            {"connect_seconds", absl::ToDoubleSeconds(t.connect)},
            {"report_seconds", absl::ToDoubleSeconds(t.exit_report)},
            {"step_deadline_seconds", absl::ToDoubleSeconds(t.step_deadline)}}},
          {"step_times", load.steps.empty() ? "planner" : load.steps},
          {"calibrated", s.device.calibrated()}};
}

}  // namespace

std::string FormatSimulation(const Config& config, const LoadText& load, const Result& result) {
  return absl::StrCat(FormatSetting(config, load, result), "\n", FormatRequests(result), "\n",
                      FormatLatencies(result), "\n", FormatEngine(result), "\n",
                      FormatUtilization(result), FormatRecoveries(result),
                      FormatBasis(config, load, result));
}

Json SimulationToJson(const Config& config, const LoadText& load, const Result& r) {
  const StepTotals& s = r.steps;
  Json parts = Json::object();
  for (const Part& part : PartsOf(s)) parts[part.name] = part.seconds;
  Json limits = Json::object();
  for (size_t i = 0; i < s.by_limit.size(); ++i) {
    limits[DescribeLimit(static_cast<planner::Limit>(i))] = s.by_limit[i];
  }
  Json recoveries = Json::array();
  for (const Recovery& recovery : r.recoveries) recoveries.push_back(ToJson(recovery));
  return {{"scenario", ScenarioToJson(config, load, r)},
          {"requests",
           {{"arrived", r.num_arrived},
            {"completed", r.num_completed},
            {"rejected", r.num_rejected},
            {"too_long", r.num_too_long},
            {"failed", r.num_failed},
            {"in_flight", r.num_in_flight},
            {"moved", r.num_moved},
            {"mean_in_flight", r.mean_in_flight},
            {"completed_per_second",
             static_cast<double>(r.num_completed_in_window) / r.window_seconds}}},
          {"tokens",
           {{"output", r.num_output_tokens},
            {"input", r.num_input_tokens},
            {"computed_of_prompts", r.num_computed_prompt_tokens},
            {"output_per_second",
             static_cast<double>(r.num_output_tokens_in_window) / r.window_seconds}}},
          {"seconds",
           {{"first_token", ToJson(r.first_token)},
            {"per_output_token", ToJson(r.per_output_token)},
            {"between_tokens", ToJson(r.between_tokens)},
            {"end_to_end", ToJson(r.end_to_end)},
            {"last_end", r.last_end_seconds},
            {"total", r.total_seconds},
            {"startup", r.startup_seconds}}},
          {"groups",
           {{"running", ToJson(r.running)},
            {"waiting", ToJson(r.waiting)},
            {"kv_usage", ToJson(r.kv_usage)},
            {"preemptions", r.num_preemptions}}},
          {"steps",
           {{"count", s.num_steps},
            {"with_prompts", s.num_prefill_steps},
            {"rows", s.rows},
            {"traffic_max_over_mean",
             s.num_steps > 0 ? s.traffic / static_cast<double>(s.num_steps) : 1},
            {"seconds", s.seconds},
            {"hidden_seconds", s.hidden_seconds},
            {"seconds_by_part", std::move(parts)},
            {"seconds_by_limit", std::move(limits)}}},
          {"utilization",
           {{"group_seconds", r.group_seconds},
            {"step_share", r.group_seconds > 0 ? s.seconds / r.group_seconds : 0},
            {"busy_share", r.group_seconds > 0 ? s.busy_seconds / r.group_seconds : 0},
            {"down_share", r.group_seconds > 0 ? r.down_seconds / r.group_seconds : 0}}},
          {"recoveries", std::move(recoveries)}};
}

}  // namespace moe::cli
