// What goes wrong between the exchange and its device, NCCL and the other ranks.
#include <latch>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker/exchange/nccl/device_ranks.h"
#include "tests/worker/exchange/nccl/emulated_stream.h"
#include "tests/worker/exchange/nccl/nccl_threads.h"

namespace moe::exchange {
namespace {

using ::testing::HasSubstr;

PatternThresholds Exact() {
  PatternThresholds thresholds;
  thresholds.surplus_bytes_over_network = std::numeric_limits<int64_t>::min();
  return thresholds;
}

struct Ranks : NcclThreads {
  explicit Ranks(const GroupShape& group_shape, absl::Duration join_deadline = absl::Minutes(2))
      : NcclThreads(group_shape, absl::Minutes(2), join_deadline) {
    for (int rank = 0; rank < shape.num_ranks; ++rank) {
      ranks.push_back(std::make_unique<DeviceRank>(shape, rank, shape.max_rows));
      apis[rank]->UseStream(EmulatedStreamOf(ranks.back()->stream.front()));
    }
    MakeEpoch(1);
  }
  ~Ranks() {
    for (const auto& rank : ranks) rank->exchange.reset();
  }
  absl::Status Connect(int rank, const PatternThresholds& thresholds = {}) {
    absl::Status status = epochs[rank]->Connect();
    if (status.ok()) status = ranks[rank]->Connect(epochs[rank].get(), thresholds);
    return status;
  }
  std::vector<std::unique_ptr<DeviceRank>> ranks;
};

TEST(NcclExchangeFaultTest, AnErrorOfAnyNcclCallInAnyLayerEndsTheEpochForAll) {
  // The nth group of a rank: canaries are the first two.
  for (const NcclCall call : {NcclCall::kGroupStart, NcclCall::kGroupEnd, NcclCall::kSend,
                              NcclCall::kReceive, NcclCall::kAllGather, NcclCall::kPoll}) {
    for (const int nth : {0, 1, 2, 5, 9}) {
      SCOPED_TRACE(absl::StrCat("call ", static_cast<int>(call), ", ", nth));
      Ranks threads(SmallShape(3, 3));
      threads.nccl.fail = [=](int rank, NcclCall made, int made_nth) {
        return rank == 1 && made == call && made_nth == nth ? absl::InternalError("no luck")
                                                            : absl::OkStatus();
      };
      threads.RunAll([&](int rank) {
        absl::Status status = threads.Connect(rank, Exact());
        DeviceRank& self = *threads.ranks[rank];
        std::mt19937 random(rank);
        int num_wrong = 0;
        for (uint64_t step = 1; status.ok() && step < 20; ++step) {
          status = self.exchange->BeginStep(step, {2, 2, 2}, 0);
          for (int layer = 0; status.ok() && layer < threads.shape.num_layers; ++layer) {
            status = RunDeviceLayer(self, layer, 2, Skew::kNone, random, &num_wrong);
          }
          if (status.ok()) status = self.exchange->FinishStep();
        }
        EXPECT_EQ(num_wrong, 0);
        EXPECT_EQ(status.code(),
                  rank == 1 ? absl::StatusCode::kInternal : absl::StatusCode::kUnavailable)
            << "rank " << rank << ": " << status;
        if (rank == 1) {
          EXPECT_THAT(status.ToString(), HasSubstr("no luck"));
        }
        EXPECT_EQ(threads.epochs[rank]->status(), status);
      });
      threads.nccl.AwaitNoCommunicators();
    }
  }
}

TEST(NcclExchangeFaultTest, ARefusedRegistrationIsToldWithTheBuffersSize) {
  Ranks threads(SmallShape(2, 1));
  threads.nccl.fail = [](int rank, NcclCall call, int nth) {
    return rank == 0 && call == NcclCall::kRegister && nth == 1
               ? absl::InternalError("unhandled system error")
               : absl::OkStatus();
  };
  threads.RunAll([&](int rank) {
    const absl::Status status = threads.Connect(rank);
    EXPECT_FALSE(status.ok());
    if (rank == 0) {
      EXPECT_THAT(status.ToString(), HasSubstr("registering a buffer of "));
    }
  });
}

TEST(NcclExchangeFaultTest, ARankThatDiesWhileOthersWaitForCountsIsTheSuspect) {
  Ranks threads(SmallShape(3, 2));
  std::latch computed(3);
  threads.RunAll([&](int rank) {
    ASSERT_TRUE(threads.Connect(rank, Exact()).ok());
    DeviceRank& self = *threads.ranks[rank];
    ASSERT_TRUE(self.exchange->BeginStep(1, {2, 1, 0}, 0).ok());
    std::mt19937 random(rank);
    int num_wrong = 0;
    const int rows = 2 - rank;
    EXPECT_TRUE(RunDeviceLayer(self, 0, rows, Skew::kNone, random, &num_wrong).ok());
    computed.arrive_and_wait();
    if (rank == 2) {
      self.exchange.reset();
      threads.epochs[2].reset();
      return;
    }
    const absl::Status status = RunDeviceLayer(self, 1, rows, Skew::kNone, random, &num_wrong);
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    // It may be seen before this rank begins its next layer.
    EXPECT_THAT(status.ToString(), HasSubstr(" of step 1"));
    EXPECT_EQ(threads.epochs[rank]->suspect(), 2);
    EXPECT_EQ(self.exchange->FinishStep(), status);
  });
}

TEST(NcclExchangeFaultTest, AnErrorOfTheExpertsIsThisRanksFault) {
  Ranks threads(SmallShape(2, 2));
  threads.ranks[1]->experts->failure = absl::DataLossError("the GPU is lost");
  threads.RunAll([&](int rank) {
    ASSERT_TRUE(threads.Connect(rank).ok());
    DeviceRank& self = *threads.ranks[rank];
    ASSERT_TRUE(self.exchange->BeginStep(1, {1, 1}, 0).ok());
    std::mt19937 random(rank);
    int num_wrong = 0;
    const absl::Status status = RunDeviceLayer(self, 0, 1, Skew::kNone, random, &num_wrong);
    EXPECT_EQ(status.code(),
              rank == 1 ? absl::StatusCode::kDataLoss : absl::StatusCode::kUnavailable)
        << status;
    EXPECT_EQ(threads.epochs[rank]->suspect(), 1);
  });
}

TEST(NcclExchangeFaultTest, ACanaryWithWrongBitsNamesTheRankItIsFrom) {
  Ranks threads(SmallShape(2, 1));
  // Rank 1's canary is damaged when it sends it to rank 0: its upload only stands in the stream.
  threads.nccl.fail = [&](int rank, NcclCall call, int) {
    if (rank == 1 && call == NcclCall::kSend) {
      threads.ranks[1]->buffers->host_canary()[1 + 2 + 1] ^= 1;
    }
    return absl::OkStatus();
  };
  threads.RunAll([&](int rank) {
    const absl::Status status = threads.Connect(rank);
    if (rank != 0) return;
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
    EXPECT_THAT(status.ToString(), HasSubstr("rank 1: its canary came over NCCL with wrong bits"));
    EXPECT_EQ(threads.epochs[0]->suspect(), 1);
  });
}

TEST(NcclExchangeFaultTest, ARankThatSendsNoCanaryEndsTheJoinByItsDeadline) {
  Ranks threads(SmallShape(3, 1), absl::Milliseconds(500));
  std::latch named(2);
  threads.RunAll([&](int rank) {
    ASSERT_TRUE(threads.epochs[rank]->Connect().ok());
    if (rank == 2) {
      named.wait();  // it hangs where it would register its buffers
      return;
    }
    const absl::Status status = threads.ranks[rank]->Connect(threads.epochs[rank].get(), {});
    EXPECT_EQ(threads.epochs[rank]->suspect(), 2) << status;
    if (rank == 0) {
      EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
      EXPECT_THAT(status.ToString(), HasSubstr("rank 2 hangs: NCCL did not connect the ranks"));
    }
    named.count_down();
  });
}

TEST(NcclExchangeFaultTest, CallsOutOfOrderAreRefusedAndChangeNothing) {
  GroupShape shape = SmallShape(1, 1);
  shape.max_rows = 5;
  Ranks threads(shape);
  ASSERT_TRUE(threads.epochs[0]->Connect().ok());
  DeviceRank& self = *threads.ranks[0];
  auto made = NcclExchange::Create({.epoch = threads.epochs[0].get(),
                                    .buffers = self.buffers.get(),
                                    .stream = &self.stream.front(),
                                    .experts = self.experts.get()},
                                   {});
  ASSERT_TRUE(made.ok());
  self.exchange = *std::move(made);
  NcclExchange& exchange = *self.exchange;
  const auto refused = [](const absl::Status& status) {
    return status.code() == absl::StatusCode::kFailedPrecondition ||
           status.code() == absl::StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(refused(exchange.BeginStep(1, {1}, 0)));  // not connected
  EXPECT_TRUE(refused(exchange.BeginStep(1, {1}, 2)));
  ASSERT_TRUE(exchange.Connect().ok());
  EXPECT_TRUE(refused(exchange.Connect()));
  EXPECT_TRUE(refused(exchange.RunLayer(0).status()));
  EXPECT_TRUE(refused(exchange.FinishStep()));
  EXPECT_TRUE(refused(exchange.BeginStep(1, {6}, 0)));
  EXPECT_TRUE(refused(exchange.BeginStep(1, {}, 0)));
  EXPECT_TRUE(refused(exchange.BeginStep(1, {3}, 2)));
  EXPECT_TRUE(refused(exchange.BeginStep(1, {3}, 6)));
  ASSERT_TRUE(exchange.BeginStep(1, {1}, 2).ok());
  EXPECT_TRUE(refused(exchange.BeginStep(2, {1}, 2)));
  EXPECT_TRUE(refused(exchange.RunLayer(2).status()));
  ASSERT_TRUE(exchange.FinishStep().ok());
  EXPECT_TRUE(refused(exchange.RunLayer(0).status()));
  ASSERT_TRUE(exchange.BeginStep(2, {1}, 0).ok());
  EXPECT_TRUE(refused(exchange.BeginStep(3, {1}, 0)));
  EXPECT_TRUE(refused(exchange.RunLayer(2).status()));
  EXPECT_TRUE(threads.epochs[0]->status().ok());
}

TEST(NcclExchangeFaultTest, PartsThatDoNotFitAreRefused) {
  Ranks threads(SmallShape(2, 1));
  DeviceRank& self = *threads.ranks[0];
  GroupShape shape = threads.shape;
  ++shape.max_rows;
  const DeviceRank other_shape(shape, 0, 3);
  const NcclExchangeParts good = {.epoch = threads.epochs[0].get(),
                                  .buffers = self.buffers.get(),
                                  .stream = &self.stream.front(),
                                  .experts = self.experts.get()};
  EXPECT_TRUE(NcclExchange::Create(good, {}).ok());
  for (int part = 0; part < 6; ++part) {
    NcclExchangeParts parts = good;
    if (part == 0) parts.epoch = nullptr;
    if (part == 1) parts.buffers = nullptr;
    if (part == 2) parts.stream = nullptr;
    if (part == 3) parts.experts = nullptr;
    if (part == 4) parts.buffers = threads.ranks[1]->buffers.get();
    if (part == 5) parts.buffers = other_shape.buffers.get();
    EXPECT_EQ(NcclExchange::Create(parts, {}).status().code(), absl::StatusCode::kInvalidArgument)
        << part;
  }
}

TEST(NcclExchangeFaultTest, MemoryThatDoesNotSufficeIsToldBeforeAnythingJoins) {
  GroupShape shape = SmallShape(1, 1);
  shape.max_rows = 1 << 20;
  shape.hidden = 1 << 14;
  auto stream = device::Stream::Create();
  ASSERT_TRUE(stream.ok());
  EXPECT_EQ(ExchangeBuffers::Create(shape, 0, 8, *stream).status().code(),
            absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace moe::exchange
