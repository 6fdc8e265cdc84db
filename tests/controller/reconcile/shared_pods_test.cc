// Pods of several workers (worker.gpusPerPod), and memory shared across pods.
#include <string>
#include <vector>

#include "controller/api/conditions.h"
#include "controller/reconcile/gang.h"
#include "controller/reconcile/plan.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/controller/reconcile/scene.h"

namespace moe::reconcile {
namespace {

using Phase = ObservedGroup::Phase;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

// Four workers in two pods.
Scene TwoPods() {
  Scene scene(4);
  scene.spec().worker.gpus_per_pod = 2;
  return scene;
}

Scene Serving() {
  Scene scene = TwoPods();
  EXPECT_TRUE(scene.Settle());
  EXPECT_EQ(scene.num_active(), 1);
  return scene;
}

TEST(SharedPodsTest, AGangHasAsManyPodsAsItsWorkersFill) {
  Scene scene = TwoPods();
  scene.Step();  // claims
  EXPECT_THAT(scene.group(0).incarnations, ElementsAre(0, 0));
  EXPECT_THAT(All<CreatePod>(scene.Step()), SizeIs(2));
  ASSERT_TRUE(scene.Settle());
  EXPECT_THAT(scene.observed.pods, SizeIs(2));
}

TEST(SharedPodsTest, APodHasItsRanksInARowAndNeighboursAreOnOneNode) {
  std::vector<ObservedPod> pods(3);
  pods[0].node = "b";
  pods[1].node = "a";
  pods[2].node = "b";
  const std::vector<const ObservedPod*> of_slot = {&pods[0], &pods[1], &pods[2]};
  EXPECT_THAT(OrderRanks(of_slot, 1, 3), ElementsAre(1, 0, 2));
  EXPECT_THAT(OrderRanks(of_slot, 3, 9), ElementsAre(1, 1, 1, 0, 0, 0, 2, 2, 2));
  EXPECT_THAT(OrderRanks(of_slot, 2, 4), ElementsAre(1, 1, 0, 0)) << "the last one is a spare";
}

TEST(SharedPodsTest, TheCoordinatorIsToldOfRanksAndPods) {
  Scene scene = TwoPods();
  std::vector<StartGroup> starts;
  for (int i = 0; i < 20 && starts.empty(); ++i) {
    starts = All<StartGroup>(scene.Turn());
  }
  ASSERT_THAT(starts, SizeIs(1));
  EXPECT_THAT(starts[0].slot_of_rank, ElementsAre(0, 0, 1, 1));
  EXPECT_THAT(starts[0].incarnations, ElementsAre(0, 0));
}

TEST(SharedPodsTest, TheStatusCountsWorkersAndNamesTheProcessOfEachRank) {
  Scene scene = Serving();
  EXPECT_EQ(scene.status().workers, "4/4");
  EXPECT_EQ(scene.status().strategy, "EP4_TP1_PP1_DP1");
  std::vector<std::string> ranks;
  for (const api::RankStatus& rank : scene.group(0).ranks) {
    ranks.push_back(std::to_string(rank.rank) + " " + rank.pod + " " +
                    std::to_string(rank.process.value_or(-1)) + " " + rank.experts);
  }
  EXPECT_THAT(ranks, ElementsAre("0 demo-g0-s0-0 0 0-1", "1 demo-g0-s0-0 1 2-3",
                                 "2 demo-g0-s1-0 0 4-5", "3 demo-g0-s1-0 1 6-7"));
  scene.pod(0, 1).ready = false;
  scene.Step();
  EXPECT_EQ(scene.status().workers, "2/4");
}

TEST(SharedPodsTest, OneWorkerOfAPodHasNoNumber) {
  Scene scene(4);
  ASSERT_TRUE(scene.Settle());
  EXPECT_EQ(scene.group(0).ranks[0].process, std::nullopt);
}

TEST(SharedPodsTest, ALostPodIsReplacedOnceAndTheOthersStay) {
  Scene scene = Serving();
  scene.pod(0, 1).phase = ObservedPod::Phase::kFailed;
  scene.pod(0, 1).exit_code = 1;
  scene.running(0).phase = Phase::kRecovering;
  scene.running(0).epoch = 0;
  scene.running(0).wanted_slots = {1};
  ASSERT_TRUE(scene.Settle());
  EXPECT_THAT(scene.observed.pods, SizeIs(2));
  EXPECT_THAT(scene.group(0).incarnations, ElementsAre(0, 1));
  EXPECT_THAT(scene.group(0).slot_of_rank, ElementsAre(0, 0, 1, 1));
  ASSERT_TRUE(scene.status().last_failure.has_value());
  EXPECT_EQ(scene.status().last_failure->slot, 1);
  EXPECT_EQ(scene.status().last_failure->rank, 2) << "the first of the pod";
}

TEST(SharedPodsTest, RanksThatWereWrittenByHandAreGivenAnew) {
  for (const std::vector<int>& wrong : {std::vector<int>{0, 1, 0, 1},
                                        {0, 0, 0, 1},
                                        {0, 0, 2, 2},
                                        {1, 1, 1, 1},
                                        {0, 1},
                                        {0, 0, 1}}) {
    Scene scene = Serving();
    scene.group(0).slot_of_rank = wrong;
    scene.Step();
    EXPECT_THAT(scene.group(0).slot_of_rank, IsEmpty()) << testing::PrintToString(wrong);
    EXPECT_EQ(scene.group(0).phase, "Scheduling");
  }
}

TEST(SharedPodsTest, AnotherNumberOfGpusRollsTheGroups) {
  Scene scene(4);
  ASSERT_TRUE(scene.Settle());
  const std::string before = scene.status().revision;
  scene.spec().worker.gpus_per_pod = 4;
  scene.Edit();
  ASSERT_TRUE(scene.Settle());
  EXPECT_NE(scene.status().revision, before);
  EXPECT_EQ(scene.num_active(), 1);
  EXPECT_THAT(scene.observed.pods, SizeIs(1));
  EXPECT_EQ(scene.status().workers, "4/4");
}

TEST(SharedPodsTest, WorkersThatDoNotFillTheirPodsAreAnInvalidLayout) {
  Scene scene(4);
  scene.spec().parallelism.automatic = true;  // 8 experts
  scene.spec().worker.gpus_per_pod = 3;
  scene.Step();
  EXPECT_EQ(scene.condition("Failed").reason, "InvalidLayout");
  EXPECT_THAT(scene.condition("Failed").message,
              HasSubstr("8 workers can't be put into pods of 3; write a worker.gpusPerPod that "
                        "divides 8"));
  EXPECT_THAT(scene.status().groups, IsEmpty());
}

TEST(NvlinkAcrossPodsTest, IsSaidToBeExperimentalForAsLongAsItIsAskedFor) {
  Scene scene(4);
  ASSERT_TRUE(scene.Settle());
  EXPECT_EQ(api::FindCondition(scene.status().conditions, "Experimental"), nullptr);
  scene.spec().worker.nvlink_across_pods = true;
  scene.Edit();
  std::vector<std::string> warnings;
  for (const Event& event : All<Event>(scene.Step())) {
    if (event.warning) {
      warnings.push_back(event.message);
    }
  }
  EXPECT_THAT(warnings, Contains(HasSubstr("Pod Security level baseline does not admit")));
  EXPECT_EQ(scene.condition("Experimental").status, "True");
  EXPECT_EQ(scene.condition("Experimental").reason, "NvlinkAcrossPods");
  for (const Event& event : All<Event>(scene.Step())) {
    EXPECT_FALSE(event.warning) << event.message << ": it is said once";
  }
  ASSERT_TRUE(scene.Settle());
  EXPECT_EQ(scene.condition("Ready").status, "True");
  scene.spec().worker.nvlink_across_pods = false;
  scene.Edit();
  ASSERT_TRUE(scene.Settle());
  EXPECT_EQ(scene.condition("Experimental").status, "False");
}

}  // namespace
}  // namespace moe::reconcile
