// Tests worker/daemon/host_group_exchange.h: one epoch after another, by the same makers.
#include "worker/daemon/host_group_exchange.h"

#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker/exchange/fake_group.h"

namespace moe::worker {
namespace {

constexpr int kNumRanks = 3;

// The makers of all ranks, as their processes have them.
class HostGroupExchangeTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    const exchange::GroupShape shape = exchange::SmallShape(kNumRanks, 1);
    for (int rank = 0; rank < kNumRanks; ++rank) {
      auto listener = exchange::TcpListener::Start("127.0.0.1:0");
      ASSERT_TRUE(listener.ok()) << listener.status();
      addresses_.push_back((*listener)->address());
      listeners_.push_back(*std::move(listener));
      experts_.push_back(std::make_unique<exchange::FakeExperts>(shape, rank));
      const RankPlace place{.shape = shape, .rank = rank, .step_deadline = absl::Minutes(2)};
      makers_.push_back(
          GetParam() ? MakeTcpGroups(place, experts_.back().get(), listeners_.back().get())
                     : MakeSharedMemoryGroups(place, experts_.back().get(), /*cores=*/{0, 1}));
    }
  }

  // The ends of all ranks, connected.
  std::vector<std::shared_ptr<GroupExchange>> Connected(uint64_t epoch) {
    std::vector<std::shared_ptr<GroupExchange>> ends;
    for (int rank = 0; rank < kNumRanks; ++rank) {
      auto end = makers_[static_cast<size_t>(rank)]->Make(
          {.epoch = epoch,
           .bootstrap = rank == 0 ? "" : ends[0]->bootstrap(),
           .addresses = addresses_});
      EXPECT_TRUE(end.ok()) << end.status();
      ends.push_back(*std::move(end));
    }
    std::vector<std::thread> threads;
    for (const auto& end : ends) {
      threads.emplace_back([&end] {
        const absl::Status status = end->Connect();
        EXPECT_TRUE(status.ok()) << status;
      });
    }
    for (std::thread& thread : threads) thread.join();
    return ends;
  }

  std::vector<std::string> addresses_;
  std::vector<std::unique_ptr<exchange::TcpListener>> listeners_;
  std::vector<std::unique_ptr<exchange::FakeExperts>> experts_;
  std::vector<std::unique_ptr<GroupExchangeMaker>> makers_;
};
INSTANTIATE_TEST_SUITE_P(Exchanges, HostGroupExchangeTest, ::testing::Values(false, true),
                         [](const auto& test) { return test.param ? "Tcp" : "SharedMemory"; });

TEST_P(HostGroupExchangeTest, OneEpochFollowsAnother) {
  for (const uint64_t epoch : {1, 2, 7}) {
    SCOPED_TRACE(epoch);
    const auto ends = Connected(epoch);
    EXPECT_NE(ends[0]->exchange().host, nullptr);
    EXPECT_EQ(ends[0]->exchange().device, nullptr);
    ASSERT_TRUE(ends[0]->control()->SendPlan(1, "plan", {1, 2}).ok());
    for (int rank = 1; rank < kNumRanks; ++rank) {
      const auto plan = ends[static_cast<size_t>(rank)]->control()->ReceivePlan();
      ASSERT_TRUE(plan.ok()) << plan.status();
      EXPECT_EQ(plan->plan, "plan");
    }
    for (const auto& end : ends) end->Abort("the test ends the epoch");
    EXPECT_TRUE(absl::IsAborted(ends[1]->control()->ReceivePlan().status()));
    EXPECT_EQ(ends[1]->suspect(), -1);
  }
}

TEST_P(HostGroupExchangeTest, WhatIsNoBootstrapIsRefused) {
  const auto end =
      makers_[1]->Make({.epoch = 1, .bootstrap = "no bootstrap", .addresses = addresses_});
  EXPECT_EQ(end.status().code(), absl::StatusCode::kInvalidArgument) << end.status();
}

}  // namespace
}  // namespace moe::worker
