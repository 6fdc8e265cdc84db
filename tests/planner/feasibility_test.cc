#include "planner/feasibility.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/planner/scenarios.h"

namespace moe::planner {
namespace {

using ::testing::HasSubstr;

TEST(FeasibilityTest, TheEarlierPlanNeeds16384GpusWhere64Exist) {
  const Scenario scenario = OlmoeOn(64);
  const absl::Status status = CheckSizes(ParseLayout("EP64 x TP16 x PP4 x DP4").value(),
                                         scenario.model, scenario.network, 64);
  EXPECT_EQ(status.message(),
            "EP64 x TP16 x PP4 x DP4 needs 16,384 GPUs where 64 exist; what fits: "
            "EP64_TP1_PP1_DP1 (64 GPUs), EP32_TP2_PP1_DP1 (64 GPUs), EP1_TP1_PP1_DP64 (64 GPUs)");
}

TEST(FeasibilityTest, WhatIsSaidToFitDoesFit) {
  const Scenario scenario = OlmoeOn(64);
  for (const char* name : {"EP64_TP1_PP1_DP1", "EP32_TP2_PP1_DP1", "EP1_TP1_PP1_DP64"}) {
    EXPECT_TRUE(CheckSizes(ParseLayout(name).value(), scenario.model, scenario.network, 64).ok());
  }
}

TEST(FeasibilityTest, SizesThatDoNotDivideAreNamedWithTheirNumbers) {
  struct Row {
    const char* layout;
    const char* message;
  };
  const Scenario scenario = OlmoeOn(4096);
  for (const Row& row :
       {Row{"EP48", "64 experts of a layer cannot be shared evenly by 48 ranks"},
        Row{"EP128", "128 expert ranks, but olmoe-1b-7b has 64 experts in a layer"},
        Row{"EP256+C2", "64 experts in a layer and 2 copies of each"},
        Row{"EP1_TP16", "must lie in one node; nodes have 8"},
        Row{"EP1_TP3", "must lie in one node; nodes have 8"},
        Row{"PP3", "16 layers cannot be cut into 3 equal stages"},
        Row{"EP2+C4", "4 copies of an expert need as many ranks; there are 2"},
        Row{"EP64_DP65", "needs 4,160 GPUs where 4,096 exist"},
        Row{"EP64_DP64+S1", "and 1 spares for each group needs 4,160 GPUs"}}) {
    const absl::Status status =
        CheckSizes(ParseLayout(row.layout).value(), scenario.model, scenario.network, 4096);
    EXPECT_THAT(std::string(status.message()), HasSubstr(row.message)) << row.layout;
  }
}

TEST(FeasibilityTest, HeadsAndWidthsMustDivide) {
  Scenario scenario = OlmoeOn(64);
  scenario.network.gpus_per_node = 96;
  EXPECT_THAT(
      std::string(
          CheckSizes(ParseLayout("TP32").value(), scenario.model, scenario.network, 64).message()),
      HasSubstr("16 heads cannot be shared evenly by 32 GPUs"));
  scenario.model.num_heads = 12;
  EXPECT_THAT(
      std::string(
          CheckSizes(ParseLayout("TP12").value(), scenario.model, scenario.network, 64).message()),
      HasSubstr("an expert's width of 1024 cannot be shared evenly by 12 GPUs"));
}

TEST(FeasibilityTest, AModelThatIsTooLargeSaysWhatTakesHowMuch) {
  const absl::Status status = CheckMemory(Layout{}, DeepSeekV3(), RooflineH200(), {}, 1000);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("a GPU would hold 671.0 GB of weights, 0.1 GB of KV cache for one sequence "
                        "of 1,000 tokens"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("where one h200 has 141.0 GB"));
  EXPECT_TRUE(CheckMemory(Founding(), Olmoe1b7b(), RooflineH200(), {}, 1000).ok());
}

TEST(FeasibilityTest, NumbersAreWrittenForPeople) {
  EXPECT_EQ(WithThousands(0), "0");
  EXPECT_EQ(WithThousands(999.4), "999");
  EXPECT_EQ(WithThousands(1000), "1,000");
  EXPECT_EQ(WithThousands(1234567), "1,234,567");
  EXPECT_EQ(WithThousands(-123456), "-123,456");
}

}  // namespace
}  // namespace moe::planner
