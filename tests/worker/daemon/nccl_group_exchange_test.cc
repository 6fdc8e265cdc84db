// Tests worker/daemon/nccl_group_exchange.h: ranks on emulated GPUs, over the fake NCCL. Whole
// steps are in nccl_worker_test.cc and in tests/system/cuda_group_test.cc.
#include "worker/daemon/nccl_group_exchange.h"

#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/kernels/emulator/runtime.h"
#include "tests/system/fake_nccl_group.h"
#include "tests/worker/cuda/rank_test.h"
#include "worker/exchange/nccl/nccl_bootstrap.h"
#include "worker/model/cpu_backend.h"

namespace moe::worker {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr int kNumRanks = 2;

class NcclGroupExchangeTest : public cuda::CudaRankTest {
 protected:
  void SetUp() override {
    CudaRankTest::SetUp();
    const model::ModelConfig& config = Write(model::TinyConfig()).config();
    shape_ = {.num_ranks = kNumRanks,
              .num_attention_ranks = kNumRanks,
              .num_layers = config.num_layers,
              .num_experts = config.num_experts,
              .hidden = config.hidden,
              .top_k = config.top_k,
              .max_rows = 64,
              .rank_of_expert = {}};
    for (int e = 0; e < config.num_experts; ++e) {
      shape_.rank_of_expert.push_back(e * kNumRanks / config.num_experts);
    }
    backend_ = MakeBackend();
    for (int rank = 0; rank < kNumRanks; ++rank) {
      auto listener = exchange::TcpListener::Start("127.0.0.1:0");
      ASSERT_TRUE(listener.ok()) << listener.status();
      addresses_.push_back((*listener)->address());
      ranks_.push_back(
          {.listener = *std::move(listener),
           .groups = std::make_unique<NcclGroups>(testing::FakeNcclOptions(&nccl_, rank)),
           .model = LoadRank(rank),
           .maker = nullptr});
    }
  }
  void TearDown() override {
    for (Rank& rank : ranks_) rank.maker = nullptr;
    EXPECT_EQ(nccl_.num_communicators(), 0);
    EXPECT_EQ(nccl_.num_registrations(), 0);
    EXPECT_THAT(nccl_.violations(), ::testing::IsEmpty());
    CudaRankTest::TearDown();
  }

  std::unique_ptr<model::RankModel> LoadRank(int rank) {
    model::RankSpec spec = Spec();
    spec.rank = rank;
    spec.num_ranks = kNumRanks;
    spec.experts = rank == 0 ? std::vector<int>{0, 1, 2, 3} : std::vector<int>{4, 5, 6, 7};
    return Load(backend_.get(), *checkpoint_, spec);
  }
  absl::StatusOr<std::unique_ptr<GroupExchangeMaker>> MakeMaker(int rank) {
    Rank& self = ranks_[static_cast<size_t>(rank)];
    return self.groups->MakeMaker(
        {.shape = shape_, .rank = rank, .step_deadline = absl::Minutes(2)}, self.listener.get(),
        self.model.get());
  }
  void MakeMakers() {
    for (int rank = 0; rank < kNumRanks; ++rank) {
      Rank& self = ranks_[static_cast<size_t>(rank)];
      ASSERT_TRUE(self.groups->Load().ok());
      auto maker = MakeMaker(rank);
      ASSERT_TRUE(maker.ok()) << maker.status();
      self.maker = *std::move(maker);
    }
  }
  std::vector<std::shared_ptr<GroupExchange>> MakeEnds(uint64_t epoch) {
    std::vector<std::shared_ptr<GroupExchange>> ends;
    for (int rank = 0; rank < kNumRanks; ++rank) {
      auto end = ranks_[static_cast<size_t>(rank)].maker->Make(
          {.epoch = epoch,
           .bootstrap = rank == 0 ? "" : ends[0]->bootstrap(),
           .addresses = addresses_});
      EXPECT_TRUE(end.ok()) << end.status();
      ends.push_back(*std::move(end));
    }
    return ends;
  }
  static std::vector<absl::Status> ConnectAll(
      const std::vector<std::shared_ptr<GroupExchange>>& ends) {
    std::vector<absl::Status> outcomes(ends.size());
    std::vector<std::thread> threads;
    for (size_t i = 0; i < ends.size(); ++i) {
      threads.emplace_back([&, i] { outcomes[i] = ends[i]->Connect(); });
    }
    for (std::thread& thread : threads) thread.join();
    return outcomes;
  }

  struct Rank {
    std::unique_ptr<exchange::TcpListener> listener;
    std::unique_ptr<NcclGroups> groups;
    std::unique_ptr<model::RankModel> model;
    std::unique_ptr<GroupExchangeMaker> maker;
  };

  exchange::FakeNccl nccl_;
  exchange::GroupShape shape_;
  std::unique_ptr<cuda::CudaBackend> backend_;
  std::vector<std::string> addresses_;
  std::vector<Rank> ranks_;
};

TEST_F(NcclGroupExchangeTest, EachEpochConnectsWithTheBuffersOfTheFirst) {
  ASSERT_NO_FATAL_FAILURE(MakeMakers());
  const int64_t allocations = emulator::Counts().num_device_allocations;
  std::string last_bootstrap;
  for (const uint64_t epoch : {1, 2, 5}) {
    SCOPED_TRACE(epoch);
    const auto ends = MakeEnds(epoch);
    EXPECT_NE(ends[0]->bootstrap(), last_bootstrap);
    EXPECT_EQ(ends[1]->bootstrap(), "");
    last_bootstrap = ends[0]->bootstrap();
    for (const absl::Status& status : ConnectAll(ends)) EXPECT_TRUE(status.ok()) << status;
    EXPECT_EQ(nccl_.num_communicators(), kNumRanks);
    EXPECT_GT(nccl_.num_registrations(), 0);
    for (const auto& end : ends) {
      EXPECT_NE(end->exchange().device, nullptr);
      EXPECT_EQ(end->exchange().host, nullptr);
      end->Abort("the test ends the epoch");
    }
    EXPECT_TRUE(absl::IsAborted(ends[1]->control()->ReceivePlan().status()));
    EXPECT_EQ(ends[1]->suspect(), -1);
  }
  EXPECT_EQ(emulator::Counts().num_device_allocations, allocations);
}

TEST_F(NcclGroupExchangeTest, ARankThatIsAbortedWhileItConnectsStopsAtOnce) {
  nccl_.never_ready = {0, 1};
  ASSERT_NO_FATAL_FAILURE(MakeMakers());
  const auto ends = MakeEnds(1);
  std::thread abort([&] {
    // Both are inside NCCL's part of Connect.
    while (nccl_.num_communicators() < kNumRanks) std::this_thread::yield();
    for (const auto& end : ends) end->Abort("the controller says so");
  });
  for (const absl::Status& status : ConnectAll(ends)) {
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr("deadline")));
  }
  abort.join();
  nccl_.AwaitNoCommunicators();
}

TEST_F(NcclGroupExchangeTest, WhatIsNoBootstrapIsRefusedAndNotRepeated) {
  ASSERT_NO_FATAL_FAILURE(MakeMakers());
  const auto ends = MakeEnds(1);
  const std::string good = ends[0]->bootstrap();
  const auto parsed = exchange::ParseNcclBootstrap(good);
  ASSERT_TRUE(parsed.ok());
  for (const std::string& bootstrap :
       {std::string(), std::string("garbage of a kind"), good.substr(0, good.size() / 2),
        good.substr(1), parsed->control}) {
    const auto end =
        ranks_[1].maker->Make({.epoch = 1, .bootstrap = bootstrap, .addresses = addresses_});
    ASSERT_EQ(end.status().code(), absl::StatusCode::kInvalidArgument) << end.status();
    EXPECT_THAT(end.status().ToString(), Not(HasSubstr("garbage")));
    EXPECT_THAT(end.status().ToString(), Not(HasSubstr(parsed->id.bytes.data())));
  }
  // Of another epoch.
  const auto end = ranks_[1].maker->Make({.epoch = 2, .bootstrap = good, .addresses = addresses_});
  EXPECT_EQ(end.status().code(), absl::StatusCode::kFailedPrecondition) << end.status();
}

TEST_F(NcclGroupExchangeTest, ALibraryThatIsMissingIsToldInItsWords) {
  NcclGroups groups(
      {.load = [] { return absl::FailedPreconditionError("NCCL can't be loaded: install it"); }});
  EXPECT_EQ(groups.Load(), absl::FailedPreconditionError("NCCL can't be loaded: install it"));
  EXPECT_FALSE(
      groups
          .MakeMaker({.shape = shape_, .rank = 0}, ranks_[0].listener.get(), ranks_[0].model.get())
          .ok());
}

TEST_F(NcclGroupExchangeTest, ARankOnACpuIsRefused) {
  ASSERT_TRUE(ranks_[0].groups->Load().ok());
  model::CpuBackend backend({});
  ranks_[0].model = Load(&backend, *checkpoint_, Spec());
  EXPECT_EQ(MakeMaker(0).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(NcclGroupExchangeTest, TheBytesThatAreSaidBeforehandAreWhatIsAllocated) {
  ASSERT_TRUE(ranks_[0].groups->Load().ok());
  for (const int max_rows : {1, 64, 4096}) {
    for (const int num_owners : {1, kNumRanks}) {
      SCOPED_TRACE(::testing::Message() << max_rows << " rows of " << num_owners << " owners");
      shape_.max_rows = max_rows;
      shape_.num_attention_ranks = num_owners;
      const auto said = static_cast<int64_t>(ranks_[1].groups->DeviceBytes(shape_, 1));
      ASSERT_TRUE(ranks_[1].groups->Load().ok());
      const emulator::RuntimeCounts before = emulator::Counts();
      const auto maker = MakeMaker(1);
      ASSERT_TRUE(maker.ok()) << maker.status();
      const emulator::RuntimeCounts after = emulator::Counts();
      const int64_t allocated = after.num_device_bytes - before.num_device_bytes;
      EXPECT_LE(allocated, said);
      // Each allocation is rounded up.
      EXPECT_GT(allocated,
                said - 512 * (after.num_device_allocations - before.num_device_allocations));
    }
  }
}

TEST(SpansNodesTest, ComparesHostsWithoutTheirPorts) {
  EXPECT_FALSE(SpansNodes({}));
  EXPECT_FALSE(SpansNodes({"127.0.0.1:1"}));
  EXPECT_FALSE(SpansNodes({"127.0.0.1:1", "127.0.0.1:2"}));
  EXPECT_FALSE(SpansNodes({"[fd00::1]:1", "[fd00::1]:2"}));
  EXPECT_TRUE(SpansNodes({"10.0.0.1:1", "10.0.0.1:2", "10.0.0.2:1"}));
  EXPECT_TRUE(SpansNodes({"[fd00::1]:1", "[fd00::2]:1"}));
}

}  // namespace
}  // namespace moe::worker
