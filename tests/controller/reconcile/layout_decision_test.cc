// How what `mode: Auto` decided is kept, shown, proposed and adopted.
#include "controller/reconcile/layout_decision.h"

#include <string>
#include <vector>

#include "controller/api/conditions.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/controller/reconcile/gpu_scene.h"
#include "tests/controller/reconcile/scene.h"

namespace moe::reconcile {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

// Without a group, so that a plan has what is decided alone.
Scene OnGpus(int num_nodes = 8, int gpus_per_pod = 8) {
  Scene scene;
  const std::string uri = scene.spec().model.uri;
  scene.spec() = AutoOnGpus(gpus_per_pod);
  scene.spec().replicas = 0;
  scene.status().model = Olmoe(uri);
  scene.observed.gpus = H100Nodes(num_nodes);
  return scene;
}

Scene OnCpus() {
  Scene scene;
  scene.spec().parallelism.automatic = true;
  scene.spec().parallelism.expert = 0;
  return scene;
}

std::vector<std::string> EventReasons(const Plan& plan) {
  std::vector<std::string> reasons;
  for (const Event& event : All<Event>(plan)) {
    reasons.push_back(event.reason);
  }
  return reasons;
}

bool HasCondition(Scene& scene, const char* type) {
  return api::FindCondition(scene.status().conditions, type) != nullptr;
}

TEST(LayoutDecisionTest, IsInTheStatusAConditionAndAnEventAndGroupsAreMadeOfIt) {
  Scene scene = OnGpus();
  scene.spec().replicas = 1;
  const Plan plan = scene.Step();
  ASSERT_TRUE(scene.status().decision.has_value());
  const api::LayoutDecision decision = *scene.status().decision;
  EXPECT_EQ(decision.choice.expert, 8);
  EXPECT_EQ(decision.decided_at, scene.observed.now);
  EXPECT_THAT(EventReasons(plan), Contains("LayoutDecided"));
  EXPECT_EQ(scene.condition("LayoutDecided").status, "True");
  EXPECT_EQ(scene.condition("LayoutDecided").reason, "Planned");
  const std::string& message = scene.condition("LayoutDecided").message;
  EXPECT_THAT(message, HasSubstr("EP8_TP1_PP1_DP1"));
  EXPECT_THAT(message, HasSubstr("ms a pass"));
  EXPECT_THAT(message, HasSubstr("predicted, not measured"));
  EXPECT_THAT(message, HasSubstr("decided from 64 x NVIDIA-H100-80GB-HBM3 on 8 nodes"));
  EXPECT_EQ(scene.condition("PlainReplicasBetter").status, "False");
  ASSERT_TRUE(scene.Settle());
  EXPECT_EQ(scene.status().strategy, "EP8_TP1_PP1_DP1");
  EXPECT_EQ(scene.status().revisions.front().backend, api::Backend::kCuda);
  EXPECT_EQ(*scene.status().decision, decision) << "decided once";
}

TEST(LayoutDecisionTest, OnGpusTheModelIsReadFirst) {
  Scene scene = OnGpus();
  scene.status().model.reset();
  EXPECT_THAT(Describe(scene.Step()), ElementsAre("WriteStatus", "CreateInspection"));
  EXPECT_EQ(scene.condition("LayoutDecided").status, "Unknown");
  EXPECT_EQ(scene.condition("LayoutDecided").reason, "WaitingForModel");
  scene.observed.inspection.done = true;
  scene.observed.inspection.result = Olmoe("");
  scene.Step();
  EXPECT_EQ(scene.condition("LayoutDecided").status, "True");
}

TEST(LayoutDecisionTest, AModelThatWasReadByAnEarlierOperatorIsReadAgainForItsShape) {
  Scene scene = OnGpus();
  scene.status().model->shape.reset();
  EXPECT_THAT(Describe(scene.Step()), Contains("CreateInspection"));
  EXPECT_EQ(scene.condition("LayoutDecided").reason, "WaitingForModel");
  scene.observed.inspection.done = true;
  scene.observed.inspection.result = Olmoe("");
  scene.observed.inspection.result->shape.reset();
  scene.observed.inspection.result->shape_missing = true;
  scene.Step();
  EXPECT_EQ(scene.condition("LayoutDecided").reason, "UnknownShape");
  EXPECT_THAT(scene.condition("LayoutDecided").message, HasSubstr("older than the operator"));
  EXPECT_THAT(Describe(scene.Step()), ElementsAre("DeleteInspection"));
  EXPECT_THAT(scene.Step().actions, IsEmpty()) << "an image that does not tell is asked once";
  // Another image may.
  scene.spec().worker.pod_template = {{"spec", {{"priority", 1}}}};
  scene.Edit();
  scene.Step();
  EXPECT_THAT(Describe(scene.Step()), Contains("CreateInspection"));
}

TEST(LayoutDecisionTest, NodesThatAreNotKnownYetAreWaitedFor) {
  Scene scene = OnGpus();
  scene.observed.gpus.reset();
  const Plan plan = scene.Step();
  EXPECT_EQ(scene.condition("LayoutDecided").status, "False");
  EXPECT_EQ(scene.condition("LayoutDecided").reason, "NodesNotKnown");
  EXPECT_FALSE(scene.status().decision.has_value());
  EXPECT_LE(plan.requeue_after, absl::Seconds(10)) << "an empty list wakes nobody";
  scene.observed.gpus = H100Nodes(0);
  EXPECT_THAT(EventReasons(scene.Step()), Contains("NoGpus"));
  scene.observed.gpus = H100Nodes(8);
  scene.Step();
  EXPECT_EQ(scene.condition("LayoutDecided").reason, "Planned");
}

TEST(LayoutDecisionTest, OtherNodesChangeNothingAndAreProposed) {
  Scene scene = OnGpus(/*num_nodes=*/1, /*gpus_per_pod=*/1);
  scene.observed.gpus = H100Nodes(1, 2);
  scene.Step();
  const api::LayoutDecision decided = *scene.status().decision;
  ASSERT_EQ(decided.choice.num_gpus, 1) << DescribeChoice(decided.choice);
  scene.Advance(absl::Hours(1));
  scene.observed.gpus = H100Nodes(8);
  const Plan plan = scene.Step();
  const api::LayoutDecision& now = *scene.status().decision;
  EXPECT_TRUE(SameLayout(now.choice, decided.choice));
  EXPECT_EQ(now.decided_at, decided.decided_at);
  ASSERT_TRUE(now.proposed.has_value());
  EXPECT_GT(now.proposed->expert, 2);
  EXPECT_THAT(EventReasons(plan), Contains("LayoutProposed"));
  const std::string& message = scene.condition("LayoutDecided").message;
  EXPECT_THAT(message, HasSubstr(now.proposed->layout));
  EXPECT_THAT(message, HasSubstr("Nothing changes before the annotation "
                                 "moe-operator.dev/adopt-layout says"));
  EXPECT_THAT(scene.Step().actions, IsEmpty());
  // The nodes are gone again, and with them the proposal.
  scene.observed.gpus = H100Nodes(1, 2);
  scene.Step();
  EXPECT_FALSE(scene.status().decision->proposed.has_value());
  EXPECT_TRUE(SameLayout(scene.status().decision->choice, decided.choice));
  // All GPUs are: the decision stays, and says so.
  scene.observed.gpus = H100Nodes(0);
  scene.Step();
  EXPECT_TRUE(SameLayout(scene.status().decision->choice, decided.choice));
  EXPECT_EQ(scene.condition("LayoutDecided").status, "True");
  EXPECT_THAT(scene.condition("LayoutDecided").message,
              HasSubstr("Now it could not be decided: no node that workers may run on has GPUs"));
  // A controller that does not know the nodes yet looks at nothing again.
  scene.observed.gpus.reset();
  EXPECT_THAT(scene.Step().actions, IsEmpty());
}

// A decision with a proposal.
Scene Proposed() {
  Scene scene = OnGpus(1, 1);
  scene.observed.gpus = H100Nodes(1, 2);
  scene.Step();
  scene.observed.gpus = H100Nodes(8);
  scene.Step();
  EXPECT_TRUE(scene.status().decision->proposed.has_value());
  return scene;
}

TEST(AdoptionTest, TheAnnotationTakesTheProposalOnce) {
  Scene scene = Proposed();
  const api::LayoutChoice proposed = *scene.status().decision->proposed;
  const api::LayoutChoice before = scene.status().decision->choice;
  scene.observed.deployment.adopt_layout = proposed.layout;
  EXPECT_THAT(EventReasons(scene.Step()), Contains("LayoutAdopted"));
  EXPECT_TRUE(SameLayout(scene.status().decision->choice, proposed));
  EXPECT_FALSE(scene.status().decision->proposed.has_value());
  EXPECT_THAT(scene.Step().actions, IsEmpty());
  // The annotation is still there when the nodes go and come.
  scene.observed.gpus = H100Nodes(1, 2);
  scene.Step();
  ASSERT_TRUE(scene.status().decision->proposed.has_value());
  scene.observed.deployment.adopt_layout = before.layout;
  scene.Step();
  EXPECT_TRUE(SameLayout(scene.status().decision->choice, before));
  scene.observed.deployment.adopt_layout.clear();
  scene.Step();
  scene.observed.gpus = H100Nodes(8);
  scene.Step();
  EXPECT_TRUE(SameLayout(scene.status().decision->choice, before)) << "nobody asked again";
}

TEST(AdoptionTest, AnAnnotationFromBeforeTheProposalAdoptsNothingLater) {
  const std::string later = Proposed().status().decision->proposed->layout;
  Scene scene = OnGpus(1, 1);
  scene.observed.gpus = H100Nodes(1, 2);
  scene.Step();
  const api::LayoutChoice decided = scene.status().decision->choice;
  scene.observed.deployment.adopt_layout = later;
  scene.Step();
  EXPECT_THAT(scene.condition("LayoutDecided").message, HasSubstr("which is not proposed"));
  scene.observed.gpus = H100Nodes(8);
  scene.Step();
  ASSERT_EQ(scene.status().decision->proposed->layout, later);
  EXPECT_TRUE(SameLayout(scene.status().decision->choice, decided));
  EXPECT_THAT(scene.condition("LayoutDecided").message,
              HasSubstr("before it was proposed: remove it and write it again"));
  scene.observed.deployment.adopt_layout.clear();
  scene.Step();
  scene.observed.deployment.adopt_layout = later;
  scene.Step();
  EXPECT_EQ(scene.status().decision->choice.layout, later);
}

TEST(AdoptionTest, NothingIsAdoptedOrLookedAtWhilePaused) {
  Scene scene = Proposed();
  const api::LayoutDecision before = *scene.status().decision;
  scene.observed.deployment.paused = true;
  scene.observed.deployment.adopt_layout = before.proposed->layout;
  scene.observed.gpus = H100Nodes(4);
  scene.Step();
  EXPECT_EQ(scene.status().decision, before);
  scene.observed.deployment.paused = false;
  scene.observed.gpus = H100Nodes(8);
  scene.Step();
  EXPECT_EQ(scene.status().decision->choice.layout, before.proposed->layout);
}

TEST(LayoutDecisionTest, WhatItIsBoundToDecidesAnewAndNothingElseDoes) {
  struct Case {
    const char* name;
    void (*change)(Scene*);
    bool anew;
  };
  const std::vector<Case> cases = {
      {"gpusPerPod", [](Scene* scene) { scene->spec().worker.gpus_per_pod = 4; }, true},
      {"attention",
       [](Scene* scene) { scene->spec().parallelism.attention = api::Attention::kReplicated; },
       true},
      {"attentionRanks", [](Scene* scene) { scene->spec().parallelism.attention_ranks = 1; }, true},
      {"the backend", [](Scene* scene) { scene->spec().backend = api::Backend::kCpu; }, true},
      {"replicas", [](Scene* scene) { scene->spec().replicas = 3; }, false},
      {"the engine", [](Scene* scene) { scene->spec().engine.max_sequences = 1000; }, false},
      {"the gateway", [](Scene* scene) { scene->spec().gateway.replicas = 3; }, false},
      {"nothing", [](Scene*) {}, false},
  };
  for (const Case& test_case : cases) {
    SCOPED_TRACE(test_case.name);
    Scene scene = OnGpus();
    scene.Step();
    const api::LayoutDecision before = *scene.status().decision;
    scene.Advance(absl::Minutes(1));
    test_case.change(&scene);
    scene.Edit();
    scene.Step();
    ASSERT_TRUE(scene.status().decision.has_value());
    EXPECT_EQ(scene.status().decision->decided_at != before.decided_at, test_case.anew);
    if (!test_case.anew) {
      EXPECT_TRUE(SameLayout(scene.status().decision->choice, before.choice));
    }
  }
}

TEST(LayoutDecisionTest, FixedTakesItOutAndAutoDecidesAgain) {
  Scene scene = OnGpus();
  scene.Step();
  ASSERT_TRUE(HasCondition(scene, "LayoutDecided"));
  scene.spec().parallelism.automatic = false;
  scene.spec().parallelism.expert = 4;
  scene.Edit();
  scene.Step();
  EXPECT_FALSE(scene.status().decision.has_value());
  EXPECT_FALSE(HasCondition(scene, "LayoutDecided"));
  EXPECT_FALSE(HasCondition(scene, "PlainReplicasBetter"));
}

TEST(LayoutDecisionTest, PlainReplicasThatAreBetterAreACondition) {
  Scene scene = OnGpus(1, 1);
  const Plan plan = scene.Step();
  EXPECT_EQ(scene.condition("PlainReplicasBetter").status, "True");
  EXPECT_EQ(scene.condition("PlainReplicasBetter").reason, "MoreRequests");
  EXPECT_THAT(scene.condition("PlainReplicasBetter").message,
              HasSubstr("write mode: Fixed, expert: 1 and replicas: "));
  EXPECT_THAT(EventReasons(plan), Contains("PlainReplicasBetter"));
}

TEST(LayoutDecisionTest, OnCpusTheGroupsHaveWhatWasDecided) {
  Scene scene = OnCpus();
  ASSERT_TRUE(scene.Settle());
  EXPECT_EQ(scene.status().strategy, "EP8_TP1_PP1_DP1");
  EXPECT_EQ(scene.status().decision->choice.expert, 8);
  EXPECT_EQ(scene.condition("LayoutDecided").reason, "OneWorkerForEachExpert");
  EXPECT_FALSE(HasCondition(scene, "PlainReplicasBetter")) << "there are no figures";
}

TEST(LayoutDecisionTest, FixedWithTheSameNumbersRollsNothing) {
  Scene scene = OnCpus();
  ASSERT_TRUE(scene.Settle());
  const std::string revision = scene.status().revision;
  scene.spec().parallelism.automatic = false;
  scene.spec().parallelism.expert = 8;
  scene.Edit();
  ASSERT_TRUE(scene.Settle());
  EXPECT_EQ(scene.status().revision, revision);
}

TEST(LayoutDecisionTest, AnUpgradeOfTheOperatorRollsNothing) {
  Scene scene = OnCpus();
  ASSERT_TRUE(scene.Settle());
  const std::string revision = scene.status().revision;
  // As an operator that kept no decision has left it.
  scene.status().decision.reset();
  ASSERT_TRUE(scene.Settle());
  EXPECT_EQ(scene.status().revision, revision);
  EXPECT_EQ(scene.condition("LayoutDecided").reason, "OneWorkerForEachExpert");
}

TEST(LayoutDecisionTest, ADeploymentThatRunsInAnotherLayoutKeepsItAndIsToldOfABetterOne) {
  // As if an operator with other rules had decided: four workers for eight experts.
  Scene scene(4);
  ASSERT_TRUE(scene.Settle());
  const std::string revision = scene.status().revision;
  scene.spec().parallelism.automatic = true;
  scene.spec().parallelism.expert = 0;
  ASSERT_TRUE(scene.Settle());
  EXPECT_EQ(scene.status().revision, revision);
  EXPECT_EQ(scene.status().decision->choice.expert, 4);
  EXPECT_EQ(scene.condition("LayoutDecided").reason, "Kept");
  ASSERT_TRUE(scene.status().decision->proposed.has_value());
  EXPECT_EQ(scene.status().decision->proposed->expert, 8);
  EXPECT_EQ(scene.num_active(), 1);

  scene.observed.deployment.adopt_layout = scene.status().decision->proposed->layout;
  ASSERT_TRUE(scene.Settle());
  EXPECT_NE(scene.status().revision, revision) << "now it was asked for";
  EXPECT_EQ(scene.status().strategy, "EP8_TP1_PP1_DP1");
  EXPECT_EQ(scene.num_active(), 1);
}

TEST(LayoutDecisionTest, AnotherModelIsDecidedForOnceItIsRead) {
  Scene scene = OnCpus();
  ASSERT_TRUE(scene.Settle());
  scene.spec().model.uri = "pvc://models/other";
  scene.Edit();
  scene.Step();
  EXPECT_EQ(scene.condition("LayoutDecided").status, "Unknown");
  EXPECT_EQ(scene.num_active(), 1) << "the first model serves on";
  scene.observed.inspection.done = true;
  scene.observed.inspection.result = api::ModelStatus{"", 2, 4, 2, 1000};
  ASSERT_TRUE(scene.Settle());
  EXPECT_EQ(scene.status().decision->choice.expert, 4);
  EXPECT_EQ(scene.status().strategy, "EP4_TP1_PP1_DP1");
}

}  // namespace
}  // namespace moe::reconcile
