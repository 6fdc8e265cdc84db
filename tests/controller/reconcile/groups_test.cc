// Which groups there are: scaling, rollouts, removal, failure, pause, deletion, and who may decide.
#include <algorithm>
#include <string>
#include <vector>

#include "controller/reconcile/drain.h"
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
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::SizeIs;

Scene Serving(int replicas = 1, int max_unavailable = 0, int max_surge = 1) {
  Scene scene(2, replicas);
  scene.spec().update_strategy.max_unavailable = {max_unavailable, false};
  scene.spec().update_strategy.max_surge = {max_surge, false};
  EXPECT_TRUE(scene.Settle());
  EXPECT_EQ(scene.num_active(), replicas);
  return scene;
}

TEST(TermTest, NothingIsDoneBeforeTheTermIsClaimed) {
  Scene scene = Serving();
  scene.observed.term = 0;
  scene.observed.groups.clear();
  scene.pod(0, 1).phase = ObservedPod::Phase::kFailed;
  const Plan plan = scene.Decide();
  EXPECT_THAT(Describe(plan), ElementsAre("WriteStatus"));
  EXPECT_EQ(All<WriteStatus>(plan)[0].status.term, 2u);
}

TEST(TermTest, AControllerWhoseTermIsNotTheOneOfTheStatusDoesNothing) {
  for (const uint64_t term : {1, 3}) {
    Scene scene = Serving();
    scene.status().term = 2;
    scene.observed.term = term;
    scene.pod(0, 1).phase = ObservedPod::Phase::kFailed;
    EXPECT_THAT(scene.Decide().actions, IsEmpty());
  }
}

TEST(TermTest, ANewControllerAdoptsGroupsAndKeepsWhatWasSaidOfThem) {
  Scene scene = Serving();
  scene.status().term = 2;
  scene.observed.term = 2;
  scene.observed.groups.clear();
  const Plan plan = scene.Step();
  EXPECT_THAT(Describe(plan), ElementsAre("StartGroup 0"));
  EXPECT_EQ(All<StartGroup>(plan)[0].last_epoch, 1u);
  EXPECT_EQ(All<StartGroup>(plan)[0].incarnations, scene.group(0).incarnations);
  // Its coordinator waits for the workers to say Hello.
  EXPECT_THAT(scene.Decide().actions, IsEmpty());
  EXPECT_EQ(scene.condition("Ready").status, "True");
}

TEST(ScaleTest, GroupsAreAddedAtTheLowestFreeIndexAndRemovedFromTheHighest) {
  Scene scene = Serving(3);
  EXPECT_THAT(scene.groups(), ElementsAre(0, 1, 2));
  scene.spec().replicas = 1;
  scene.Edit();
  scene.Step();
  EXPECT_EQ(scene.group(0).phase, "Active");
  EXPECT_EQ(scene.group(1).phase, "Draining");
  EXPECT_EQ(scene.group(2).phase, "Draining");
  ASSERT_TRUE(scene.Settle());
  EXPECT_THAT(scene.groups(), ElementsAre(0));
  scene.spec().replicas = 2;
  scene.Edit();
  ASSERT_TRUE(scene.Settle());
  EXPECT_THAT(scene.groups(), ElementsAre(0, 1));
}

TEST(ScaleTest, OfTooManyGroupsThoseThatDoNotServeGoFirst) {
  Scene scene = Serving(2);
  scene.running(0).phase = Phase::kLoading;
  scene.spec().replicas = 1;
  scene.Edit();
  scene.Step();
  EXPECT_EQ(scene.group(0).phase, "Draining");
  EXPECT_EQ(scene.group(1).phase, "Active");
}

TEST(ScaleTest, ToZeroAndBack) {
  Scene scene = Serving(1);
  scene.spec().replicas = 0;
  scene.Edit();
  ASSERT_TRUE(scene.Settle());
  EXPECT_THAT(scene.observed.pods, IsEmpty());
  EXPECT_EQ(scene.condition("Ready").reason, "ScaledToZero");
  scene.spec().replicas = 1;
  scene.Edit();
  ASSERT_TRUE(scene.Settle());
  EXPECT_EQ(scene.num_active(), 1);
}

TEST(ScaleTest, AGroupAtAnIndexThatWasInUseRepeatsNeitherPodsNorEpochs) {
  Scene scene = Serving(1);
  scene.status().groups[0].epoch = 41;
  scene.spec().replicas = 0;
  scene.Edit();
  ASSERT_TRUE(scene.Settle());
  scene.spec().replicas = 1;
  scene.Edit();
  scene.Step();
  EXPECT_THAT(scene.group(0).incarnations, ElementsAre(1, 1));
  EXPECT_EQ(scene.group(0).epoch, 41u);
}

TEST(DrainTest, AGroupIsStoppedWhenGatewaysKnowAndNothingIsLeftToCompute) {
  Scene scene = Serving(2);
  scene.running(1).num_running = 3;
  scene.spec().replicas = 1;
  scene.Edit();
  scene.Step();
  EXPECT_THAT(Describe(scene.Step()), ElementsAre("DrainGroup 1"));
  EXPECT_THAT(Describe(scene.Step()), IsEmpty()) << "it computes";
  scene.running(1).num_running = 0;
  EXPECT_THAT(Describe(scene.Decide()), IsEmpty()) << "a gateway may not know yet";
  scene.Advance(kMinDrain);
  EXPECT_THAT(Describe(scene.Step()),
              ElementsAre("StopGroup 1", "DeletePod demo-g1-s0-0", "DeletePod demo-g1-s1-0"));
  scene.Step();
  EXPECT_THAT(scene.groups(), ElementsAre(0));
}

TEST(DrainTest, NobodyWaitsForeverForSequences) {
  Scene scene = Serving(2);
  scene.running(1).num_waiting = 1;
  scene.spec().replicas = 1;
  scene.Edit();
  scene.Step();
  scene.Step();
  scene.Advance(kDrainDeadline - absl::Seconds(1));
  EXPECT_EQ(scene.Step().requeue_after, absl::Seconds(1));
  scene.Advance(absl::Seconds(1));
  EXPECT_THAT(Describe(scene.Step()), Contains("StopGroup 1"));
}

TEST(DrainTest, AControllerThatTakesOverLetsTheGroupFinish) {
  Scene scene = Serving(2);
  scene.spec().replicas = 1;
  scene.Edit();
  scene.Step();
  scene.Step();
  ASSERT_TRUE(scene.group(1).active);
  scene.observed.groups.clear();
  EXPECT_THAT(Describe(scene.Step()), ElementsAre("StartGroup 0", "StartGroup 1", "DrainGroup 1"));
  EXPECT_TRUE(scene.running(1).draining);
  // Long enough for an idle group, and its workers have not said yet what they compute.
  scene.Advance(kMinDrain);
  for (const Phase phase : {Phase::kStarting, Phase::kLoading, Phase::kConnecting}) {
    scene.running(1).phase = phase;
    EXPECT_THAT(Describe(scene.Step()), IsEmpty());
    EXPECT_TRUE(scene.group(1).active);
  }
  scene.running(1).phase = Phase::kActive;
  scene.running(1).num_running = 3;
  EXPECT_THAT(Describe(scene.Step()), IsEmpty()) << "it computes";
  scene.running(1).num_running = 0;
  EXPECT_THAT(Describe(scene.Step()), Contains("StopGroup 1"));
}

TEST(DrainTest, AControllerThatTakesOverDoesNotWaitForWhatCantReturn) {
  struct Case {
    const char* name;
    void (*change)(Scene*);
    bool starts;
  };
  const std::vector<Case> cases = {
      {"a pod has ended",
       [](Scene* scene) { scene->pod(1, 0).phase = ObservedPod::Phase::kFailed; }, false},
      {"a pod is gone", [](Scene* scene) { scene->Erase("demo-g1-s1-0"); }, false},
      {"it did not serve", [](Scene* scene) { scene->group(1).active = false; }, false},
      {"its time is up", [](Scene* scene) { scene->Advance(kDrainDeadline); }, false},
      {"all is well", [](Scene*) {}, true},
  };
  for (const Case& test_case : cases) {
    SCOPED_TRACE(test_case.name);
    Scene scene = Serving(2);
    scene.spec().replicas = 1;
    scene.Edit();
    scene.Step();
    scene.Step();
    scene.observed.groups.clear();
    test_case.change(&scene);
    const Plan plan = scene.Step();
    EXPECT_EQ(All<DrainGroup>(plan).size(), test_case.starts ? 1u : 0u);
    EXPECT_EQ(All<DeletePod>(plan).empty(), test_case.starts);
    if (!test_case.starts) continue;
    // One of its workers does not come: the coordinator asks for another pod.
    scene.running(1).wanted_slots = {0};
    EXPECT_THAT(Describe(scene.Step()), Contains("StopGroup 1"));
  }
}

TEST(DrainTest, ADrainedGroupGoesThoughItsPodsAreStuckInTerminating) {
  Scene scene = Serving(2);
  scene.spec().replicas = 1;
  scene.Edit();
  scene.Step();
  scene.Step();
  scene.Advance(kMinDrain);
  for (ObservedPod& pod : scene.observed.pods) {
    pod.terminating = pod.group == 1;
  }
  scene.Step();
  scene.Step();
  EXPECT_THAT(scene.groups(), ElementsAre(0));
  EXPECT_THAT(scene.observed.pods, SizeIs(4));
}

TEST(RolloutTest, NeverServesLessOrHoldsMoreThanPromised) {
  struct Case {
    const char* name;
    int replicas, max_unavailable, max_surge;
    int least_active, most_groups;
  };
  const std::vector<Case> cases = {
      {"one group, surge 1", 1, 0, 1, 1, 2},
      {"one group without room to surge", 1, 1, 0, 0, 1},
      {"three groups, surge 1", 3, 0, 1, 3, 4},
      {"three groups, surge 2, one may be missing", 3, 1, 2, 2, 5},
      {"two groups, one may be missing", 2, 1, 0, 1, 2},
      {"neither is allowed, so one may be missing", 2, 0, 0, 1, 2},
  };
  for (const Case& test_case : cases) {
    SCOPED_TRACE(test_case.name);
    Scene scene = Serving(test_case.replicas, test_case.max_unavailable, test_case.max_surge);
    const std::string before = scene.status().revision;
    scene.spec().engine.max_sequences = 7;
    scene.Edit();
    int least_active = test_case.replicas;
    size_t most_groups = 0;
    for (int i = 0; i < 100; ++i) {
      if (scene.Turn().actions.empty()) {
        break;
      }
      least_active = std::min(least_active, scene.num_active());
      most_groups = std::max(most_groups, scene.groups().size());
    }
    EXPECT_EQ(least_active, test_case.least_active);
    EXPECT_EQ(most_groups, static_cast<size_t>(test_case.most_groups));
    EXPECT_EQ(scene.num_active(), test_case.replicas);
    EXPECT_THAT(scene.groups(), SizeIs(test_case.replicas));
    for (const int index : scene.groups()) {
      EXPECT_NE(scene.group(index).revision, before);
    }
    EXPECT_EQ(scene.condition("Ready").status, "True");
    EXPECT_THAT(scene.status().revisions, SizeIs(1));
  }
}

TEST(RolloutTest, TheLastGroupOfAModelServesUntilTheGatewaysHaveRolled) {
  const struct {
    const char* sentence;
    const char* digest;      // of the model of the group of the earlier revision
    const char* new_digest;  // of the group that replaces it
    bool current, rolled;    // the gateways' Deployment, and its pods
    bool drains;
  } kCases[] = {
      {"another model, all gateways are new", "old", "new", true, true, true},
      {"another model, some gateways are old", "old", "new", true, false, false},
      {"another model, the gateways' change is not applied yet", "old", "new", false, true, false},
      {"the same model needs no other gateways", "same", "same", true, false, true},
      {"nobody has said which model it is", "", "new", true, false, true},
      {"the new one has not said which model it is", "old", "", true, false, true},
  };
  for (const auto& c : kCases) {
    SCOPED_TRACE(c.sentence);
    Scene scene = Serving(1);
    scene.spec().engine.max_sequences = 7;
    scene.Edit();
    for (int i = 0; i < 20 && scene.num_active() < 2; ++i) {
      scene.Turn();
    }
    ASSERT_EQ(scene.num_active(), 2);
    scene.running(0).model_digest = c.digest;
    scene.running(1).model_digest = c.new_digest;
    scene.observed.children_current = c.current;
    scene.observed.gateway.rolled = c.rolled;
    scene.Step();
    EXPECT_EQ(scene.group(0).phase == "Draining", c.drains);
    // Once the gateways have rolled it ends.
    scene.observed.gateway.rolled = true;
    ASSERT_TRUE(scene.Settle());
    EXPECT_THAT(scene.groups(), ElementsAre(1));
  }
}

TEST(RolloutTest, AllButTheLastGroupOfAModelMakeRoomWhateverTheGatewaysDo) {
  Scene scene = Serving(2, /*max_unavailable=*/1, /*max_surge=*/0);
  scene.running(0).model_digest = "old";
  scene.running(1).model_digest = "old";
  scene.spec().engine.max_sequences = 7;
  scene.Edit();
  scene.observed.gateway.rolled = false;
  scene.Step();
  EXPECT_EQ(scene.num_active(), 2);
  EXPECT_EQ((scene.group(0).phase == "Draining") + (scene.group(1).phase == "Draining"), 1);
}

TEST(RolloutTest, ASpecThatIsChangedAgainRemovesWhatWasNotActiveYetFirst) {
  Scene scene = Serving(1);
  scene.spec().engine.max_sequences = 7;
  scene.Edit();
  scene.Step();
  scene.Step();
  ASSERT_THAT(scene.groups(), ElementsAre(0, 1));
  scene.spec().engine.max_sequences = 8;
  scene.Edit();
  scene.Step();
  EXPECT_EQ(scene.group(0).phase, "Active");
  EXPECT_EQ(scene.group(1).phase, "Draining");
  EXPECT_THAT(scene.groups(), SizeIs(2)) << "there is no room for a third";
  ASSERT_TRUE(scene.Settle());
  EXPECT_EQ(scene.num_active(), 1);
}

TEST(RolloutTest, ASpecThatIsChangedBackKeepsTheGroupsThatServe) {
  Scene scene = Serving(1);
  const int before = scene.spec().engine.max_sequences;
  scene.spec().engine.max_sequences = 7;
  scene.Edit();
  scene.Step();
  scene.Step();
  scene.spec().engine.max_sequences = before;
  scene.Edit();
  ASSERT_TRUE(scene.Settle());
  EXPECT_THAT(scene.groups(), ElementsAre(0));
  EXPECT_EQ(scene.pod(0, 0).incarnation, 0);
}

TEST(RolloutTest, AGroupOfAnEarlierRevisionThatNeedsAPodIsRemovedInstead) {
  Scene scene = Serving(1);
  scene.spec().engine.max_sequences = 7;
  scene.Edit();
  scene.Step();
  scene.Erase(scene.pod(0, 1).name);
  scene.running(0).phase = Phase::kRecovering;
  scene.running(0).wanted_slots = {1};
  scene.Step();
  EXPECT_EQ(scene.group(0).phase, "Draining");
  ASSERT_TRUE(scene.Settle());
  EXPECT_THAT(scene.groups(), ElementsAre(1));
}

TEST(FailedTest, AGroupThatFailedIsStoppedAndStaysSoUntilTheSpecChanges) {
  Scene scene = Serving(2);
  scene.running(1).phase = Phase::kFailed;
  scene.running(1).reason = "worker 1 failed 5 times within 10m";
  const Plan plan = scene.Step();
  EXPECT_THAT(Describe(plan), ElementsAre("WriteStatus"));
  EXPECT_EQ(scene.group(1).phase, "Failed");
  EXPECT_EQ(scene.condition("Failed").reason, "GroupFailed");
  EXPECT_THAT(scene.condition("Failed").message, HasSubstr("worker 1 failed 5 times"));
  EXPECT_EQ(scene.condition("Degraded").status, "True");
  EXPECT_THAT(Describe(scene.Step()),
              AllOf(Contains("StopGroup 1"), Contains("DeletePod demo-g1-s0-0")));
  ASSERT_TRUE(scene.Settle());
  EXPECT_EQ(scene.num_active(), 1) << "the other one serves";
  scene.Advance(absl::Hours(5));
  ASSERT_TRUE(scene.Settle());
  EXPECT_EQ(scene.group(1).phase, "Failed");
  scene.Edit();
  ASSERT_TRUE(scene.Settle());
  EXPECT_EQ(scene.num_active(), 2);
  EXPECT_EQ(scene.condition("Failed").status, "False");
}

TEST(PausedTest, NothingIsCreatedRepairedOrRemovedAndGroupsAreKept) {
  Scene scene = Serving(2);
  scene.observed.deployment.paused = true;
  scene.Step();
  scene.pod(0, 1).phase = ObservedPod::Phase::kFailed;
  scene.running(0).phase = Phase::kRecovering;
  scene.running(0).wanted_slots = {1};
  scene.spec().engine.max_sequences = 7;
  scene.spec().replicas = 1;
  scene.Edit();
  EXPECT_THAT(Describe(scene.Step()), ElementsAre("WriteStatus"));
  EXPECT_THAT(Describe(scene.Step()), IsEmpty());
  EXPECT_EQ(scene.status().last_failure->pod, "demo-g0-s1-0");
  EXPECT_EQ(scene.condition("Progressing").reason, "Paused");
  EXPECT_THAT(scene.condition("Degraded").message, HasSubstr("it is paused"));
  // Another controller takes the groups that run all the same.
  scene.observed.groups.clear();
  EXPECT_THAT(Describe(scene.Decide()), ElementsAre("StartGroup 0", "StartGroup 1"));
}

TEST(DeletingTest, GroupsDrainAndNothingIsCreated) {
  Scene scene = Serving(2);
  scene.running(0).num_running = 1;
  scene.observed.deployment.deleting = true;
  scene.observed.deployment.paused = true;  // does not hold a deletion up
  scene.Erase(scene.pod(1, 1).name);
  scene.running(1).phase = Phase::kRecovering;
  scene.running(1).wanted_slots = {1};
  scene.Step();
  const Plan plan = scene.Step();
  EXPECT_THAT(Describe(plan), AllOf(Contains("DrainGroup 0"), Contains("StopGroup 1"),
                                    Each(Not(HasSubstr("Create")))));
  scene.running(0).num_running = 0;
  ASSERT_TRUE(scene.Settle());
  EXPECT_THAT(scene.groups(), IsEmpty());
  EXPECT_THAT(scene.observed.pods, IsEmpty());
  EXPECT_THAT(scene.observed.groups, IsEmpty());
}

TEST(StrayGroupTest, AGroupThatTheStatusDoesNotHaveIsStopped) {
  Scene scene = Serving(1);
  scene.observed.groups.push_back(scene.running(0));
  scene.observed.groups.back().index = 4;
  EXPECT_THAT(Describe(scene.Decide()), ElementsAre("StopGroup 4"));
}

}  // namespace
}  // namespace moe::reconcile
