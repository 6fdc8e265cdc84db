// Tests gateway/metrics/gateway_metrics.h and gateway/stats_line.h.
#include "gateway/metrics/gateway_metrics.h"

#include <string>

#include "gateway/stats_line.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::gateway {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(GatewayMetricsTest, HasVllmNamesAndBuckets) {
  GatewayMetrics metrics("m", 4096);
  metrics.OnFirstToken(absl::Milliseconds(30), 12);
  metrics.OnToken();
  metrics.OnInterToken(absl::Milliseconds(30));
  FinishedChoice choice;
  choice.reason = FinishedReason::kLength;
  choice.num_prompt_tokens = 12;
  choice.num_generated_tokens = 2;
  choice.end_to_end = absl::Milliseconds(700);
  choice.has_first_token = true;
  choice.queue_seconds = 0.4;
  choice.prefill_seconds = 0.2;
  choice.decode = absl::Milliseconds(100);
  metrics.OnFinished(choice);
  EngineView view;
  view.stats.set_num_running(3);
  view.stats.set_num_waiting(4);
  view.stats.set_kv_usage(0.5);
  view.welcome.set_epoch(9);
  const std::string text = metrics.Serialize(view);
  for (const char* line : {
           "vllm:num_requests_running{model_name=\"m\"} 3",
           "vllm:num_requests_waiting{model_name=\"m\"} 4",
           "vllm:kv_cache_usage_perc{model_name=\"m\"} 0.5",
           "vllm:prompt_tokens_total{model_name=\"m\"} 12",
           "vllm:generation_tokens_total{model_name=\"m\"} 1",
           "vllm:request_success_total{finished_reason=\"length\",model_name=\"m\"} 1",
           "vllm:request_success_total{finished_reason=\"abort\",model_name=\"m\"} 0",
           "vllm:time_to_first_token_seconds_bucket{model_name=\"m\",le=\"0.02\"} 0",
           "vllm:time_to_first_token_seconds_bucket{model_name=\"m\",le=\"0.04\"} 1",
           "vllm:time_to_first_token_seconds_bucket{model_name=\"m\",le=\"2560\"} 1",
           "vllm:inter_token_latency_seconds_bucket{model_name=\"m\",le=\"0.05\"} 1",
           "vllm:request_time_per_output_token_seconds_bucket{model_name=\"m\",le=\"0.1\"} 1",
           "vllm:e2e_request_latency_seconds_bucket{model_name=\"m\",le=\"0.8\"} 1",
           "vllm:request_queue_time_seconds_bucket{model_name=\"m\",le=\"0.3\"} 0",
           "vllm:request_prefill_time_seconds_bucket{model_name=\"m\",le=\"0.3\"} 1",
           "vllm:request_decode_time_seconds_count{model_name=\"m\"} 1",
           "vllm:request_inference_time_seconds_bucket{model_name=\"m\",le=\"0.5\"} 1",
           "vllm:request_prompt_tokens_bucket{model_name=\"m\",le=\"10\"} 0",
           "vllm:request_prompt_tokens_bucket{model_name=\"m\",le=\"20\"} 1",
           "vllm:request_generation_tokens_bucket{model_name=\"m\",le=\"2000\"} 1",
           "moe_epoch{model_name=\"m\"} 9",
           "moe_rejected_requests_total{model_name=\"m\",reason=\"queue_full\"} 0",
       }) {
    EXPECT_THAT(text, HasSubstr(std::string(line) + "\n"));
  }
  EXPECT_EQ(metrics.num_prompt_tokens(), 12);
}

TEST(GatewayMetricsTest, CountersOnlyGrowWhenAnEngineStartsAnew) {
  GatewayMetrics metrics("m", 512);
  EngineView view;
  view.groups.resize(1);
  for (const uint64_t preemptions : {5, 7, 2, 2}) {
    view.groups[0].stats.set_num_preemptions(preemptions);
    metrics.Serialize(view);
  }
  EXPECT_THAT(metrics.Serialize(view),
              HasSubstr("vllm:num_preemptions_total{model_name=\"m\"} 9\n"));
}

TEST(GatewayMetricsTest, EachGroupHasItsSeriesAsLongAsItExists) {
  GatewayMetrics metrics("m", 512);
  EngineView view;
  view.num_moved = 3;
  for (const int index : {0, 12}) {
    GroupView& group = view.groups.emplace_back();
    group.name = "ns/m/" + std::to_string(index);
    group.serving = index == 12;
    group.state.set_draining(index == 0);
    group.state.set_epoch(7);
    group.num_sequences = 2;
    group.outstanding_tokens = 900;
    group.stats.set_num_preemptions(static_cast<uint64_t>(10 + index));
  }
  view.groups[0].other_model = true;
  std::string text = metrics.Serialize(view);
  for (const char* line : {
           "moe_group_serving{group=\"0\",model_name=\"m\"} 0",
           "moe_group_serving{group=\"12\",model_name=\"m\"} 1",
           "moe_group_draining{group=\"0\",model_name=\"m\"} 1",
           "moe_group_epoch{group=\"12\",model_name=\"m\"} 7",
           "moe_group_sequences{group=\"12\",model_name=\"m\"} 2",
           "moe_group_outstanding_tokens{group=\"12\",model_name=\"m\"} 900",
           "moe_moved_sequences_total{model_name=\"m\"} 3",
           "moe_other_model_groups{model_name=\"m\"} 1",
           "vllm:num_preemptions_total{model_name=\"m\"} 32",
       }) {
    EXPECT_THAT(text, HasSubstr(std::string(line) + "\n"));
  }
  view.groups.erase(view.groups.begin());
  view.groups[0].stats.set_num_preemptions(23);
  text = metrics.Serialize(view);
  EXPECT_THAT(text, Not(HasSubstr("group=\"0\"")));
  EXPECT_THAT(text, HasSubstr("moe_group_serving{group=\"12\",model_name=\"m\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("vllm:num_preemptions_total{model_name=\"m\"} 33\n"));
}

TEST(StatsLineTest, SpeaksUnderLoadOnly) {
  EngineView view;
  view.stats.set_num_running(2);
  view.stats.set_kv_usage(0.123);
  const auto get = [&view] { return view; };
  const absl::Time start = absl::FromUnixSeconds(100);
  StatsLine stats(absl::Seconds(10), start);
  EXPECT_EQ(stats.Next(start + absl::Seconds(9), 10, 10, get), std::nullopt);
  EXPECT_EQ(stats.Next(start + absl::Seconds(10), 100, 250, get),
            "prompt 10.0 tok/s, generation 25.0 tok/s | running 2, waiting 0 | KV 12.3%");
  EXPECT_EQ(stats.Next(start + absl::Seconds(11), 100, 250, get), std::nullopt);
  view.stats.set_num_running(0);
  EXPECT_EQ(stats.Next(start + absl::Seconds(20), 100, 250, get), std::nullopt) << "idle";
  StatsLine never(absl::ZeroDuration(), start);
  EXPECT_EQ(never.Next(start + absl::Hours(1), 100, 250, get), std::nullopt);
}

TEST(StatsLineTest, TheReadyLineNamesUrlLayoutAndCapacity) {
  EngineView view;
  view.group.set_layout("EP64_TP1_PP1_DP1");
  view.group.set_kv_capacity_tokens(8192);
  for (int i = 0; i < 64; ++i) {
    view.group.add_workers();
  }
  EXPECT_EQ(ReadyLine("demo", "127.0.0.1", 8000, view),
            "Serving demo on http://127.0.0.1:8000 | EP64_TP1_PP1_DP1, 64 workers | KV cache 8192 "
            "tokens");
  EXPECT_THAT(ReadyLine("demo", "::1", 8000, view), HasSubstr("http://[::1]:8000 "));
}

}  // namespace
}  // namespace moe::gateway
