#include "worker/daemon/worker_metrics.h"

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "prometheus/text_serializer.h"

namespace moe::worker {
namespace {

using ::testing::HasSubstr;

class FakeExchange : public GroupExchange {
 public:
  explicit FakeExchange(const exchange::ExchangeStats& stats) : stats_(stats) {}
  std::string bootstrap() const override { return ""; }
  absl::Status Connect() override { return absl::OkStatus(); }
  exchange::ControlChannel* control() override { return nullptr; }
  model::RankExchange exchange() override { return {}; }
  int suspect() const override { return -1; }
  exchange::ExchangeStats stats() const override { return stats_; }
  void Abort(std::string_view) override {}

 private:
  exchange::ExchangeStats stats_;
};

std::string Text(const WorkerMetrics& metrics) {
  return prometheus::TextSerializer().Serialize(metrics.Collect());
}

TEST(WorkerMetricsTest, ExchangeCountersGoOnOverEpochs) {
  WorkerMetrics metrics;
  metrics.SetEpoch(1, std::make_shared<FakeExchange>(exchange::ExchangeStats{
                          .dispatch_seconds = 1, .dispatch_bytes = 100, .combine_bytes = 7}));
  EXPECT_THAT(Text(metrics), HasSubstr("moe_exchange_bytes_total{phase=\"dispatch\"} 100"));
  metrics.SetEpoch(0, nullptr);
  EXPECT_THAT(Text(metrics), HasSubstr("moe_exchange_bytes_total{phase=\"dispatch\"} 100"));
  EXPECT_THAT(Text(metrics), HasSubstr("moe_epoch 0"));
  metrics.SetEpoch(2, std::make_shared<FakeExchange>(exchange::ExchangeStats{
                          .dispatch_seconds = 2, .dispatch_bytes = 30, .combine_bytes = 1}));
  EXPECT_THAT(Text(metrics), HasSubstr("moe_exchange_bytes_total{phase=\"dispatch\"} 130"));
  EXPECT_THAT(Text(metrics), HasSubstr("moe_exchange_bytes_total{phase=\"combine\"} 8"));
  EXPECT_THAT(Text(metrics), HasSubstr("moe_exchange_seconds_total{phase=\"dispatch\"} 3"));
  EXPECT_THAT(Text(metrics), HasSubstr("moe_epoch 2"));
  EXPECT_THAT(Text(metrics), HasSubstr("moe_worker_epochs_total 2"));
}

TEST(WorkerMetricsTest, BusyTimeIsComputingWithoutTheWaitForOtherRanks) {
  WorkerMetrics metrics;
  metrics.step_times()->Add(model::StepTimes::kAttention, 1'000'000'000);
  metrics.step_times()->Add(model::StepTimes::kExperts, 5'000'000'000);
  metrics.step_times()->Add(model::StepTimes::kLogits, 500'000'000);
  EXPECT_THAT(Text(metrics), HasSubstr("moe_worker_busy_seconds_total 1.5"));
  EXPECT_THAT(Text(metrics), HasSubstr("moe_step_seconds_total{part=\"experts\"} 5"));
  coordinator::v1::Heartbeat heartbeat;
  metrics.FillHeartbeat(&heartbeat);
  EXPECT_DOUBLE_EQ(heartbeat.busy_seconds(), 1.5);
  EXPECT_EQ(heartbeat.expert_tokens_size(), 0);
}

TEST(WorkerMetricsTest, LoadingFiguresAreThoseOfTheReport) {
  WorkerMetrics metrics;
  metrics.SetSlot(17);
  metrics.SetLoad(
      {.num_bytes = 1234, .resident_bytes = 4096, .seconds = 0.25, .kv_capacity_tokens = 64});
  const std::string text = Text(metrics);
  for (const char* line :
       {"moe_worker_slot 17", "moe_load_bytes 1234", "moe_load_resident_bytes 4096",
        "moe_load_seconds 0.25", "moe_kv_capacity_tokens 64"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
}

}  // namespace
}  // namespace moe::worker
