#include "cli/simulate/expert_counts.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(ExpertCountsTest, CountsAreReadLayerByLayer) {
  const auto spec = ParseExpertCounts(
      R"({"num_layers": 2, "num_experts": 3, "expert_tokens": [[1, 2, 3], [4, 5, 6]]})", "e.json");
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->kind, simulator::RouterSpec::Kind::kMeasured);
  EXPECT_THAT(spec->expert_tokens, ElementsAre(1, 2, 3, 4, 5, 6));
}

TEST(ExpertCountsTest, WhatIsNoCountsIsRefused) {
  for (const char* json : {"", "[]", "{}", R"({"expert_tokens": 3})", R"({"expert_tokens": []})",
                           R"({"expert_tokens": [[]]})", R"({"expert_tokens": [3]})",
                           R"({"expert_tokens": [[1, 2], [3]]})", R"({"expert_tokens": [[1, -2]]})",
                           R"({"expert_tokens": [[1, 2.5]]})", R"({"expert_tokens": [["1"]]})",
                           R"({"expert_tokens": [[18446744073709551615]]})"}) {
    const auto spec = ParseExpertCounts(json, "e.json");
    ASSERT_TRUE(absl::IsInvalidArgument(spec.status())) << json;
    EXPECT_THAT(spec.status().message(), HasSubstr("e.json")) << json;
  }
}

}  // namespace
}  // namespace moe::cli
