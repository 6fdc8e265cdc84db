#include "planner/layout.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::planner {
namespace {

using ::testing::HasSubstr;

TEST(LayoutTest, TheFoundingShapeIs64ExpertRanksOnAsManyGpus) {
  const auto layout = ParseLayout("EP64_TP1_PP1_DP1");
  ASSERT_TRUE(layout.ok()) << layout.status();
  EXPECT_EQ(layout->num_gpus(), 64);
  EXPECT_EQ(layout->attention_ranks, 64);
  EXPECT_EQ(layout->exchange, Exchange::kSlots);
  EXPECT_FALSE(layout->replicated_attention);
  EXPECT_EQ(WhatIsNotBuilt(*layout), "");
}

TEST(LayoutTest, ManySpellingsHaveOneName) {
  struct Row {
    const char* text;
    const char* name;
    int64_t gpus;
  };
  for (const Row& row :
       {Row{"DP64", "EP1_TP1_PP1_DP64", 64}, Row{"ep8_tp2", "EP8_TP2_PP1_DP1", 16},
        Row{"EP64 x TP16 x PP4 x DP4", "EP64_TP16_PP4_DP4", 16384},
        Row{"PP2_EP4", "EP4_TP1_PP2_DP1", 8}, Row{"EP64+A8+slots", "EP64_TP1_PP1_DP1+A8", 64},
        Row{"EP64+A64+all-to-all", "EP64_TP1_PP1_DP1+all-to-all", 64},
        Row{"EP64+replicated", "EP64_TP1_PP1_DP1+replicated", 64},
        Row{"EP64+reduce+replicated", "EP64_TP1_PP1_DP1+replicated+reduce", 64},
        Row{"EP8_DP2+C2+S1", "EP8_TP1_PP1_DP2+C2+S1", 18}}) {
    const auto layout = ParseLayout(row.text);
    ASSERT_TRUE(layout.ok()) << row.text << ": " << layout.status();
    EXPECT_EQ(LayoutName(*layout), row.name);
    EXPECT_EQ(layout->num_gpus(), row.gpus);
    const auto again = ParseLayout(row.name);
    ASSERT_TRUE(again.ok()) << row.name;
    EXPECT_EQ(*again, *layout);
  }
}

TEST(LayoutTest, WhatCannotBeReadIsNamed) {
  struct Row {
    const char* text;
    const char* message;
  };
  for (const Row& row :
       {Row{"", "'' is none of EP, TP, PP, DP"}, Row{"EP", "'EP' is none of"},
        Row{"EP0", "'EP0' is none of"}, Row{"EP65537", "from 1 to 65536"},
        Row{"EP-4", "'EP-4' is none of"}, Row{"EP8_EP8", "EP appears twice"},
        Row{"EP8_XY2", "is none of"}, Row{"EP8+fast", "'+fast' is none of"},
        Row{"EP8+A9", "A9 is more than its 8"}, Row{"EP8+gather", "gather needs '+replicated'"},
        Row{"EP8+replicated+slots", "slots splits attention"},
        Row{"EP8+replicated+A4", "leave A out"}, Row{"DP8+slots", "exchanges nothing"},
        Row{"EP8+slots+nothing", "'+nothing' is none of"}}) {
    const auto layout = ParseLayout(row.text);
    ASSERT_FALSE(layout.ok()) << row.text;
    EXPECT_THAT(std::string(layout.status().message()), HasSubstr(row.message)) << row.text;
  }
}

TEST(LayoutTest, WhatThisVersionHasNotIsSaid) {
  struct Row {
    const char* text;
    const char* missing;
  };
  for (const Row& row : {Row{"EP8_TP2", "tensor parallelism"},
                         Row{"EP8_PP2", "pipeline parallelism"}, Row{"EP8+C2", "expert copies"},
                         Row{"EP8+S1", ""}, Row{"EP8+gather-scatter", "sums across ranks"},
                         Row{"EP8+replicated+reduce", "sums across ranks"},
                         Row{"EP8+replicated", ""}, Row{"EP8+all-to-all", ""}, Row{"DP8", ""},
                         Row{"EP8_TP2_PP2", "tensor parallelism, pipeline parallelism"}}) {
    EXPECT_EQ(WhatIsNotBuilt(ParseLayout(row.text).value()), row.missing) << row.text;
  }
}

}  // namespace
}  // namespace moe::planner
