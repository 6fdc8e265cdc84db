#include "worker/exchange/turns.h"

#include <sched.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::exchange {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int kNumRanks = 8;

class TurnsTest : public ::testing::Test {
 protected:
  // All ranks look as if they slept.
  void SetUp() override {
    for (int rank = 0; rank < kNumRanks; ++rank) bells_.Prepare(rank);
  }

  // Since the last call, ascending.
  std::vector<int> Woken() {
    std::vector<int> woken;
    for (int rank = 0; rank < kNumRanks; ++rank) {
      if ((bell_.sleeping.load() >> rank & 1u) != 0) continue;
      woken.push_back(rank);
      bells_.Prepare(rank);
    }
    return woken;
  }

  Bell bell_{};
  Doorbells bells_{&bell_};
  TurnHead head_{};
  std::array<int32_t, kNumRanks> order_{};
  std::array<Seat, kNumRanks> seats_{};
  Turns turns_{&head_, order_.data(), seats_.data(), kNumRanks, &bells_};
};

TEST_F(TurnsTest, AsManyRanksAsCoresStartAndEachThatEndsWakesOne) {
  const std::vector<int32_t> ranks = {5, 2, 7, 1};
  int num_published = 0;
  turns_.Start(ranks, {0, 1}, [&] {
    ++num_published;
    EXPECT_THAT(Woken(), IsEmpty());
  });
  EXPECT_EQ(num_published, 1);
  EXPECT_THAT(Woken(), ElementsAre(2, 5));
  turns_.WakeNext();
  EXPECT_THAT(Woken(), ElementsAre(7));
  turns_.WakeNext();
  EXPECT_THAT(Woken(), ElementsAre(1));
  turns_.WakeNext();
  turns_.WakeNext();
  EXPECT_THAT(Woken(), IsEmpty());
}

TEST_F(TurnsTest, FewerRanksThanCoresAllStart) {
  const std::vector<int32_t> ranks = {3};
  turns_.Start(ranks, {0, 1}, [] {});
  EXPECT_THAT(Woken(), ElementsAre(3));
  turns_.WakeNext();
  EXPECT_THAT(Woken(), IsEmpty());
}

TEST_F(TurnsTest, AnOwnerThatKeepsItsOnlyCoreStartsNobodyBeforeItsOwnShareIsDone) {
  const std::vector<int32_t> ranks = {4, 6};
  turns_.Start(ranks, {}, [] {});
  EXPECT_THAT(Woken(), IsEmpty());
  turns_.WakeNext();
  EXPECT_THAT(Woken(), ElementsAre(4));
}

TEST_F(TurnsTest, WithoutTurnsNobodyIsWoken) {
  turns_.WakeNext();
  EXPECT_THAT(Woken(), IsEmpty());
}

TEST_F(TurnsTest, WhatACorruptOwnerWroteWakesNobody) {
  head_.num_turns = kNumRanks + 1;
  turns_.WakeNext();
  EXPECT_THAT(Woken(), IsEmpty());
  head_.num_turns = 2;
  order_ = {-1, kNumRanks};
  turns_.WakeNext();
  turns_.WakeNext();
  EXPECT_THAT(Woken(), IsEmpty());
}

TEST_F(TurnsTest, ARankWithASeatIsPutOnTheCoreThatIsFreeForIt) {
  const std::vector<int> cores = AllowedCores();
  ASSERT_FALSE(cores.empty());
  std::atomic<bool> seated{false};
  std::atomic<bool> woken{false};
  std::vector<int> seen;
  std::thread rank([&] {
    TakeSeat(&seats_[3], cores);
    EXPECT_EQ(AllowedCores(), cores);
    seated = true;
    while (!woken) usleep(1000);
    seen = AllowedCores();
  });
  while (!seated) usleep(1000);
  const std::vector<int32_t> ranks = {3};
  turns_.Start(ranks, {cores.back()}, [] {});
  woken = true;
  rank.join();
  EXPECT_THAT(seen, ElementsAre(cores.back()));
  EXPECT_EQ(seats_[3].core_plus_one.load(), cores.back() + 1);
}

TEST_F(TurnsTest, ARankWithoutASeatIsNotMoved) {
  const std::vector<int> before = AllowedCores();
  const std::vector<int32_t> ranks = {0};
  turns_.Start(ranks, {before[0]}, [] {});
  EXPECT_THAT(Woken(), ElementsAre(0));
  EXPECT_EQ(AllowedCores(), before);
}

TEST_F(TurnsTest, ACoreThatDoesNotExistLeavesTheRankWhereItIs) {
  const std::vector<int> cores = AllowedCores();
  std::thread rank([&] {
    TakeSeat(&seats_[2], cores);
    const std::vector<int32_t> ranks = {2};
    turns_.Start(ranks, {1000}, [] {});
    EXPECT_EQ(AllowedCores(), cores);
  });
  rank.join();
  EXPECT_THAT(Woken(), ElementsAre(2));
}

}  // namespace
}  // namespace moe::exchange
