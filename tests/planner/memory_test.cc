#include "planner/memory.h"

#include "gtest/gtest.h"
#include "tests/planner/scenarios.h"

namespace moe::planner {
namespace {

constexpr Assumptions kNothingReserved = {.reserved_bytes = 0};

TEST(MemoryTest, AFoundingRankHoldsOneExpertOf16Layers) {
  const MemoryUse use = MemoryOf(Olmoe1b7b(), Founding(), kNothingReserved, 64, 640);
  EXPECT_EQ(use.expert_bytes, 16 * 3.0 * 2048 * 1024 * 2);
  EXPECT_EQ(use.attention_bytes, 16 * 4.0 * 2048 * 2048 * 2);
  EXPECT_EQ(use.vocabulary_bytes, 2 * 50304.0 * 2048 * 2);
  EXPECT_EQ(use.dense_bytes, 16 * 64.0 * 2048 * 2);
  // One sequence of 640 tokens for each of 64 owners.
  EXPECT_EQ(use.kv_bytes, 640 * 131072.0);
}

TEST(MemoryTest, ReplicatedAttentionStores73Point9GigabytesFor13Point84) {
  const Layout layout = ParseLayout("EP64+replicated").value();
  const MemoryUse use = MemoryOf(Olmoe1b7b(), layout, kNothingReserved, 1, 640);
  EXPECT_NEAR(64 * use.weight_bytes() / 1e9, 73.9, 0.05);
  EXPECT_NEAR(Olmoe1b7b().total_bytes() / 1e9, 13.84, 0.005);
  EXPECT_NEAR(
      EfficiencyOf(Olmoe1b7b(), layout, kNothingReserved, 141e9, 1, 640).unique_weight_share, 0.187,
      0.0005);
}

TEST(MemoryTest, ReplicatedAttentionHoldsEverySequenceOnEveryGpu) {
  const double split = MemoryOf(Olmoe1b7b(), Founding(), {}, 64, 640).kv_bytes;
  const double replicated =
      MemoryOf(Olmoe1b7b(), ParseLayout("EP64+replicated").value(), {}, 64, 640).kv_bytes;
  EXPECT_EQ(replicated, 64 * split);
}

TEST(MemoryTest, EachWayToCutTheModelDividesItsPart) {
  struct Row {
    const char* layout;
    double attention;
    double experts;
    double kv;
  };
  const MemoryUse whole = MemoryOf(Olmoe1b7b(), Layout{}, {}, 16, 640);
  for (const Row& row : {Row{"EP8", 1, 8, 8}, Row{"EP8+A2", 1, 8, 2},
                         Row{"EP8+replicated", 1, 8, 1}, Row{"TP4", 4, 4, 4}, Row{"PP4", 4, 4, 4},
                         Row{"EP8+C2", 1, 4, 8}, Row{"EP4_TP2_PP2", 4, 16, 16}}) {
    const MemoryUse use = MemoryOf(Olmoe1b7b(), ParseLayout(row.layout).value(), {}, 16, 640);
    EXPECT_NEAR(whole.attention_bytes / use.attention_bytes, row.attention, 1e-9) << row.layout;
    EXPECT_NEAR(whole.expert_bytes / use.expert_bytes, row.experts, 1e-9) << row.layout;
    EXPECT_NEAR(whole.kv_bytes / use.kv_bytes, row.kv, 1e-9) << row.layout;
  }
}

TEST(MemoryTest, TensorPartsShareNoMoreThanTheKvHeads) {
  // DeepSeek's compressed cache has no heads.
  const MemoryUse use = MemoryOf(DeepSeekV3(), ParseLayout("EP8_TP8").value(), {}, 8, 1000);
  EXPECT_EQ(use.kv_bytes, 1000.0 * 70272);
}

TEST(MemoryTest, MaxSequencesFillTheMemoryAndNotMore) {
  for (const char* name : {"EP64", "EP64+A8", "EP64+replicated", "DP64", "EP8_TP2_PP4"}) {
    const Layout layout = ParseLayout(name).value();
    const int64_t most = MaxSequences(Olmoe1b7b(), layout, {}, 141e9, 640);
    ASSERT_GT(most, 0) << name;
    EXPECT_LE(MemoryOf(Olmoe1b7b(), layout, {}, static_cast<double>(most), 640).total_bytes(),
              141e9);
    EXPECT_GT(MemoryOf(Olmoe1b7b(), layout, {}, static_cast<double>(most) + 1, 640).total_bytes(),
              141e9);
  }
  EXPECT_EQ(MaxSequences(DeepSeekV3(), Layout{}, {}, 141e9, 640), 0);
}

TEST(MemoryTest, AWholeModelOnOneGpuHoldsNothingTwice) {
  const MemoryEfficiency efficiency = EfficiencyOf(
      Olmoe1b7b(), Layout{}, {.reserved_bytes = 0, .prefill_rows = 0}, 141e9, 100, 640);
  EXPECT_NEAR(efficiency.unique_share, 1, 1e-9);
  EXPECT_NEAR(efficiency.unique_weight_share, 1, 1e-9);
  EXPECT_NEAR(efficiency.used_share, (13.838e9 + 100 * 640 * 131072.0) / 141e9, 1e-3);
}

}  // namespace
}  // namespace moe::planner
