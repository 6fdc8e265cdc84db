// What a leader does when sequences are preempted, steps are lost or answered wrongly, and threads
// meet.

#include <atomic>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker/engine/fake_owners.h"
#include "tests/worker/engine/leader_fixture.h"
#include "worker/engine/leader.h"

namespace moe::engine {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

class LeaderRecoveryTest : public LeaderFixture {};

TEST_F(LeaderRecoveryTest, ReleasesWhatEndedWithTheOwnersNextSlices) {
  MustSubmit(1, Request(5, 3, 1));
  const v1::StepPlan first = Step(200);
  EXPECT_EQ(leader().stats().kv_usage(), 0);
  MustSubmit(1, Request(6, 3, 5));
  EXPECT_THAT(Step(200).released(), ElementsAre(first.slices(0).sequence_id()));
  EXPECT_THAT(Step(200).released(), IsEmpty());
}

TEST_F(LeaderRecoveryTest, ReleasesAreRepeatedUntilAPlanWithThemCommits) {
  MustSubmit(1, Request(5, 3, 1));
  const uint64_t ended = Step(200).slices(0).sequence_id();
  MustSubmit(1, Request(6, 3, 5));
  EXPECT_THAT(MustPlan().released(), ElementsAre(ended));
  leader().OnEpochChanged(4, {});
  EXPECT_THAT(Step(200).released(), ElementsAre(ended));
  EXPECT_THAT(Step(200).released(), IsEmpty());
}

TEST_F(LeaderRecoveryTest, APreemptedSequenceComesBackWholeUnderANewId) {
  options_.limits.kv_blocks_per_owner = 4;
  MustSubmit(1, Request(5, 7, 9));
  MustSubmit(1, Request(6, 7, 9));
  const v1::StepPlan first = Step(200);
  ASSERT_EQ(first.slices_size(), 2);
  const uint64_t preempted = first.slices(1).sequence_id();
  Step(201);  // both fill two blocks
  const v1::StepPlan third = Step(202);
  ASSERT_EQ(third.slices_size(), 1);
  EXPECT_THAT(third.released(), ElementsAre(preempted));
  EXPECT_EQ(leader().stats().num_preemptions(), 1u);
  EXPECT_EQ(leader().stats().num_running(), 1u);
  EXPECT_EQ(leader().stats().num_waiting(), 1u);
  // The first ends; the second is computed again with its two tokens.
  v1::StepPlan plan;
  do plan = Step(203);
  while (plan.new_sequences().empty());
  EXPECT_NE(plan.slices(0).sequence_id(), preempted);
  EXPECT_EQ(plan.slices(0).count(), 9u);
  EXPECT_THAT(plan.new_sequences(0).generated_tokens(), ElementsAre(200, 201));
  EXPECT_EQ(LastEvent().request(), 6u);
  EXPECT_EQ(LastEvent().position(), 2u);
}

TEST_F(LeaderRecoveryTest, AStepThatDidNotCommitIsPlannedAgainWithTheSameContent) {
  MustSubmit(1, Request(5, 3, 10));
  const v1::StepPlan lost_first = MustPlan();
  leader().OnEpochChanged(4, {});
  const v1::StepPlan first = Step(200);
  EXPECT_EQ(first.epoch(), 4u);
  EXPECT_EQ(first.step(), 1u);
  ASSERT_EQ(first.new_sequences_size(), 1);
  EXPECT_EQ(first.slices(0).SerializeAsString(), lost_first.slices(0).SerializeAsString());

  const v1::StepPlan lost_second = MustPlan();
  leader().OnEpochChanged(5, {});
  const v1::StepPlan second = Step(201);
  EXPECT_EQ(second.epoch(), 5u);
  EXPECT_EQ(second.step(), 1u);
  EXPECT_EQ(second.new_sequences_size(), 0);
  EXPECT_EQ(second.slices(0).SerializeAsString(), lost_second.slices(0).SerializeAsString());
  EXPECT_EQ(second.slices(0).token(), 200);
}

TEST_F(LeaderRecoveryTest, OnlySequencesOfALostOwnerAreComputedAgain) {
  options_.limits.num_owners = 2;
  MustSubmit(1, Request(5, 3, 10));
  MustSubmit(1, Request(6, 3, 10));
  const v1::StepPlan first = Step(200);
  ASSERT_EQ(first.slices(1).owner(), 1u);
  leader().OnEpochChanged(4, {1});
  const v1::StepPlan plan = Step(201);
  ASSERT_EQ(plan.slices_size(), 2);
  EXPECT_EQ(plan.slices(0).start(), 3u);
  ASSERT_EQ(plan.new_sequences_size(), 1);
  EXPECT_THAT(plan.new_sequences(0).generated_tokens(), ElementsAre(200));
  EXPECT_EQ(plan.slices(1).start(), 0u);
  EXPECT_EQ(plan.slices(1).count(), 4u);
  EXPECT_NE(plan.slices(1).sequence_id(), first.slices(1).sequence_id());
  // The lost owner has nothing to release.
  EXPECT_THAT(plan.released(), IsEmpty());
  for (const v1::TokenEvent& event : received_.back().events.events()) {
    EXPECT_EQ(event.position(), 1u);
  }
}

TEST_F(LeaderRecoveryTest, IdsOfTwoLeadersDiffer) {
  MustSubmit(1, Request(5, 3, 10));
  const uint64_t first = MustPlan().slices(0).sequence_id();
  leader_ = *Leader::Create(options_, 4, this);
  MustSubmit(1, Request(5, 3, 10));
  EXPECT_NE(MustPlan().slices(0).sequence_id(), first);
}

TEST_F(LeaderRecoveryTest, ResultsThatCannotBeChangeNothing) {
  MustSubmit(1, Request(5, 3, 10));
  const v1::StepPlan plan = MustPlan();
  const std::vector<v1::StepResult> good = Draw(plan, 200);
  const auto refuses = [&](auto change) {
    std::vector<v1::StepResult> results = good;
    change(results);
    EXPECT_EQ(leader().Commit(plan, results, now_).code(), absl::StatusCode::kInternal);
    EXPECT_TRUE(received_.empty());
  };
  refuses([](auto& results) { results.clear(); });
  refuses([](auto& results) { results[0].set_epoch(2); });
  refuses([](auto& results) { results[0].set_step(2); });
  refuses([](auto& results) { results[0].mutable_results(0)->set_token(-1); });
  refuses([](auto& results) { results[0].mutable_results(0)->set_token(kVocab); });
  refuses([](auto& results) { results[0].mutable_results(0)->set_sampled(false); });
  refuses([](auto& results) { results[0].mutable_results(0)->set_sequence_id(1); });
  refuses([](auto& results) { *results[0].add_results() = results[0].results(0); });
  refuses([](auto& results) { results.push_back(results[0]); });
  v1::StepPlan other = plan;
  other.set_step(9);
  EXPECT_FALSE(leader().Commit(other, good, now_).ok());
  EXPECT_TRUE(leader().Commit(plan, good, now_).ok());
  EXPECT_FALSE(leader().Commit(plan, good, now_).ok());
}

TEST_F(LeaderRecoveryTest, WaitEndsWithWorkOrAWake) {
  EXPECT_FALSE(leader().WaitForWork(absl::ZeroDuration()));
  leader().Wake();
  EXPECT_FALSE(leader().WaitForWork(absl::InfiniteDuration()));
  std::thread submitter([this] { MustSubmit(1, Request(5, 3, 10)); });
  EXPECT_TRUE(leader().WaitForWork(absl::InfiniteDuration()));
  submitter.join();
  const uint64_t num_calls = leader().num_engine_calls();
  leader().WaitForWork(absl::ZeroDuration());
  EXPECT_GT(leader().num_engine_calls(), num_calls);
}

// Under the thread sanitizer this checks the locks.
TEST_F(LeaderRecoveryTest, ClientsAndTheEngineThreadRunAtOnce) {
  options_.max_queue = 1000;
  leader();
  std::vector<std::thread> clients;
  for (uint64_t client = 1; client <= 3; ++client) {
    clients.emplace_back([this, client] {
      for (uint64_t request = 0; request < 100; ++request) {
        MustSubmit(client, Request(request, 3, 4));
        if (request % 3 == 0) leader().Cancel(client, request);
        if (request % 50 == 49) leader().ClientGone(client);
        (void)leader().stats();
      }
      leader().ClientGone(client);
    });
  }
  std::atomic<bool> submitted = false;
  std::thread closer([&] {
    for (std::thread& client : clients) client.join();
    submitted = true;
    leader().Wake();
  });
  FakeOwners owners(options_.limits, kVocab);
  while (!submitted || leader().HasWork()) {
    leader().WaitForWork(absl::InfiniteDuration());
    const auto plan = leader().NextPlan(now_);
    if (!plan.has_value()) continue;
    const auto results = owners.Run(*plan);
    ASSERT_TRUE(results.ok()) << results.status();
    ASSERT_TRUE(leader().Commit(*plan, *results, now_).ok());
  }
  closer.join();
  EXPECT_FALSE(leader().HasWork());
}

}  // namespace
}  // namespace moe::engine
