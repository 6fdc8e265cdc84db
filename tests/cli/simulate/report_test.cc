#include "cli/simulate/report.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/simulator/scenarios.h"

namespace moe::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

const LoadText kLoad = {
    .arrivals = "one by hand", .input_tokens = "100", .output_tokens = "5", .router = "uniform"};

simulator::Config OneRequest() {
  simulator::Config config = simulator::TenMillisecondConfig("DP1");
  config.requests = {simulator::At(0.1, 100, 5)};
  return config;
}

TEST(SimulationReportTest, TheTableSaysWhatHappened) {
  const simulator::Config config = OneRequest();
  const std::string text = FormatSimulation(config, kLoad, *Simulate(config, nullptr));
  EXPECT_THAT(text, HasSubstr("1 arrived, 1 completed; the last one ended at 0.1 s"));
  EXPECT_THAT(text, HasSubstr("5 output tokens/s"));
  EXPECT_THAT(text, HasSubstr("time to first token    10.00"));
  EXPECT_THAT(text, HasSubstr("5 of 10.00 ms"));
  EXPECT_THAT(text, HasSubstr("host 5.0%, idle 95.0%"));
  EXPECT_THAT(text, HasSubstr("not calibrated on hardware"));
  EXPECT_THAT(text, Not(HasSubstr("failure")));
}

TEST(SimulationReportTest, JsonHasTheSameInBaseUnits) {
  const simulator::Config config = OneRequest();
  const nlohmann::json json = SimulationToJson(config, kLoad, *Simulate(config, nullptr));
  EXPECT_EQ(json["requests"]["completed"], 1);
  EXPECT_NEAR(json["seconds"]["first_token"]["p50"].get<double>(), 0.010, 1e-9);
  EXPECT_NEAR(json["steps"]["seconds_by_part"]["host"].get<double>(), 0.050, 1e-9);
  EXPECT_EQ(json["scenario"]["calibrated"], false);
  EXPECT_TRUE(json["recoveries"].empty());
}

TEST(SimulationReportTest, AFailureHasItsTimes) {
  simulator::Config config = simulator::TenMillisecondConfig("EP4_TP1_PP1_DP1");
  config.duration = absl::Seconds(30);
  for (int i = 0; i < 30; ++i) config.requests.push_back(simulator::At(i, 100, 5));
  config.failures = {{.at = absl::Seconds(10), .index = 3}};
  const auto result = Simulate(config, nullptr);
  const std::string text = FormatSimulation(config, kLoad, *result);
  EXPECT_THAT(text, HasSubstr("rank 3 ends"));
  EXPECT_THAT(text, HasSubstr("10.00"));
  EXPECT_THAT(text, Not(HasSubstr("never")));
  const nlohmann::json recovery = SimulationToJson(config, kLoad, *result)["recoveries"][0];
  EXPECT_EQ(recovery["failed_at_seconds"], 10);
  EXPECT_NEAR(recovery["detected_at_seconds"].get<double>(), 10.05, 1e-6);
  EXPECT_EQ(recovery["epoch_after"], 2);
}

}  // namespace
}  // namespace moe::cli
