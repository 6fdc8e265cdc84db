#include "simulator/membership.h"

#include <functional>
#include <vector>

#include "gtest/gtest.h"

namespace moe::simulator {
namespace {

using coordinator::v1::GroupState;

class MembershipTest : public ::testing::Test {
 protected:
  void Make(int num_slots) {
    MembershipOptions options;
    options.group.placement = *coordinator::PlaceInBlocks(num_slots, num_slots);
    options.group.num_attention_ranks = num_slots;
    options.group.num_layers = 1;
    options.group.retry_unknown_workers = true;
    options.attention_rank_bytes = 4e9;  // 2 s
    members_.emplace(std::move(options), &queue_);
  }

  // Until `holds`; gives up after ten simulated minutes.
  void RunUntil(const std::function<bool()>& holds) {
    const absl::Time limit = queue_.now() + absl::Minutes(10);
    while (!holds() && queue_.now() < limit) effects_.push_back(members_->Handle(queue_.Pop()));
    EXPECT_TRUE(holds());
  }
  void RunUntilActive(uint64_t above) {
    RunUntil([&] { return members_->active_epoch() > above && members_->complete(); });
  }
  double Seconds() const { return absl::ToDoubleSeconds(queue_.now() - absl::UnixEpoch()); }
  int Count(Membership::Effect effect) const {
    return static_cast<int>(std::count(effects_.begin(), effects_.end(), effect));
  }

  EventQueue queue_;
  std::optional<Membership> members_;
  std::vector<Membership::Effect> effects_;
};

// Start 5 s; Assign 1 ms and loading 2 s; claim 2 ms, Prepare 2 ms, Join 2 ms and connecting 1 s,
// Activate 1 ms.
constexpr double kFromStart = 5 + 2.001 + 0.002 + 0.002 + 1.002 + 0.001;

TEST_F(MembershipTest, AGroupComesUpInTheTimeOfItsParts) {
  Make(4);
  RunUntilActive(0);
  EXPECT_NEAR(Seconds(), kFromStart, 1e-6);
  EXPECT_EQ(members_->active_epoch(), 1);
  EXPECT_EQ(members_->changed_slots().size(), 4);
  EXPECT_EQ(Count(Membership::Effect::kLeaderLoaded), 1);
  EXPECT_TRUE(members_->leader_speaks());
}

TEST_F(MembershipTest, ARankWhoseProcessEndsIsReplaced) {
  Make(4);
  RunUntilActive(0);
  const double failed_at = Seconds();
  ASSERT_TRUE(members_->Fail(2, /*silently=*/false));
  EXPECT_FALSE(members_->complete());
  RunUntil([&] { return members_->group().phase() == GroupState::RECOVERING; });
  EXPECT_NEAR(Seconds() - failed_at, 0.05, 1e-6);  // its connections broke
  RunUntilActive(1);
  EXPECT_NEAR(Seconds() - failed_at, 1 + kFromStart, 1e-6);  // a second until its end is reported
  EXPECT_EQ(members_->changed_slots(), std::vector<int>{2});
  EXPECT_EQ(Count(Membership::Effect::kLeaderEnded), 0);
}

TEST_F(MembershipTest, ALeaderThatEndsIsReplacedByANewOne) {
  Make(4);
  RunUntilActive(0);
  ASSERT_TRUE(members_->Fail(0, /*silently=*/false));
  EXPECT_FALSE(members_->leader_speaks());
  RunUntilActive(1);
  EXPECT_EQ(Count(Membership::Effect::kLeaderEnded), 1);
  EXPECT_EQ(Count(Membership::Effect::kLeaderLoaded), 2);
}

TEST_F(MembershipTest, ASilentRankIsKilledForItsMissingHeartbeats) {
  Make(4);
  RunUntilActive(0);
  const double failed_at = Seconds();
  ASSERT_TRUE(members_->Fail(2, /*silently=*/true));
  RunUntil([&] { return members_->group().phase() == GroupState::RECOVERING; });
  // 10 s after its last heartbeat, which was up to a second before.
  EXPECT_GE(Seconds() - failed_at, 9);
  EXPECT_LE(Seconds() - failed_at, 10.2);
  RunUntilActive(1);
  EXPECT_LE(Seconds() - failed_at, 10.2 + 1 + kFromStart);
}

TEST_F(MembershipTest, AStepThatWaitsForASilentRankEndsAtItsDeadline) {
  Make(4);
  RunUntilActive(0);
  const double failed_at = Seconds();
  ASSERT_TRUE(members_->Fail(2, /*silently=*/true));
  members_->AwaitSilentRank();
  members_->AwaitSilentRank();  // once is enough
  RunUntil([&] { return members_->group().phase() == GroupState::RECOVERING; });
  EXPECT_LE(Seconds() - failed_at, 10 + 1e-6);
  RunUntilActive(1);
}

TEST_F(MembershipTest, ADeadlineOfAnEarlierEpochDoesNotHoldUpTheNextOne) {
  Make(4);
  RunUntilActive(0);
  ASSERT_TRUE(members_->Fail(2, /*silently=*/false));
  members_->AwaitSilentRank();
  RunUntilActive(1);
  const double failed_at = Seconds();
  ASSERT_TRUE(members_->Fail(3, /*silently=*/true));
  members_->AwaitSilentRank();
  bool reported = false;
  while (!reported && Seconds() < failed_at + 15) {
    const Event event = queue_.Pop();
    members_->Handle(event);
    reported = event.kind == EventKind::kStepDeadline && event.number == 2;
  }
  EXPECT_NEAR(Seconds() - failed_at, 10, 1e-6);
}

TEST_F(MembershipTest, SeveralRanksAtOnceTakeNoLongerThanOne) {
  Make(8);
  RunUntilActive(0);
  const double failed_at = Seconds();
  for (const int slot : {0, 1, 2, 3}) ASSERT_TRUE(members_->Fail(slot, /*silently=*/false));
  RunUntilActive(1);
  EXPECT_NEAR(Seconds() - failed_at, 1 + kFromStart, 1e-6);
  EXPECT_EQ(members_->changed_slots(), (std::vector<int>{0, 1, 2, 3}));
}

TEST_F(MembershipTest, AProcessThatEndsWhileItLoadsIsReplaced) {
  Make(4);
  RunUntil([&] { return Seconds() > 6; });
  ASSERT_TRUE(members_->Fail(1, /*silently=*/false));
  EXPECT_FALSE(members_->Fail(1, /*silently=*/false));  // there is none
  RunUntilActive(0);
  EXPECT_GT(Seconds(), 6 + 1 + kFromStart - 0.1);
}

TEST_F(MembershipTest, ARankThatFailsAgainAndAgainEndsTheGroup) {
  Make(2);
  for (uint64_t i = 0; i < 5; ++i) {
    RunUntilActive(i);
    ASSERT_TRUE(members_->Fail(1, /*silently=*/false));
  }
  RunUntil([&] { return !members_->failure().empty(); });
  EXPECT_EQ(members_->group().phase(), GroupState::FAILED);
}

TEST_F(MembershipTest, AGroupOfOneRankHasNoPeersToNotice) {
  Make(1);
  RunUntilActive(0);
  const double failed_at = Seconds();
  ASSERT_TRUE(members_->Fail(0, /*silently=*/false));
  RunUntilActive(1);
  EXPECT_NEAR(Seconds() - failed_at, 1 + kFromStart, 1e-6);
}

}  // namespace
}  // namespace moe::simulator
