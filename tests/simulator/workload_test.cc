#include "simulator/workload.h"

#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::simulator {
namespace {

using ::testing::HasSubstr;

TEST(WorkloadTest, ArrivalsAreRead) {
  EXPECT_EQ(ParseArrivals("poisson:200/s")->kind, Arrivals::Kind::kPoisson);
  EXPECT_EQ(ParseArrivals("poisson:0.5/s")->per_second, 0.5);
  EXPECT_EQ(ParseArrivals("steady:1e3/s")->kind, Arrivals::Kind::kSteady);
  const auto bursts = ParseArrivals("bursts:64/1.5s");
  ASSERT_TRUE(bursts.ok()) << bursts.status();
  EXPECT_EQ(bursts->burst, 64);
  EXPECT_EQ(bursts->every, absl::Milliseconds(1500));
}

TEST(WorkloadTest, ArrivalsThatMakeNoSenseAreRefusedWithWhatCanBeWritten) {
  for (const char* text :
       {"", "poisson", "poisson:", "poisson:200", "poisson:-1/s", "poisson:0/s", "poisson:nan/s",
        "poisson:inf/s", "poisson:1e9/s", "steady:x/s", "bursts:64", "bursts:0/1s", "bursts:-1/1s",
        "bursts:1/0s", "bursts:1/-1s", "bursts:1/inf", "uniform:3/s", "poisson:1/s/s"}) {
    const auto arrivals = ParseArrivals(text);
    ASSERT_TRUE(absl::IsInvalidArgument(arrivals.status())) << text;
    EXPECT_THAT(arrivals.status().message(), HasSubstr("poisson:200/s")) << text;
  }
}

TEST(WorkloadTest, LengthsAreRead) {
  EXPECT_EQ(ParseLength("--input-tokens", "512")->tokens, 512);
  EXPECT_EQ(ParseLength("--input-tokens", "uniform:1-9")->most, 9);
  EXPECT_EQ(ParseLength("--input-tokens", "lognormal:512:0.8")->sigma, 0.8);
}

TEST(WorkloadTest, LengthsThatMakeNoSenseAreRefusedByTheirOption) {
  for (const char* text : {"", "0", "-1", "1.5", "16777217", "uniform:9-1", "uniform:0-1",
                           "uniform:5", "lognormal:512", "lognormal:0:1", "lognormal:512:-1",
                           "lognormal:512:nan", "lognormal:1:2:3", "normal:1:2"}) {
    const auto length = ParseLength("--output-tokens", text);
    ASSERT_TRUE(absl::IsInvalidArgument(length.status())) << text;
    EXPECT_THAT(length.status().message(), HasSubstr("--output-tokens")) << text;
  }
}

TEST(WorkloadTest, SteadyRequestsComeEvenly) {
  const auto requests = DrawRequests({.kind = Arrivals::Kind::kSteady, .per_second = 4},
                                     {.tokens = 7}, {.tokens = 3}, absl::Seconds(1), 1);
  ASSERT_TRUE(requests.ok());
  ASSERT_EQ(requests->size(), 4);
  EXPECT_EQ((*requests)[3].arrival, absl::Milliseconds(750));
  EXPECT_EQ((*requests)[3].input_tokens, 7);
  EXPECT_EQ((*requests)[3].output_tokens, 3);
}

TEST(WorkloadTest, BurstsComeAtOnce) {
  const auto requests =
      DrawRequests({.kind = Arrivals::Kind::kBursts, .burst = 3, .every = absl::Seconds(10)},
                   {.tokens = 1}, {.tokens = 1}, absl::Seconds(15), 1);
  ASSERT_TRUE(requests.ok());
  ASSERT_EQ(requests->size(), 6);
  EXPECT_EQ((*requests)[2].arrival, absl::ZeroDuration());
  EXPECT_EQ((*requests)[3].arrival, absl::Seconds(10));
}

TEST(WorkloadTest, PoissonRequestsComeAtTheirRateWithExponentialDistances) {
  const auto requests =
      DrawRequests({.per_second = 1000}, {.tokens = 1}, {.tokens = 1}, absl::Seconds(100), 1);
  ASSERT_TRUE(requests.ok());
  EXPECT_NEAR(static_cast<double>(requests->size()), 100000, 1000);
  int64_t long_distances = 0;
  for (size_t i = 1; i < requests->size(); ++i) {
    EXPECT_GE((*requests)[i].arrival, (*requests)[i - 1].arrival);
    if ((*requests)[i].arrival - (*requests)[i - 1].arrival > absl::Milliseconds(1)) {
      ++long_distances;
    }
  }
  EXPECT_NEAR(static_cast<double>(long_distances), 100000 * std::exp(-1), 1000);
}

TEST(WorkloadTest, LengthsFollowTheirDistribution) {
  const auto requests = DrawRequests(
      {.per_second = 1000}, {.kind = Length::Kind::kUniform, .tokens = 10, .most = 19},
      {.kind = Length::Kind::kLognormal, .tokens = 100, .sigma = 0.5}, absl::Seconds(100), 1);
  ASSERT_TRUE(requests.ok());
  double inputs = 0;
  int64_t short_outputs = 0;
  for (const Request& request : *requests) {
    ASSERT_GE(request.input_tokens, 10);
    ASSERT_LE(request.input_tokens, 19);
    inputs += request.input_tokens;
    short_outputs += request.output_tokens <= 100 ? 1 : 0;
  }
  const auto count = static_cast<double>(requests->size());
  EXPECT_NEAR(inputs / count, 14.5, 0.05);
  EXPECT_NEAR(static_cast<double>(short_outputs) / count, 0.5, 0.01);
}

TEST(WorkloadTest, OtherLengthsDoNotMoveTheArrivals) {
  const Arrivals arrivals{.per_second = 100};
  const auto one = DrawRequests(arrivals, {.tokens = 1}, {.tokens = 1}, absl::Seconds(1), 3);
  const auto two = DrawRequests(arrivals, {.kind = Length::Kind::kUniform, .tokens = 1, .most = 9},
                                {.tokens = 1}, absl::Seconds(1), 3);
  ASSERT_EQ(one->size(), two->size());
  for (size_t i = 0; i < one->size(); ++i) EXPECT_EQ((*one)[i].arrival, (*two)[i].arrival);
}

TEST(WorkloadTest, MoreRequestsThanARunCanTakeAreRefused) {
  EXPECT_TRUE(absl::IsResourceExhausted(
      DrawRequests({.per_second = 1e6}, {.tokens = 1}, {.tokens = 1}, absl::Hours(1), 1).status()));
}

}  // namespace
}  // namespace moe::simulator
