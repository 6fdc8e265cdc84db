#include "cli/plan/json_report.h"

namespace moe::cli {
namespace {

using Json = nlohmann::json;
using planner::Prediction;
using planner::Scenario;

Json ScenarioToJson(const Scenario& scenario) {
  const planner::Assumptions& a = scenario.assumptions;
  Json json = {
      {"model", scenario.model.name},
      {"parameters", scenario.model.total_params()},
      {"weight_bytes", scenario.model.total_bytes()},
      {"kv_bytes_per_token", scenario.model.kv_bytes_per_token()},
      {"gpus", scenario.num_gpus},
      {"gpu", scenario.device.name},
      {"gpus_per_node", scenario.network.gpus_per_node},
      {"link_bytes_per_second", scenario.network.link_bytes_per_second},
      {"exchange_library", scenario.network.library.name},
      {"input_tokens", scenario.input_tokens},
      {"output_tokens", scenario.output_tokens},
      {"target", DescribeTarget(scenario.target)},
      {"calibrated", scenario.device.calibrated()},
      {"assumptions",
       {{"memory_efficiency", scenario.device.memory_efficiency},
        {"compute_efficiency", scenario.device.compute_efficiency},
        {"reserved_bytes", a.reserved_bytes},
        {"prefill_rows", a.prefill_rows},
        {"step_host_seconds", a.step_host_seconds},
        {"captured_layer_seconds", a.captured_layer_seconds},
        {"eager_layer_seconds", a.eager_layer_seconds},
        {"half_batches", a.overlap == planner::Overlap::kHalfBatches},
        {"exchange_is_free", a.overlap == planner::Overlap::kFree},
        {"router_max_over_mean", a.router_max_over_mean}}},
  };
  if (scenario.batch.has_value()) json["batch"] = *scenario.batch;
  return json;
}

Json TimeToJson(const planner::ForwardTime& f) {
  return {{"attention", f.attention_seconds}, {"kv", f.kv_seconds},
          {"router", f.router_seconds},       {"dense", f.dense_seconds},
          {"experts", f.expert_seconds},      {"head", f.head_seconds},
          {"dispatch", f.dispatch_seconds},   {"combine", f.combine_seconds},
          {"tensor", f.tensor_seconds},       {"pipeline", f.pipeline_seconds},
          {"host", f.host_seconds},           {"hidden", f.hidden_seconds},
          {"total", f.total_seconds()}};
}

Json PredictionToJson(const Scenario& scenario, const Prediction& p, std::optional<double> price) {
  const planner::MemoryUse& m = p.memory;
  Json json = {
      {"layout", LayoutName(p.layout)},
      {"strategy", StrategyName(p.layout)},
      {"expert", p.layout.expert},
      {"tensor", p.layout.tensor},
      {"pipeline", p.layout.pipeline},
      {"data", p.layout.data},
      {"attention", p.layout.replicated_attention ? "replicated" : "split"},
      {"attention_ranks", p.layout.attention_ranks},
      {"exchange", ExchangeName(p.layout.exchange)},
      {"expert_copies", p.layout.copies},
      {"spares", p.layout.spares},
      {"gpus", p.layout.num_gpus()},
      {"not_built", WhatIsNotBuilt(p.layout)},
      {"meets_target", p.meets_target},
      {"sequences", p.total_sequences()},
      {"max_sequences", static_cast<double>(p.max_sequences) * p.layout.data},
      {"forward_seconds", TimeToJson(p.forward)},
      {"limited_by", DescribeLimit(p.forward.main_limit())},
      {"sequences_per_second", p.sequences_per_second},
      {"completed_requests_per_second", p.completed_per_second},
      {"output_tokens_per_second", p.output_tokens_per_second},
      {"first_token_seconds", p.first_token_seconds},
      {"utilization", p.utilization},
      {"placement_variance", 0},
      {"traffic_max_over_mean", p.forward.traffic_max_over_mean},
      {"memory_bytes",
       {{"attention", m.attention_bytes},
        {"vocabulary", m.vocabulary_bytes},
        {"dense", m.dense_bytes},
        {"experts", m.expert_bytes},
        {"kv", m.kv_bytes},
        {"buffers", m.buffer_bytes},
        {"reserved", m.reserved_bytes},
        {"total", m.total_bytes()}}},
      {"memory_unique_share", p.memory_efficiency.unique_share},
      {"memory_unique_weight_share", p.memory_efficiency.unique_weight_share},
      {"memory_used_share", p.memory_efficiency.used_share},
  };
  if (price.has_value()) {
    json["cost_per_million_output_tokens"] = CostPerMillionTokens(scenario, p, *price);
  }
  return json;
}

Json SweepToJson(const planner::Sweep& sweep, const std::vector<Prediction>& predictions) {
  Json crossovers = Json::array();
  for (const planner::Crossover& crossover : sweep.crossovers) {
    crossovers.push_back({{"value", crossover.value},
                          {"from", LayoutName(predictions[crossover.from].layout)},
                          {"to", LayoutName(predictions[crossover.to].layout)},
                          {"out_of_memory", crossover.out_of_memory}});
  }
  Json rates = Json::object();
  for (size_t i = 0; i < predictions.size(); ++i) {
    rates[LayoutName(predictions[i].layout)] = sweep.sequences_per_second[i];
  }
  return {{"axis", AxisName(sweep.axis)},
          {"values", sweep.values},
          {"sequences_per_second", rates},
          {"fastest_at_first_value", LayoutName(predictions[sweep.best_at_min].layout)},
          {"crossovers", crossovers}};
}

const char* NameOf(planner::TargetKind kind) {
  switch (kind) {
    case planner::TargetKind::kTime:
      return "forward_seconds";
    case planner::TargetKind::kRate:
      return "sequences_per_second";
    case planner::TargetKind::kUtilization:
      return "utilization";
    case planner::TargetKind::kMemory:
      return "memory_unique_share";
    case planner::TargetKind::kLatencySaved:
      return "latency_saved";
    case planner::TargetKind::kSpeedup:
      return "speedup";
  }
  return "";
}

}  // namespace

Json SearchToJson(const Scenario& scenario, const planner::SearchResult& result,
                  std::optional<double> price) {
  Json ranked = Json::array();
  for (const Prediction& p : result.ranked) {
    ranked.push_back(PredictionToJson(scenario, p, price));
  }
  Json refused = Json::array();
  for (const planner::Refusal& refusal : result.refused) {
    refused.push_back({{"layout", refusal.layout}, {"reason", refusal.reason}});
  }
  return {{"scenario", ScenarioToJson(scenario)},
          {"layouts_looked_at", result.num_layouts},
          {"ranked", ranked},
          {"refused", refused}};
}

Json ComparisonToJson(const Scenario& scenario, const planner::Comparison& comparison,
                      std::optional<double> price) {
  Json layouts = Json::array();
  for (const Prediction& p : comparison.predictions) {
    layouts.push_back(PredictionToJson(scenario, p, price));
  }
  Json sweeps = Json::array();
  for (const planner::Sweep& sweep : comparison.sweeps) {
    sweeps.push_back(SweepToJson(sweep, comparison.predictions));
  }
  return {{"scenario", ScenarioToJson(scenario)},
          {"batch", comparison.batch},
          {"layouts", layouts},
          {"sweeps", sweeps}};
}

Json FoundingToJson(const Scenario& scenario, const planner::FoundingReport& report) {
  Json attempts = Json::array();
  for (const planner::Attempt& attempt : report.attempts) {
    Json json = {{"change", attempt.change}, {"layout", LayoutName(attempt.layout)}};
    if (attempt.prediction.has_value()) {
      json["prediction"] = PredictionToJson(attempt.scenario, *attempt.prediction, std::nullopt);
    } else {
      json["refusal"] = attempt.refusal;
    }
    attempts.push_back(std::move(json));
  }
  Json targets = Json::array();
  for (const planner::FoundingTarget& target : report.targets) {
    Json outcomes = Json::array();
    for (const planner::Outcome& outcome : target.outcomes) {
      Json json = {{"attempt", outcome.attempt}, {"value", outcome.value}, {"met", outcome.met}};
      if (outcome.batch_that_meets.has_value()) {
        json["batch_that_meets"] = *outcome.batch_that_meets;
        json["forward_seconds_there"] = outcome.seconds_there;
      }
      outcomes.push_back(std::move(json));
    }
    targets.push_back(
        {{"target", NameOf(target.kind)}, {"goal", target.goal}, {"outcomes", outcomes}});
  }
  return {{"scenario", ScenarioToJson(scenario)},
          {"batch", planner::kFoundingBatch},
          {"attempts", attempts},
          {"targets", targets}};
}

}  // namespace moe::cli
