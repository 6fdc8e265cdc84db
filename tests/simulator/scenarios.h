// Deployments whose steps take a time that can be computed by hand.
#ifndef MOE_TESTS_SIMULATOR_SCENARIOS_H_
#define MOE_TESTS_SIMULATOR_SCENARIOS_H_

#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "simulator/simulation.h"
#include "tests/planner/scenarios.h"

namespace moe::simulator {

// Every step takes 10 ms, whatever is in it: memory, peak and links are as good as endless.
inline planner::Scenario TenMillisecondSteps() {
  planner::Scenario scenario = planner::OlmoeOn(1);
  scenario.device.memory_bytes_per_second = 1e30;
  scenario.device.bf16_flops = 1e30;
  scenario.device.node_link_bytes_per_second = 1e30;
  scenario.network.link_bytes_per_second = 1e30;
  scenario.network.library = {.name = "instant", .title = "no time at all"};
  scenario.assumptions.step_host_seconds = 10e-3;
  scenario.assumptions.captured_layer_seconds = 0;
  scenario.assumptions.eager_layer_seconds = 0;
  return scenario;
}

inline Config TenMillisecondConfig(const char* layout) {
  Config config;
  config.scenario = TenMillisecondSteps();
  config.layout = planner::ParseLayout(layout).value();
  config.duration = absl::Seconds(1);
  return config;
}

inline Config OlmoeConfig(const char* layout, const Arrivals& arrivals, absl::Duration duration,
                          uint64_t seed = 1) {
  Config config;
  config.layout = planner::ParseLayout(layout).value();
  config.scenario = planner::OlmoeOn(static_cast<int>(config.layout.num_gpus()));
  config.duration = duration;
  config.seed = seed;
  config.requests = DrawRequests(arrivals, {.tokens = 512}, {.tokens = 32}, duration, seed).value();
  return config;
}

inline Request At(double seconds, int input_tokens, int output_tokens) {
  return {.arrival = absl::Seconds(seconds),
          .input_tokens = input_tokens,
          .output_tokens = output_tokens};
}

inline int64_t NumOutputTokens(const Config& config) {
  int64_t tokens = 0;
  for (const Request& request : config.requests) tokens += request.output_tokens;
  return tokens;
}

// Everything that a run gives, to the last bit.
inline std::string Everything(const Result& result) {
  std::string text = absl::StrFormat(
      "%d %d %d %d %d %d %d %d %a %a %a", result.num_arrived, result.num_completed,
      result.num_rejected, result.num_failed, result.num_in_flight, result.num_output_tokens,
      result.num_computed_prompt_tokens, result.num_preemptions, result.total_seconds,
      result.mean_in_flight, result.steps.seconds);
  for (const Distribution& d : {result.first_token, result.per_output_token, result.between_tokens,
                                result.end_to_end, result.running, result.kv_usage}) {
    text += absl::StrFormat(" %a %a %a %a %a", d.mean, d.p50, d.p90, d.p99, d.max);
  }
  for (const Recovery& r : result.recoveries) {
    text += absl::StrFormat(" %s %d %a %a %a %a %d", r.what, r.group, r.failed_at,
                            r.detected_at.value_or(-1), r.active_at.value_or(-1),
                            r.token_at.value_or(-1), r.lost_kv_tokens);
  }
  return text;
}

}  // namespace moe::simulator

#endif  // MOE_TESTS_SIMULATOR_SCENARIOS_H_
