#include "planner/exchange.h"

#include "gtest/gtest.h"

namespace moe::planner {
namespace {

constexpr double kRow = 4096;  // hidden 2048 in bf16

// Milliseconds that 16 layers of 64 ranks, top-8 of 64 experts, take on one link.
double Milliseconds(Exchange exchange, double num_rows, double bytes_per_second) {
  return 16 * BytesPerGpu(exchange, 64, 64, 8, num_rows, kRow) / bytes_per_second * 1e3;
}

TEST(ExchangeTest, ThePublishedTableOfBytesIsReproduced) {
  struct Row {
    double num_rows;
    double gigabytes_per_second;
    double reduce;
    double gather;
    double all_to_all;
  };
  for (const Row& row : {Row{64, 50, 0.17, 0.66, 0.02}, Row{960, 50, 2.5, 9.9, 0.31},
                         Row{960, 450, 0.28, 1.1, 0.03}, Row{4096, 50, 10.6, 42, 1.3}}) {
    const double speed = row.gigabytes_per_second * 1e9;
    // Half of the last digit of the table.
    EXPECT_NEAR(Milliseconds(Exchange::kReduce, row.num_rows, speed), row.reduce,
                row.reduce > 1 ? 0.05 : 0.005);
    EXPECT_NEAR(Milliseconds(Exchange::kGatherScatter, row.num_rows, speed), row.reduce,
                row.reduce > 1 ? 0.05 : 0.005);
    EXPECT_NEAR(Milliseconds(Exchange::kGather, row.num_rows, speed), row.gather,
                row.gather > 10  ? 0.5
                : row.gather > 1 ? 0.05
                                 : 0.005);
    EXPECT_NEAR(Milliseconds(Exchange::kAllToAll, row.num_rows, speed), row.all_to_all,
                row.all_to_all > 1 ? 0.05 : 0.0055);
  }
}

TEST(ExchangeTest, FixedSlotsOf64RanksCostAboutTheBytesOfGatherScatter) {
  EXPECT_NEAR(BytesPerGpu(Exchange::kSlots, 64, 64, 8, 960, kRow) /
                  BytesPerGpu(Exchange::kGatherScatter, 64, 64, 8, 960, kRow),
              1, 1e-9);
}

TEST(ExchangeTest, ANodeOfOneGpuSendsWhatTheFormulasSay) {
  const Network network{.link_bytes_per_second = 50e9, .gpus_per_node = 1};
  for (const Exchange exchange :
       {Exchange::kReduce, Exchange::kGather, Exchange::kGatherScatter, Exchange::kSlots}) {
    const bool replicated = exchange == Exchange::kReduce || exchange == Exchange::kGather;
    const ExchangeTime time = TimeOfExchange(exchange,
                                             {.num_ranks = 64,
                                              .ranks_per_node = 1,
                                              .attention_ranks = 64,
                                              .num_experts = 64,
                                              .top_k = 8,
                                              .num_rows = 1024,
                                              .rows_per_owner = replicated ? 1024.0 : 16.0,
                                              .dispatch_row_bytes = kRow,
                                              .combine_row_bytes = kRow},
                                             network, 450e9);
    EXPECT_NEAR(time.dispatch.seconds() + time.combine.seconds(),
                BytesPerGpu(exchange, 64, 64, 8, 1024, kRow) / 50e9, 1e-9)
        << DescribeExchange(exchange);
  }
}

TEST(ExchangeTest, AGatheredByteEntersANodeOnce) {
  const Network network{.link_bytes_per_second = 50e9, .gpus_per_node = 8};
  const ExchangeTime time = TimeOfExchange(Exchange::kGather,
                                           {.num_ranks = 64,
                                            .ranks_per_node = 8,
                                            .attention_ranks = 1,
                                            .num_experts = 64,
                                            .top_k = 8,
                                            .num_rows = 960,
                                            .rows_per_owner = 960,
                                            .dispatch_row_bytes = kRow,
                                            .combine_row_bytes = kRow},
                                           network, 450e9);
  const double bytes = 960 * 8 * kRow;
  EXPECT_NEAR(time.combine.network_seconds, bytes * 7 / 8 / 8 / 50e9, 1e-9);
  EXPECT_NEAR(time.combine.node_seconds, bytes * 63 / 64 / 450e9, 1e-9);
  EXPECT_EQ(time.dispatch.seconds(), 0);
}

TEST(ExchangeTest, FewerOwnersSendMoreEach) {
  const Network network{.link_bytes_per_second = 50e9, .gpus_per_node = 1};
  ExchangeShape shape{.num_ranks = 64,
                      .ranks_per_node = 1,
                      .attention_ranks = 64,
                      .num_experts = 64,
                      .top_k = 8,
                      .num_rows = 64,
                      .rows_per_owner = 1,
                      .dispatch_row_bytes = kRow,
                      .combine_row_bytes = kRow};
  const ExchangeTime all = TimeOfExchange(Exchange::kAllToAll, shape, network, 450e9);
  shape.attention_ranks = 1;
  shape.rows_per_owner = 64;
  const ExchangeTime one = TimeOfExchange(Exchange::kAllToAll, shape, network, 450e9);
  EXPECT_NEAR(one.dispatch.seconds(), all.dispatch.seconds() * 64, 1e-12);
}

TEST(ExchangeTest, AGraphIsCapturedForBucketsOfRows) {
  for (const auto& [rows, bucket] :
       {std::pair{0.0, 1.0}, {1, 1}, {2, 2}, {3, 4}, {5, 8}, {8, 8}, {9, 16}, {15, 16}, {17, 24}}) {
    EXPECT_EQ(BucketRows(rows), bucket) << rows;
  }
}

TEST(ExchangeTest, OneRankExchangesNothing) {
  const ExchangeTime time =
      TimeOfExchange(Exchange::kNone, {.num_rows = 64, .rows_per_owner = 64}, {}, 450e9);
  EXPECT_EQ(time.dispatch.seconds() + time.combine.seconds(), 0);
}

}  // namespace
}  // namespace moe::planner
