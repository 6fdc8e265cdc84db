// Whole layers of groups of any width over the fake NCCL, with the kernels on the emulator, against
// the obvious reference.
#include "worker/exchange/nccl/nccl_exchange.h"

#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/worker/exchange/nccl/device_ranks.h"
#include "tests/worker/exchange/nccl/emulated_stream.h"
#include "tests/worker/exchange/nccl/nccl_threads.h"
#include "tests/worker/exchange/nccl/only_pattern.h"

namespace moe::exchange {
namespace {

struct DeviceThreads : NcclThreads {
  DeviceThreads(const GroupShape& group_shape, int max_slot_rows) : NcclThreads(group_shape) {
    for (int rank = 0; rank < shape.num_ranks; ++rank) {
      ranks.push_back(std::make_unique<DeviceRank>(shape, rank, max_slot_rows));
      apis[rank]->UseStream(EmulatedStreamOf(ranks.back()->stream.front()));
    }
  }
  ~DeviceThreads() {
    for (const auto& rank : ranks) rank->exchange.reset();
  }

  void ConnectAll(uint64_t number, const PatternThresholds& thresholds) {
    for (const auto& rank : ranks) rank->exchange.reset();
    MakeEpoch(number);
    RunAll([&](int rank) {
      absl::Status status = epochs[rank]->Connect();
      if (status.ok()) status = ranks[rank]->Connect(epochs[rank].get(), thresholds);
      ASSERT_TRUE(status.ok()) << "rank " << rank << ": " << status;
    });
  }

  // A step of all layers at all ranks: nothing may be wrong.
  void RunStep(uint64_t step, const std::vector<int>& num_rows, Skew skew, uint32_t seed) {
    RunAll([&](int rank) {
      DeviceRank& self = *ranks[rank];
      std::mt19937 random = RandomOfRank(shape, rank, seed);
      const absl::Status begun = self.exchange->BeginStep(step, num_rows, 0);
      ASSERT_TRUE(begun.ok()) << begun;
      int num_wrong = 0;
      for (int layer = 0; layer < shape.num_layers; ++layer) {
        const absl::Status status =
            RunDeviceLayer(self, layer, num_rows[rank], skew, random, &num_wrong);
        ASSERT_TRUE(status.ok()) << "rank " << rank << ": " << status;
      }
      ASSERT_EQ(num_wrong, 0) << "rank " << rank;
      const absl::Status ended = self.exchange->FinishStep();
      ASSERT_TRUE(ended.ok()) << ended;
    });
  }

  // By all ranks' exchanges.
  uint64_t CountedBytes() const {
    uint64_t counted = 0;
    for (const auto& rank : ranks) {
      counted += rank->exchange->stats().dispatch_bytes + rank->exchange->stats().combine_bytes;
    }
    return counted;
  }

  std::vector<std::unique_ptr<DeviceRank>> ranks;
};

// Each pattern over a group; widths, owners, top_k, holders and rows are random.
void RunPattern(const GroupShape& shape, bool exact, uint32_t seed) {
  SCOPED_TRACE(absl::StrCat(shape.num_attention_ranks, " of ", shape.num_ranks, " ranks own rows, ",
                            shape.top_k, " of ", shape.num_experts, " experts, hidden ",
                            shape.hidden));
  DeviceThreads threads(shape, shape.max_rows);
  threads.ConnectAll(1, Only(exact));
  std::mt19937 random(seed);
  uint64_t step = 1;
  for (const Skew skew : {Skew::kNone, Skew::kAllToOneExpert, Skew::kNoneToTheLastRank}) {
    threads.RunStep(step++, RandomRows(shape, shape.max_rows, random), skew, seed);
    threads.RunStep(step++, RandomRows(shape, 1, random), skew, seed + 1);
    if (testing::Test::HasFailure()) return;
  }
  const Pattern expected = shape.replicated
                               ? (exact ? Pattern::kReplicatedExact : Pattern::kReplicatedSlots)
                               : (exact ? Pattern::kAllToAll : Pattern::kSlots);
  if (shape.num_ranks > 1) {
    EXPECT_EQ(threads.ranks[0]->exchange->pattern(), expected);
  }
}

void RunPatternAtAllWidths(bool replicated, bool exact) {
  std::mt19937 random(3);
  for (const int num_ranks : {1, 2, 3, 4, 8}) {
    for (const int num_owners : {1, (num_ranks + 1) / 2, num_ranks}) {
      for (const int top_k : {1, 2, 8}) {
        GroupShape shape = RandomShape(num_ranks, num_owners, random);
        shape.replicated = replicated;
        shape.num_layers = 1;
        shape.max_rows = 1 + static_cast<int>(random() % 7);
        shape.top_k = std::min(top_k, shape.num_experts);
        RunPattern(shape, exact, static_cast<uint32_t>(random()));
        if (testing::Test::HasFailure()) return;
      }
      if (replicated) break;
    }
  }
}

TEST(NcclExchangeTest, SlotsGiveTheReferenceResults) { RunPatternAtAllWidths(false, false); }
TEST(NcclExchangeTest, AllToAllGivesTheReferenceResults) { RunPatternAtAllWidths(false, true); }
TEST(NcclExchangeTest, ReplicatedSlotsGiveTheReferenceResults) {
  RunPatternAtAllWidths(true, false);
}
TEST(NcclExchangeTest, ReplicatedExactNumbersGiveTheReferenceResults) {
  RunPatternAtAllWidths(true, true);
}

TEST(NcclExchangeTest, SixtyFourRanksWithOneExpertEachGiveTheReferenceResults) {
  GroupShape shape{.num_ranks = 64,
                   .num_attention_ranks = 64,
                   .num_layers = 1,
                   .num_experts = 64,
                   .hidden = 16,
                   .top_k = 8,
                   .max_rows = 3,
                   .rank_of_expert = {}};
  for (int e = 0; e < 64; ++e) shape.rank_of_expert.push_back(e);
  std::mt19937 random(7);
  for (const bool replicated : {false, true}) {
    shape.replicated = replicated;
    DeviceThreads threads(shape, shape.max_rows);
    uint64_t epoch = 1;
    for (const bool exact : {false, true}) {
      threads.ConnectAll(epoch++, Only(exact));
      threads.RunStep(1, RandomRows(shape, shape.max_rows, random), Skew::kNone, 8);
    }
  }
}

TEST(NcclExchangeTest, StepsOfOneEpochMayTravelInDifferentPatterns) {
  GroupShape shape = SmallShape(3, 3);
  shape.max_rows = 9;
  DeviceThreads threads(shape, /*max_slot_rows=*/4);
  threads.ConnectAll(1, Only(false));
  uint64_t step = 1;
  for (const int rows : {1, 9, 4, 5, 2}) {
    threads.RunStep(step++, {rows, 0, rows}, Skew::kNone, 4);
    EXPECT_EQ(threads.ranks[1]->exchange->pattern(),
              rows > 4 ? Pattern::kAllToAll : Pattern::kSlots);
  }
}

TEST(NcclExchangeTest, BuffersServeOneEpochAfterTheOther) {
  DeviceThreads threads(SmallShape(3, 2), 3);
  for (const uint64_t epoch : {1, 2, 3}) {
    threads.ConnectAll(epoch, Only(epoch == 2));
    EXPECT_GT(threads.nccl.num_registrations(), 0);
    threads.RunStep(1, {3, 1, 0}, Skew::kNone, 5);
    threads.RunAll([&](int rank) { ASSERT_TRUE(threads.epochs[rank]->Close().ok()); });
    EXPECT_EQ(threads.nccl.num_registrations(), 0);
    EXPECT_EQ(threads.nccl.num_communicators(), 0);
  }
}

// What a graph holds is what the layers of a bucket enqueue; that it can be captured and launched
// is shown by tests/system/cuda_group_test.cc.
TEST(NcclExchangeTest, ABucketServesStepsOfFewerRows) {
  std::mt19937 random(9);
  for (const bool replicated : {false, true}) {
    for (const int num_owners : {1, 4}) {
      GroupShape shape = SmallShape(4, num_owners);
      shape.replicated = replicated;
      shape.max_rows = 9;
      DeviceThreads threads(shape, 8);
      threads.ConnectAll(1, Only(false));
      const int64_t bytes_before = threads.nccl.num_bytes_received();
      for (uint64_t step = 1; step < 4; ++step) {
        const std::vector<int> num_rows = RandomRows(shape, 2 * static_cast<int>(step), random);
        constexpr int kBucket = 8;
        threads.RunAll([&](int rank) {
          DeviceRank& self = *threads.ranks[rank];
          NcclExchange& exchange = *self.exchange;
          ASSERT_TRUE(exchange.TakesBucket(kBucket));
          ASSERT_TRUE(exchange.BeginStep(step, num_rows, kBucket).ok());
          std::mt19937 rows_random = RandomOfRank(shape, rank, 4);
          const bool is_owner = replicated || rank < num_owners;
          for (int layer = 0; layer < shape.num_layers; ++layer) {
            // All rows of the bucket are there, as a graph leaves them; those beyond the step's
            // keep what was there before.
            const device::Stream& stream = self.stream.front();
            std::vector<kernels::BFloat16> before(is_owner ? kBucket * shape.hidden : 0);
            ASSERT_TRUE(device::CopyToHost<kernels::BFloat16>(exchange.rows(),
                                                              absl::MakeSpan(before), stream)
                            .ok());
            ASSERT_TRUE(stream.Synchronize().ok());
            const std::vector<int32_t> ids =
                SkewedRouting(shape, is_owner ? kBucket : 0, Skew::kNone, rows_random);
            ASSERT_TRUE(device::CopyToDevice<int32_t>(ids, exchange.expert_ids(), stream).ok());
            const auto result = exchange.RunLayer(layer);
            ASSERT_TRUE(result.ok()) << result.status();
            ASSERT_EQ(*result != nullptr, is_owner);
            if (!is_owner) continue;
            std::vector<kernels::BFloat16> outputs(before.size() * shape.top_k);
            ASSERT_TRUE(
                device::CopyToHost<kernels::BFloat16>(*result, absl::MakeSpan(outputs), stream)
                    .ok());
            ASSERT_TRUE(stream.Synchronize().ok());
            EXPECT_EQ(CountWrong(shape, layer, num_rows[rank], before.data(), ids, outputs.data()),
                      0);
          }
          ASSERT_TRUE(exchange.FinishStep().ok());
        });
        // Experts ran for the step's rows alone.
        int64_t num_pairs = 0;
        for (const auto& rank : threads.ranks) {
          num_pairs += std::exchange(rank->experts->num_pairs, 0);
        }
        const int64_t all_rows =
            replicated ? num_rows[0] : std::accumulate(num_rows.begin(), num_rows.end(), 0);
        EXPECT_EQ(num_pairs, all_rows * shape.top_k * shape.num_layers);
      }
      EXPECT_EQ(threads.CountedBytes(),
                static_cast<uint64_t>(threads.nccl.num_bytes_received() - bytes_before));
    }
  }
}

TEST(NcclExchangeTest, ABucketIsTakenWhereItsSlotsAreBest) {
  GroupShape shape = SmallShape(2, 2);
  shape.max_rows = 9;
  DeviceThreads threads(shape, /*max_slot_rows=*/4);
  threads.ConnectAll(1, Only(false));
  EXPECT_TRUE(threads.ranks[0]->exchange->TakesBucket(4));
  EXPECT_FALSE(threads.ranks[0]->exchange->TakesBucket(5));
  threads.ConnectAll(2, Only(true));
  EXPECT_FALSE(threads.ranks[0]->exchange->TakesBucket(4));
  EXPECT_EQ(threads.ranks[0]->exchange->BeginStep(1, {1, 0}, 4).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(NcclExchangeTest, RanksWithoutRowsServeTheOthers) {
  const GroupShape shape = SmallShape(3, 2);
  for (const bool exact : {false, true}) {
    DeviceThreads threads(shape, 3);
    threads.ConnectAll(1, Only(exact));
    const std::vector<int> num_rows = {0, 3, 0};
    threads.RunAll([&](int rank) {
      DeviceRank& self = *threads.ranks[rank];
      if (rank != 1) {
        absl::Status status = self.exchange->BeginStep(1, num_rows, 0);
        for (int layer = 0; status.ok() && layer < shape.num_layers; ++layer) {
          status = self.exchange->RunLayer(layer).status();
        }
        if (status.ok()) status = self.exchange->FinishStep();
        ASSERT_TRUE(status.ok()) << status;
        return;
      }
      ASSERT_TRUE(self.exchange->BeginStep(1, num_rows, 0).ok());
      std::mt19937 random(1);
      int num_wrong = 0;
      for (int layer = 0; layer < shape.num_layers; ++layer) {
        ASSERT_TRUE(RunDeviceLayer(self, layer, 3, Skew::kNone, random, &num_wrong).ok());
      }
      EXPECT_EQ(num_wrong, 0);
      ASSERT_TRUE(self.exchange->FinishStep().ok());
    });
    EXPECT_EQ(threads.ranks[2]->experts->num_pairs, 3 * shape.num_layers);
  }
}

TEST(NcclExchangeTest, BytesOfOtherRanksAreCounted) {
  for (const bool exact : {false, true}) {
    DeviceThreads threads(SmallShape(3, 2), 3);
    threads.ConnectAll(1, Only(exact));
    const int64_t before = threads.nccl.num_bytes_received();
    threads.RunStep(1, {3, 1, 0}, Skew::kNone, 5);
    EXPECT_EQ(threads.CountedBytes(),
              static_cast<uint64_t>(threads.nccl.num_bytes_received() - before));
  }
}

TEST(NcclExchangeTest, ALayerOfExactNumbersMovesEachRowOnceToARankAndEachOutputOnce) {
  GroupShape shape = SmallShape(2, 1);
  shape.num_layers = 1;
  shape.num_experts = 4;
  shape.top_k = 4;  // every row goes to both ranks, for two experts at each
  shape.rank_of_expert = {0, 0, 1, 1};
  DeviceThreads threads(shape, 3);
  threads.ConnectAll(1, Only(true));
  threads.RunStep(1, {3, 0}, Skew::kNone, 5);
  const size_t row = sizeof(kernels::BFloat16) * shape.hidden;
  const size_t routes = 3 * sizeof(int32_t) * shape.top_k;
  EXPECT_EQ(threads.ranks[1]->exchange->stats().dispatch_bytes, 3 * row + routes);
  EXPECT_EQ(threads.ranks[1]->exchange->stats().combine_bytes, 0u);
  EXPECT_EQ(threads.ranks[0]->exchange->stats().dispatch_bytes, 0u);
  EXPECT_EQ(threads.ranks[0]->exchange->stats().combine_bytes, 3 * 2 * row);
}

TEST(NcclExchangeTest, ARankAloneMovesNothing) {
  DeviceThreads threads(SmallShape(1, 1), 1);
  threads.ConnectAll(1, Only(true));
  threads.RunStep(1, {3}, Skew::kNone, 5);
  for (const NcclCall call : threads.nccl.calls(0)) EXPECT_NE(call, NcclCall::kGroupStart);
  EXPECT_EQ(threads.ranks[0]->exchange->stats().combine_bytes, 0u);
}

TEST(NcclExchangeTest, ExpertsThatNoRowChoseAreNotRunInExactNumbers) {
  GroupShape shape = SmallShape(3, 1);
  shape.top_k = 1;
  DeviceThreads threads(shape, 3);
  threads.ConnectAll(1, Only(true));
  threads.RunStep(1, {3, 0, 0}, Skew::kNoneToTheLastRank, 5);
  EXPECT_EQ(threads.ranks[2]->experts->num_runs, 0);
  EXPECT_EQ(threads.ranks[0]->experts->num_pairs + threads.ranks[1]->experts->num_pairs,
            3 * shape.num_layers);
}

}  // namespace
}  // namespace moe::exchange
