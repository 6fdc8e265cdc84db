// Tests controller/coordinator/group.h: epochs from their claim to their end, and whom a failed one
// is blamed on.
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "controller/coordinator/group.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/controller/coordinator/group_fixture.h"

namespace moe::coordinator {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

TEST_F(GroupTest, AHungWorkerIsKilledAndReplaced) {
  MakeActive(3);
  silent_[2] = true;
  EXPECT_THAT(Only<KillWorker>(Advance(absl::Seconds(9))), IsEmpty());
  const auto actions = Advance(absl::Seconds(2));
  ASSERT_THAT(Only<KillWorker>(actions), SizeIs(1));
  EXPECT_EQ(Only<KillWorker>(actions)[0].worker_id, ids_[2]);
  EXPECT_EQ(group_->phase(), v1::GroupState::RECOVERING);
  Exit(2);
  silent_.clear();
  Hello(2);
  Loaded(2);
  Form();
}

TEST_F(GroupTest, AProcessThatNeverSaysHelloIsReplaced) {
  Make(2);
  Step(Tick{});
  Hello(0);
  Loaded(0);
  EXPECT_THAT(Only<KillWorker>(Advance(absl::Seconds(59))), IsEmpty());
  const auto kills = Only<KillWorker>(Advance(absl::Seconds(2)));
  ASSERT_THAT(kills, SizeIs(1));
  EXPECT_THAT(kills[0].reason, HasSubstr("did not connect"));
}

TEST_F(GroupTest, LoadingMayTakeLongButNotWithoutProgress) {
  Make(1);
  Step(Tick{});
  Hello(0);
  for (int minute = 0; minute < 60; ++minute) {
    v1::WorkerMessage message;
    message.mutable_load_progress()->set_bytes_done(static_cast<uint64_t>(minute));
    message.mutable_load_progress()->set_bytes_total(100);
    Step(SessionMessage{sessions_[0], message});
    EXPECT_THAT(Only<KillWorker>(Advance(absl::Minutes(1))), IsEmpty());
  }
  EXPECT_EQ(group_->State().load_bytes_done(), 59u);
  EXPECT_THAT(Only<KillWorker>(Advance(absl::Minutes(10))), SizeIs(1));
}

TEST_F(GroupTest, ALiveSuspectIsKilledTheSecondTimeWithinAMinute) {
  MakeActive(3);
  EXPECT_THAT(Only<KillWorker>(EpochFailed(0, 1, 2)), IsEmpty());
  EXPECT_THAT(claims_, ElementsAre(1, 2));
  Form();
  const auto actions = EpochFailed(1, 2, 2);
  ASSERT_THAT(Only<KillWorker>(actions), SizeIs(1));
  EXPECT_EQ(Only<KillWorker>(actions)[0].slot, 2);
}

TEST_F(GroupTest, ASuspectIsForgivenAfterAMinute) {
  MakeActive(3);
  EpochFailed(0, 1, 2);
  Form();
  Advance(absl::Seconds(61));
  EXPECT_THAT(Only<KillWorker>(EpochFailed(1, 2, 2)), IsEmpty());
}

TEST_F(GroupTest, ManyReportsOfOneFailureBlameOneRankOnce) {
  MakeActive(4);
  EXPECT_THAT(Only<KillWorker>(EpochFailed(0, 1, 3)), IsEmpty());
  EXPECT_THAT(Only<KillWorker>(EpochFailed(1, 1, 3)), IsEmpty());
  EXPECT_THAT(Only<KillWorker>(EpochFailed(2, 1, 0)), IsEmpty());
  Form();
  // Rank 0 was named too late to count.
  EXPECT_THAT(Only<KillWorker>(EpochFailed(1, 2, 0)), IsEmpty());
}

TEST_F(GroupTest, ASilentSuspectIsKilledAtOnceAlsoByALateReport) {
  MakeActive(3);
  silent_[2] = true;
  Advance(absl::Seconds(5));
  EXPECT_THAT(Only<KillWorker>(EpochFailed(1, 1, 0)), IsEmpty());
  const auto kills = Only<KillWorker>(EpochFailed(0, 1, 2));
  ASSERT_THAT(kills, SizeIs(1));
  EXPECT_EQ(kills[0].slot, 2);
}

TEST_F(GroupTest, ReportsOfOldEpochsAndImpossibleSuspectsDoNothing) {
  MakeActive(2);
  EXPECT_THAT(Sent(EpochFailed(0, 0, 1)), IsEmpty());
  EXPECT_THAT(Sent(EpochFailed(0, 7, 1)), IsEmpty());
  EXPECT_EQ(group_->phase(), v1::GroupState::ACTIVE);
  EXPECT_THAT(Only<KillWorker>(EpochFailed(0, 1, 99)), IsEmpty());
  EXPECT_EQ(claims_.back(), 2u);
}

TEST_F(GroupTest, AMissingAnswerEndsTheStage) {
  Make(3);
  LoadAll();
  Prepared(0, 1, "secret");
  Prepared(2, 1);
  EXPECT_THAT(Sent(Advance(absl::Seconds(10))), IsEmpty());
  const auto actions = Advance(absl::Milliseconds(200));
  EXPECT_THAT(Sent(actions), ElementsAre("0:abort 1", "1:abort 1", "2:abort 1", "0:prepare 2",
                                         "1:prepare 2", "2:prepare 2"));
  Prepared(0, 2, "secret");
  Prepared(1, 2);
  Prepared(2, 2);
  Joined(0, 2);
  // The same worker again: it is stuck.
  Joined(2, 2);
  const auto kills = Only<KillWorker>(Advance(absl::Seconds(11)));
  ASSERT_THAT(kills, SizeIs(1));
  EXPECT_EQ(kills[0].slot, 1);
}

TEST_F(GroupTest, AMajorityThatCannotJoinIsNotKilled) {
  Make(4);
  LoadAll();
  for (int round = 0; round < 3; ++round) {
    const uint64_t epoch = claims_.back();
    for (int slot = 0; slot < 4; ++slot) Prepared(slot, epoch, "secret");
    Joined(0, epoch);
    EXPECT_THAT(Only<KillWorker>(Advance(absl::Seconds(15))), IsEmpty());
  }
}

TEST_F(GroupTest, EpochsThatNeverFormEndTheGroupWithTheReason) {
  Make(2);
  LoadAll();
  std::vector<GiveUp> give_up;
  int num_rounds = 0;
  while (give_up.empty()) {
    ASSERT_LT(++num_rounds, 20);
    give_up = Only<GiveUp>(EpochFailed(0, claims_.back(), -1));
    Advance(absl::Seconds(6));
  }
  EXPECT_EQ(num_rounds, 10);
  EXPECT_THAT(give_up[0].reason, HasSubstr("no rows came"));
}

TEST_F(GroupTest, RepeatedEpochFailuresBackOff) {
  MakeActive(2);
  EpochFailed(0, 1, -1);
  ASSERT_EQ(claims_.back(), 2u) << "the first new epoch starts at once";
  Form();
  EpochFailed(0, 2, -1);
  EXPECT_EQ(claims_.back(), 2u);
  Advance(absl::Milliseconds(300));
  EXPECT_EQ(claims_.back(), 3u);
  Form();
  Advance(absl::Seconds(11));
  EpochFailed(0, 3, -1);
  EXPECT_EQ(claims_.back(), 4u) << "an epoch that was stable ends the series";
}

TEST_F(GroupTest, NothingIsPreparedBeforeTheClaimIsDurable) {
  Make(1);
  claim_status_ = absl::UnavailableError("disk full");
  LoadAll();
  EXPECT_THAT(claims_, ElementsAre(1));
  EXPECT_EQ(group_->State().epoch(), 0u);
  EXPECT_THAT(Sent(Advance(absl::Milliseconds(100))), IsEmpty());
  EXPECT_THAT(claims_, ElementsAre(1, 2)) << "a number whose claim failed is not used again";
  claim_status_ = absl::OkStatus();
  EXPECT_THAT(Sent(Advance(absl::Seconds(1))), ElementsAre("0:prepare 3"));
}

TEST_F(GroupTest, AWorkerThatDiesDuringTheClaimIsNotPrepared) {
  Make(1);
  for (const Action& action : group_->Step(Tick{}, now_)) {
    ASSERT_TRUE(std::holds_alternative<StartWorker>(action));
  }
  ids_[0] = "a";
  group_->Step(WorkerStarted{0, "a"}, now_);
  sessions_[0] = 1;
  group_->Step(SessionMessage{1, HelloOf(0)}, now_);
  v1::WorkerMessage loaded;
  loaded.mutable_loaded();
  ASSERT_THAT(Only<ClaimEpoch>(group_->Step(SessionMessage{1, loaded}, now_)), SizeIs(1));
  group_->Step(WorkerExited{0, "a", "exited with status 1", ""}, now_);
  EXPECT_THAT(group_->Step(EpochClaimed{1, absl::OkStatus()}, now_), IsEmpty());
}

TEST_F(GroupTest, EpochsGoOnFromTheLastOneClaimed) {
  GroupOptions options;
  options.term = 7;
  options.last_epoch = 41;
  Make(1, options);
  LoadAll();
  EXPECT_THAT(claims_, ElementsAre(42));
  EXPECT_EQ(group_->State().term(), 7u);
}

TEST_F(GroupTest, AControllerThatTakesOverKeepsTheRunningEpoch) {
  TakeOver(3, /*last_epoch=*/5);
  EXPECT_THAT(Only<StartWorker>(Step(Tick{})), IsEmpty());
  for (int slot = 0; slot < 3; ++slot) {
    EXPECT_THAT(Sent(Hello(slot, 5)), ElementsAre(absl::StrCat(slot, ":assign ", slot)));
    EXPECT_THAT(Sent(Loaded(slot)), IsEmpty());
  }
  EXPECT_EQ(group_->phase(), v1::GroupState::ACTIVE);
  EXPECT_EQ(group_->State().epoch(), 5u);
  EXPECT_EQ(group_->State().leader_address(), "unix:engine-0");
  EXPECT_THAT(claims_, IsEmpty());
}

TEST_F(GroupTest, AControllerThatTakesOverAHalfRunningGroupFormsANewEpoch) {
  TakeOver(2, /*last_epoch=*/5);
  Hello(0, 5);
  Hello(1, 0);
  Loaded(0);
  EXPECT_THAT(Sent(Loaded(1)), ElementsAre("0:prepare 6", "1:prepare 6"));
}

TEST_F(GroupTest, AnEpochThatFailsDuringATakeoverIsNotKept) {
  TakeOver(2, /*last_epoch=*/5);
  Hello(0, 5);
  Loaded(0);
  EpochFailed(0, 5, -1);
  Hello(1, 5);
  EXPECT_THAT(Sent(Loaded(1)), ElementsAre("0:prepare 6", "1:prepare 6"));
}

}  // namespace
}  // namespace moe::coordinator
