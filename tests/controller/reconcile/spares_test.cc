// Spare pods: scheduled with their gang, without a rank until one is lost.
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "controller/reconcile/plan.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/controller/reconcile/scene.h"

namespace moe::reconcile {
namespace {

using Phase = ObservedGroup::Phase;
using testing::AllOf;
using testing::Contains;
using testing::Each;
using testing::ElementsAre;
using testing::Field;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::SizeIs;

Scene WithSpares(int spares, int gpus_per_pod = 1) {
  Scene scene(4);
  scene.spec().worker.spares = spares;
  scene.spec().worker.gpus_per_pod = gpus_per_pod;
  return scene;
}

Scene Serving(int spares, int gpus_per_pod = 1) {
  Scene scene = WithSpares(spares, gpus_per_pod);
  EXPECT_TRUE(scene.Settle());
  EXPECT_EQ(scene.num_active(), 1);
  return scene;
}

// The pod of the slot has ended, and the coordinator asks for another one.
void Lose(Scene* scene, int slot) {
  ObservedPod& pod = scene->pod(0, slot);
  pod.phase = ObservedPod::Phase::kFailed;
  pod.ready = false;
  pod.exit_code = 1;
  scene->running(0).phase = Phase::kRecovering;
  scene->running(0).epoch = 0;
  scene->running(0).wanted_slots = {slot};
}

TEST(SparesTest, TheyAreScheduledWithTheirGangAndGetNoRank) {
  Scene scene = WithSpares(2);
  scene.Step();  // claims
  EXPECT_THAT(scene.group(0).incarnations, SizeIs(6));
  EXPECT_THAT(All<CreatePod>(scene.Step()), SizeIs(6));
  ASSERT_TRUE(scene.Settle());
  EXPECT_THAT(scene.group(0).slot_of_rank, ElementsAre(0, 1, 2, 3));
  EXPECT_EQ(scene.group(0).ready_spares, 2);
  EXPECT_THAT(scene.group(0).ranks, SizeIs(4));
  EXPECT_EQ(scene.status().workers, "4/4") << "spares do not count as workers";
}

TEST(SparesTest, AGroupWithoutSparesSaysNothingOfThem) {
  Scene scene = Serving(0);
  EXPECT_EQ(scene.group(0).ready_spares, std::nullopt);
}

TEST(SparesTest, TheRanksOfALostPodGoToASpareBeforeAnyPodIsMade) {
  Scene scene = Serving(1);
  Lose(&scene, 2);
  const Plan plan = scene.Step();
  EXPECT_THAT(Describe(plan), ElementsAre("WriteStatus", "DeletePod demo-g0-s2-0"));
  EXPECT_THAT(scene.group(0).slot_of_rank, ElementsAre(0, 1, 4, 3));
  EXPECT_THAT(scene.group(0).incarnations, ElementsAre(0, 0, 1, 0, 0));
  EXPECT_EQ(scene.group(0).ready_spares, 0);
  EXPECT_THAT(All<Event>(plan),
              Contains(AllOf(Field(&Event::reason, "SpareTookOver"),
                             Field(&Event::message, HasSubstr("the spare pod of slot 4 takes the "
                                                              "place of slot 2 as rank 2")))));
  // The coordinator has seen the status, and the lost slot is filled as a spare one.
  scene.running(0).wanted_slots = {};
  EXPECT_THAT(Describe(scene.Step()), ElementsAre("CreatePod g0-s2-1"));
  scene.Schedule();
  ASSERT_TRUE(scene.Settle());
  EXPECT_EQ(scene.num_active(), 1);
  EXPECT_THAT(scene.group(0).slot_of_rank, ElementsAre(0, 1, 4, 3));
  EXPECT_EQ(scene.group(0).ready_spares, 1);
  EXPECT_EQ(scene.group(0).ranks[2].pod, "demo-g0-s4-0");
  EXPECT_THAT(scene.observed.pods, SizeIs(5));
}

TEST(SparesTest, AllRanksOfAPodGoToOneSpare) {
  Scene scene = Serving(1, /*gpus_per_pod=*/2);
  EXPECT_THAT(scene.group(0).slot_of_rank, ElementsAre(0, 0, 1, 1));
  Lose(&scene, 0);
  scene.Step();
  EXPECT_THAT(scene.group(0).slot_of_rank, ElementsAre(2, 2, 1, 1));
  scene.running(0).wanted_slots = {};
  ASSERT_TRUE(scene.Settle());
  EXPECT_EQ(scene.num_active(), 1);
}

TEST(SparesTest, WhoLosesMorePodsThanItHasSparesGetsNewPodsForTheRest) {
  Scene scene = Serving(1);
  Lose(&scene, 1);
  Lose(&scene, 3);
  scene.running(0).wanted_slots = {1, 3};
  scene.Step();
  EXPECT_THAT(scene.group(0).slot_of_rank, ElementsAre(0, 4, 2, 3));
  EXPECT_THAT(scene.group(0).incarnations, ElementsAre(0, 1, 0, 1, 0));
  scene.running(0).wanted_slots = {3};
  EXPECT_THAT(Describe(scene.Step()), ElementsAre("CreatePod g0-s3-1", "CreatePod g0-s1-1"));
}

TEST(SparesTest, ASpareThatDoesNotRunTakesNothingOver) {
  struct Case {
    const char* name;
    void (*change)(ObservedPod*);
  };
  const std::vector<Case> cases = {
      {"it has not started", [](ObservedPod* pod) { pod->phase = ObservedPod::Phase::kPending; }},
      {"it ended", [](ObservedPod* pod) { pod->phase = ObservedPod::Phase::kFailed; }},
      {"it is being deleted", [](ObservedPod* pod) { pod->terminating = true; }},
  };
  for (const Case& test_case : cases) {
    SCOPED_TRACE(test_case.name);
    Scene scene = Serving(1);
    test_case.change(&scene.pod(0, 4));
    Lose(&scene, 0);
    scene.Step();
    EXPECT_THAT(scene.group(0).slot_of_rank, ElementsAre(0, 1, 2, 3));
    EXPECT_EQ(scene.group(0).incarnations[0], 1) << "a new pod";
  }
}

TEST(SparesTest, ASpareOfAnotherNodeIsPreferred) {
  Scene scene = Serving(2);
  scene.pod(0, 4).node = scene.pod(0, 2).node;
  scene.pod(0, 5).node = "another";
  Lose(&scene, 2);
  scene.Step();
  EXPECT_THAT(scene.group(0).slot_of_rank, ElementsAre(0, 1, 5, 3));
  scene.pod(0, 4).node = scene.pod(0, 1).node;
  Lose(&scene, 1);
  scene.Step();
  EXPECT_THAT(scene.group(0).slot_of_rank, ElementsAre(0, 4, 5, 3)) << "rather than none";
}

TEST(SparesTest, APodThatHangsInTerminatingIsNoSpare) {
  Scene scene = Serving(1);
  Lose(&scene, 2);
  scene.pod(0, 2).phase = ObservedPod::Phase::kRunning;  // its node is lost
  scene.pod(0, 2).terminating = true;
  scene.Step();
  EXPECT_THAT(scene.group(0).slot_of_rank, ElementsAre(0, 1, 4, 3));
  Lose(&scene, 4);
  scene.Step();
  EXPECT_THAT(scene.group(0).slot_of_rank, ElementsAre(0, 1, 4, 3)) << "slot 2 has nobody yet";
}

TEST(SparesTest, ASpareThatEndsAgainAndAgainIsReplacedOnceAMinute) {
  Scene scene = Serving(1);
  ObservedPod& spare = scene.pod(0, 4);
  spare.created_at = scene.observed.now;
  spare.phase = ObservedPod::Phase::kFailed;
  scene.Step();  // says so
  EXPECT_EQ(scene.group(0).ready_spares, 0);
  const Plan waits = scene.Decide();
  EXPECT_THAT(Describe(waits), Each(Not(HasSubstr("DeletePod"))));
  EXPECT_LE(waits.requeue_after, absl::Minutes(1));
  scene.Advance(absl::Minutes(1));
  EXPECT_THAT(Describe(scene.Step()), Contains("DeletePod demo-g0-s4-0"));
  ASSERT_TRUE(scene.Settle());
  EXPECT_EQ(scene.group(0).ready_spares, 1);
  EXPECT_EQ(scene.pod(0, 4).incarnation, 1);
  EXPECT_EQ(scene.num_active(), 1);
}

TEST(SparesTest, ASpareWithoutANodeGivesUpNoGroup) {
  Scene scene = Serving(1);
  scene.Erase("demo-g0-s4-0");
  scene.Step();  // claims
  scene.Step();  // creates
  scene.pod(0, 4).unschedulable = "0/1 nodes are available";
  scene.running(0).phase = Phase::kRecovering;
  scene.Advance(scene.spec().worker.gang_timeout + absl::Minutes(1));
  scene.Step();
  EXPECT_THAT(scene.group(0).slot_of_rank, Not(IsEmpty()));
  EXPECT_EQ(scene.group(0).gang_attempts, 0);
}

TEST(SparesTest, AnotherNumberOfSparesRollsTheGroups) {
  Scene scene = Serving(0);
  scene.spec().worker.spares = 1;
  scene.Edit();
  ASSERT_TRUE(scene.Settle());
  EXPECT_THAT(scene.groups(), ElementsAre(1));
  EXPECT_THAT(scene.observed.pods, SizeIs(5));
}

}  // namespace
}  // namespace moe::reconcile
