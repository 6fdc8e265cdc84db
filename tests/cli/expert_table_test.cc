#include "cli/expert_table.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(ExpertTableTest, TotalsAreSumsOverLayersAndExtremesAreNamed) {
  const ExpertLoad load{.num_layers = 2, .num_experts = 4, .tokens = {1, 2, 3, 4, 10, 0, 0, 0}};
  const std::string text = FormatExpertLoad(load, {.heatmap = true, .num_extremes = 1});
  EXPECT_THAT(text, HasSubstr("4 experts x 2 layers ran 20 tokens"));
  EXPECT_THAT(text, HasSubstr("   0: 11"));
  EXPECT_THAT(text, HasSubstr("   3: 4"));
  EXPECT_THAT(text, HasSubstr("hottest: 0 (55.0%)"));
  EXPECT_THAT(text, HasSubstr("coldest: 1 (10.0%)"));
  EXPECT_THAT(text, HasSubstr("max / mean: 2.20"));
  EXPECT_THAT(text, HasSubstr("    1  █···"));
}

TEST(ExpertTableTest, AnIdleModelHasZerosAndNoHeatmap) {
  const ExpertLoad load{.num_layers = 1, .num_experts = 3, .tokens = {0, 0, 0}};
  const std::string text = FormatExpertLoad(load, {});
  EXPECT_THAT(text, HasSubstr("ran 0 tokens"));
  EXPECT_THAT(text, Not(HasSubstr("hottest")));
}

TEST(ExpertTableTest, AGroupThatIsNotLoadedYetHasNoTable) {
  EXPECT_EQ(FormatExpertLoad({}, {}),
            "0 experts x 0 layers ran 0 tokens (a token counts once for each layer and chosen "
            "expert)\n");
}

}  // namespace
}  // namespace moe::cli
