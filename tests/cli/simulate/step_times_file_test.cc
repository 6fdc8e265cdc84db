#include "cli/simulate/step_times_file.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::cli {
namespace {

using ::testing::HasSubstr;

TEST(StepTimesFileTest, BothCurvesAreRead) {
  const auto times = ParseStepTimes(
      R"({"source": "a test", "decode": [[1, 0.002], [8, 0.01]], "prefill": [[64, 0.02]]})",
      "s.json");
  ASSERT_TRUE(times.ok()) << times.status();
  ASSERT_EQ(times->decode.size(), 2);
  EXPECT_EQ(times->decode[1].rows, 8);
  EXPECT_EQ(times->decode[1].seconds, 0.01);
  EXPECT_EQ(times->prefill[0].rows, 64);
}

TEST(StepTimesFileTest, WhatIsNoCurveIsRefusedByItsField) {
  struct Case {
    const char* json;
    const char* message;
  };
  for (const Case& c : {
           Case{"[]", "s.json"},
           Case{R"({"decode": [[1, 1]], "prefill": [[1, 1]]})", "source is missing"},
           Case{R"({"source": "", "decode": [[1, 1]], "prefill": [[1, 1]]})", "source is missing"},
           Case{R"({"source": "x", "prefill": [[1, 1]]})", "decode must be"},
           Case{R"({"source": "x", "decode": [[1, 1]], "prefill": [1, 1]})", "prefill must be"},
           Case{R"({"source": "x", "decode": [[1, 1]], "prefill": [[1]]})", "prefill must be"},
           Case{R"({"source": "x", "decode": [[1, "1"]], "prefill": [[1, 1]]})", "decode must be"},
           Case{R"({"source": "x", "decode": [], "prefill": [[1, 1]]})",
                "no time of a decode step"},
           Case{R"({"source": "x", "decode": [[2, 1], [1, 1]], "prefill": [[1, 1]]})", "must rise"},
           Case{R"({"source": "x", "decode": [[1, -1]], "prefill": [[1, 1]]})", "no time"},
       }) {
    const auto times = ParseStepTimes(c.json, "s.json");
    ASSERT_TRUE(absl::IsInvalidArgument(times.status())) << c.json;
    EXPECT_THAT(times.status().message(), HasSubstr(c.message)) << c.json;
  }
}

}  // namespace
}  // namespace moe::cli
