#include "simulator/step_times.h"

#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::simulator {
namespace {

using ::testing::HasSubstr;

const StepTimes kTimes = {.decode = {{1, 0.002}, {8, 0.009}, {16, 0.009}},
                          .prefill = {{1, 0.001}, {101, 0.011}}};

TEST(StepTimesTest, ADecodingStepLiesOnTheLineBetweenItsNeighbours) {
  EXPECT_DOUBLE_EQ(SecondsOf(kTimes, {.rows = 1}, 1), 0.002);
  EXPECT_DOUBLE_EQ(SecondsOf(kTimes, {.rows = 4}, 4), 0.005);
  EXPECT_DOUBLE_EQ(SecondsOf(kTimes, {.rows = 12}, 12), 0.009);
  EXPECT_DOUBLE_EQ(SecondsOf(kTimes, {.rows = 100}, 100), 0.009);
}

TEST(StepTimesTest, PromptsGoOnBehindTheLastPoint) {
  EXPECT_DOUBLE_EQ(SecondsOf(kTimes, {.rows = 51, .prefill = true}, 0), 0.006);
  EXPECT_DOUBLE_EQ(SecondsOf(kTimes, {.rows = 201, .prefill = true}, 0), 0.021);
}

TEST(StepTimesTest, DecodingRowsBesideAPromptTakeWhatTheyTakeLonger) {
  // 59 rows of a prompt take 6.8 ms; 8 decoding rows 9 ms, where 8 rows of a prompt take 1.7 ms.
  EXPECT_DOUBLE_EQ(SecondsOf(kTimes, {.rows = 59, .prefill = true}, 8), 0.0068 + 0.009 - 0.0017);
}

TEST(StepTimesTest, CurvesThatAreNoneAreRefused) {
  EXPECT_TRUE(CheckStepTimes(kTimes).ok());
  const double nan = std::numeric_limits<double>::quiet_NaN();
  StepTimes bad = kTimes;
  bad.decode.clear();
  EXPECT_THAT(CheckStepTimes(bad).message(), HasSubstr("no time of a decode step"));
  for (const StepTimes::Point& point :
       {StepTimes::Point{0, 1}, StepTimes::Point{-1, 1}, StepTimes::Point{nan, 1},
        StepTimes::Point{1, 0}, StepTimes::Point{1, nan}, StepTimes::Point{1, 1e9}}) {
    bad = kTimes;
    bad.prefill = {point};
    EXPECT_TRUE(absl::IsInvalidArgument(CheckStepTimes(bad))) << point.rows << " " << point.seconds;
  }
  bad = kTimes;
  bad.prefill = {{8, 1}, {8, 2}};
  EXPECT_THAT(CheckStepTimes(bad).message(), HasSubstr("must rise"));
}

}  // namespace
}  // namespace moe::simulator
