// What the status says: the model, the revision, conditions, counts, the timeline, events.
#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "controller/reconcile/plan.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/controller/reconcile/scene.h"

namespace moe::reconcile {
namespace {

using Phase = ObservedGroup::Phase;
using testing::Contains;
using testing::ElementsAre;
using testing::Field;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::SizeIs;

Scene Serving(int replicas = 1) {
  Scene scene(2, replicas);
  EXPECT_TRUE(scene.Settle());
  return scene;
}

Scene NewModel() {
  Scene scene;
  scene.status().model.reset();
  return scene;
}

// ---- The model ----

TEST(InspectionTest, TheModelIsReadBeforeAnythingIsCreated) {
  Scene scene = NewModel();
  EXPECT_THAT(Describe(scene.Step()), ElementsAre("WriteStatus", "CreateInspection"));
  EXPECT_EQ(scene.condition("Ready").reason, "Inspecting");
  scene.observed.inspection.problem = "pvc models is not bound";
  EXPECT_THAT(Describe(scene.Step()), ElementsAre("WriteStatus"));
  EXPECT_THAT(scene.condition("ModelReady").message, HasSubstr("pvc models is not bound"));
  scene.observed.inspection.done = true;
  scene.observed.inspection.result = api::ModelStatus{"", 2, 8, 2, 1000};
  const Plan plan = scene.Step();
  EXPECT_THAT(Describe(plan), Not(Contains("DeleteInspection"))) << "its result is not durable";
  EXPECT_EQ(scene.status().model->uri, "pvc://models/demo");
  EXPECT_EQ(scene.condition("ModelReady").status, "True");
  EXPECT_THAT(Describe(scene.Step()), Contains("DeleteInspection"));
}

TEST(InspectionTest, AFailureIsShownAndTriedAgainLessAndLessOften) {
  Scene scene = NewModel();
  scene.spec().progress_deadline = absl::Hours(24);
  std::vector<absl::Duration> waits;
  for (int i = 0; i < 8; ++i) {
    scene.Step();
    ASSERT_TRUE(scene.observed.inspection.exists);
    scene.observed.inspection.done = true;
    scene.observed.inspection.problem = "config.json: no such file";
    const Plan plan = scene.Step();
    EXPECT_EQ(scene.condition("ModelReady").reason, "ModelUnreadable");
    EXPECT_THAT(scene.condition("ModelReady").message, HasSubstr("config.json: no such file"));
    waits.push_back(plan.requeue_after);
    EXPECT_THAT(Describe(scene.Step()), IsEmpty());
    scene.Advance(plan.requeue_after);
    EXPECT_THAT(Describe(scene.Step()), ElementsAre("DeleteInspection"));
    scene.Decide();
    EXPECT_EQ(scene.condition("ModelReady").reason, "ModelUnreadable") << "while it is tried again";
  }
  EXPECT_THAT(waits, ElementsAre(absl::Seconds(30), absl::Seconds(30), absl::Seconds(60),
                                 absl::Seconds(120), absl::Seconds(240), absl::Seconds(480),
                                 absl::Minutes(10), absl::Minutes(10)));
}

TEST(InspectionTest, AFailureIsTriedAgainAtOnceWhenTheSpecChanges) {
  Scene scene = NewModel();
  scene.Step();
  scene.observed.inspection.done = true;
  scene.observed.inspection.problem = "config.json: no such file";
  scene.Step();
  scene.Edit();
  EXPECT_THAT(Describe(scene.Step()), Contains("DeleteInspection"));
}

TEST(InspectionTest, AnotherModelIsReadWhileTheGroupsOfTheFirstOneServe) {
  Scene scene = Serving();
  scene.spec().model.uri = "pvc://models/other";
  scene.Edit();
  EXPECT_THAT(Describe(scene.Step()), ElementsAre("WriteStatus", "CreateInspection"));
  EXPECT_EQ(scene.group(0).phase, "Active");
  EXPECT_EQ(scene.condition("Available").status, "True");
  EXPECT_EQ(scene.condition("Ready").status, "False");
}

// ---- The spec ----

TEST(SpecTest, WhatCantBeDoneIsAConditionAndCreatesNothing) {
  struct Case {
    const char* name;
    void (*change)(Scene*);
    const char* reason;
    const char* message;
  };
  const std::vector<Case> cases = {
      {"the spec can't be understood",
       [](Scene* scene) {
         scene->observed.spec_status =
             absl::InvalidArgumentError("spec.replicas: must be a number");
       },
       "InvalidSpec", "spec.replicas: must be a number"},
      {"more workers than experts", [](Scene* scene) { scene->spec().parallelism.expert = 9; },
       "InvalidLayout", "can be 1 to 8, not 9; write 8"},
      {"no workers", [](Scene* scene) { scene->spec().parallelism.expert = 0; }, "InvalidLayout",
       "can be 1 to 8, not 0"},
      {"more attention ranks than workers",
       [](Scene* scene) { scene->spec().parallelism.attention_ranks = 5; }, "InvalidLayout",
       "attentionRanks can be 1 to 4"},
      {"more workers than one deployment may have",
       [](Scene* scene) { scene->spec().replicas = 1000; }, "InvalidLayout",
       "4 workers in each of 1000 groups are 4000"},
  };
  for (const Case& test_case : cases) {
    SCOPED_TRACE(test_case.name);
    Scene scene;
    test_case.change(&scene);
    const Plan plan = scene.Step();
    EXPECT_THAT(Describe(plan), ElementsAre("WriteStatus"));
    EXPECT_EQ(scene.condition("Failed").status, "True");
    EXPECT_EQ(scene.condition("Failed").reason, test_case.reason);
    EXPECT_THAT(scene.condition("Failed").message, HasSubstr(test_case.message));
    EXPECT_EQ(scene.condition("Ready").reason, test_case.reason);
    EXPECT_THAT(All<Event>(plan), Contains(Field(&Event::reason, test_case.reason)));
    EXPECT_THAT(scene.Decide().actions, IsEmpty());

    Scene serving;
    ASSERT_TRUE(serving.Settle());
    test_case.change(&serving);
    serving.Edit();
    EXPECT_THAT(Describe(serving.Step()), ElementsAre("WriteStatus")) << "it goes on serving";
    EXPECT_EQ(serving.num_active(), 1);
    serving.running(0).phase = Phase::kRecovering;
    serving.running(0).wanted_slots = {0};
    serving.Step();
    EXPECT_THAT(All<CreatePod>(serving.Step()), IsEmpty());
    EXPECT_THAT(serving.condition("Degraded").message, HasSubstr("no pod is created before"));
    EXPECT_EQ(serving.condition("Ready").reason, test_case.reason);
  }
}

TEST(SpecTest, AutoHasOneWorkerForEachExpert) {
  Scene scene;
  scene.spec().parallelism.automatic = true;
  scene.spec().parallelism.expert = 0;
  ASSERT_TRUE(scene.Settle());
  EXPECT_EQ(scene.status().strategy, "EP8_TP1_PP1_DP1");
  EXPECT_EQ(scene.status().workers, "8/8");
}

TEST(RevisionTest, ChangesWithWhatRollsGroupsAndWithNothingElse) {
  struct Case {
    const char* name;
    void (*change)(Scene*);
    bool rolls;
  };
  const std::vector<Case> cases = {
      {"the worker's pod template",
       [](Scene* scene) { scene->spec().worker.pod_template = {{"spec", {{"priority", 1}}}}; },
       true},
      {"the layout", [](Scene* scene) { scene->spec().parallelism.expert = 2; }, true},
      {"the engine", [](Scene* scene) { scene->spec().engine.max_queue = 1; }, true},
      {"attention",
       [](Scene* scene) { scene->spec().parallelism.attention = api::Attention::kReplicated; },
       true},
      {"replicas", [](Scene* scene) { scene->spec().replicas = 2; }, false},
      {"the gateway", [](Scene* scene) { scene->spec().gateway.replicas = 3; }, false},
      {"the name that clients use", [](Scene* scene) { scene->spec().model.name = "x"; }, false},
      {"the gang's timeout",
       [](Scene* scene) { scene->spec().worker.gang_timeout = absl::Minutes(1); }, false},
      {"nothing", [](Scene*) {}, false},
  };
  for (const Case& test_case : cases) {
    SCOPED_TRACE(test_case.name);
    Scene scene;
    ASSERT_TRUE(scene.Settle());
    const std::string before = scene.status().revision;
    test_case.change(&scene);
    scene.Edit();
    scene.Step();
    EXPECT_EQ(scene.status().revision != before, test_case.rolls);
  }
}

TEST(RevisionTest, AnUpgradeOfTheOperatorTakesEffectWithTheNextChangeThatRolls) {
  Scene scene = Serving();
  scene.observed.worker_image = "worker:2";
  scene.observed.gateway_image = "gateway:2";
  EXPECT_THAT(scene.Decide().actions, IsEmpty());
  scene.spec().gateway.replicas = 3;
  scene.Edit();
  ASSERT_TRUE(scene.Settle());
  EXPECT_EQ(scene.status().worker_image, "worker:1") << "that change rolls nothing";
  scene.spec().engine.max_queue = 1;
  scene.Edit();
  ASSERT_TRUE(scene.Settle());
  EXPECT_EQ(scene.status().worker_image, "worker:2");
  EXPECT_EQ(scene.status().gateway_image, "gateway:2");
  EXPECT_THAT(scene.groups(), ElementsAre(1));
}

// ---- Conditions ----

TEST(ConditionsTest, SayWhatIsMissing) {
  struct Case {
    const char* name;
    void (*change)(Scene*);
    const char* type;
    const char* status;
    const char* reason;
    const char* message;
  };
  const std::vector<Case> cases = {
      {"all is well", [](Scene*) {}, "Ready", "True", "AllGroupsActive", "all 2 groups"},
      {"all is well, again", [](Scene*) {}, "Progressing", "True", "Complete", ""},
      {"weights load",
       [](Scene* scene) {
         scene->running(1).phase = Phase::kLoading;
         scene->running(1).rank_loaded = {true, false};
       },
       "CommunicatorReady", "False", "Loading", "1 of 2 workers have loaded"},
      {"an image can't be pulled",
       [](Scene* scene) {
         scene->running(1).phase = Phase::kLoading;
         scene->pod(1, 0).waiting_reason = "ErrImagePull";
         scene->pod(1, 0).waiting_message = "worker:1 not found";
       },
       "Ready", "False", "Loading", "pod demo-g1-s0-0 waits: ErrImagePull worker:1 not found"},
      {"a group recovers",
       [](Scene* scene) {
         scene->running(1).phase = Phase::kRecovering;
         scene->running(1).reason = "worker 1 was killed";
       },
       "Degraded", "True", "GroupRecovering", "worker 1 was killed"},
      {"fewer groups than promised",
       [](Scene* scene) { scene->running(1).phase = Phase::kRecovering; }, "Available", "False",
       "TooFewGroups", "1 groups are active, 2 are promised"},
      {"no gateway is ready",
       [](Scene* scene) {
         scene->observed.gateway.ready_replicas = 0;
         scene->observed.gateway.problem = "ImagePullBackOff";
       },
       "Available", "False", "GatewayNotReady", "ImagePullBackOff"},
      {"one gateway is not ready", [](Scene* scene) { scene->observed.gateway.ready_replicas = 1; },
       "Degraded", "True", "GatewayNotReady", "1 of 2 gateways"},
      {"children can't be applied",
       [](Scene* scene) {
         scene->observed.children_status = absl::PermissionDeniedError("ingresses is forbidden");
       },
       "Degraded", "True", "ChildrenNotApplied", "ingresses is forbidden"},
  };
  for (const Case& test_case : cases) {
    SCOPED_TRACE(test_case.name);
    Scene scene = Serving(2);
    test_case.change(&scene);
    scene.Step();
    const api::Condition& condition = scene.condition(test_case.type);
    EXPECT_EQ(condition.status, test_case.status);
    EXPECT_EQ(condition.reason, test_case.reason);
    EXPECT_THAT(condition.message, HasSubstr(test_case.message));
    EXPECT_EQ(condition.observed_generation, 1);
    EXPECT_THAT(scene.status().conditions, SizeIs(9));
  }
}

TEST(ConditionsTest, AnUpdateIsInProgressUntilTheLastEarlierGroupIsGone) {
  Scene scene = Serving(2);
  EXPECT_EQ(scene.condition("UpdateInProgress").status, "False");
  scene.spec().engine.max_queue = 1;
  scene.Edit();
  const std::string before = scene.status().revision;
  for (int turn = 0; turn < 60; ++turn) {
    scene.Turn();
    const bool earlier =
        std::any_of(scene.status().groups.begin(), scene.status().groups.end(),
                    [&](const api::GroupStatus& group) { return group.revision == before; });
    EXPECT_EQ(scene.condition("UpdateInProgress").status, earlier ? "True" : "False");
    if (scene.condition("Ready").status == "True") break;
  }
  EXPECT_NE(scene.status().revision, before);
  EXPECT_EQ(scene.condition("Ready").status, "True");
  EXPECT_EQ(scene.condition("UpdateInProgress").reason, "UpToDate");
}

TEST(ConditionsTest, TheProgressDeadlineIsSaidAndEndsNothing) {
  Scene scene;
  scene.spec().progress_deadline = absl::Minutes(5);
  scene.observed.last_create_error = "exceeded quota";
  scene.Apply({{All<WriteStatus>(scene.Decide())[0]}});
  scene.Advance(absl::Minutes(5) - absl::Seconds(1));
  scene.Apply({All<WriteStatus>(scene.Decide()).empty()
                   ? std::vector<Action>()
                   : std::vector<Action>{All<WriteStatus>(scene.Decide())[0]}});
  EXPECT_EQ(scene.condition("Progressing").status, "True");
  scene.Advance(absl::Seconds(1));
  const Plan plan = scene.Decide();
  EXPECT_THAT(All<CreatePod>(plan), SizeIs(4)) << "it goes on trying";
  scene.Apply({{All<WriteStatus>(plan)[0]}});
  EXPECT_EQ(scene.condition("Progressing").reason, "ProgressDeadlineExceeded");
  EXPECT_THAT(scene.condition("Progressing").message, HasSubstr("exceeded quota"));
  scene.observed.last_create_error = "";
  ASSERT_TRUE(scene.Settle());
  EXPECT_EQ(scene.condition("Progressing").reason, "Complete");
  // A group that recovers much later has its own time.
  scene.Advance(absl::Hours(5));
  scene.running(0).phase = Phase::kRecovering;
  scene.Step();
  EXPECT_EQ(scene.condition("Progressing").status, "True");
}

// ---- The rest ----

TEST(StatusTest, SaysWhatPrinterColumnsAndAutoscalersNeed) {
  Scene scene = Serving(2);
  const api::MoEDeploymentStatus& status = scene.status();
  EXPECT_EQ(status.observed_generation, 1);
  EXPECT_EQ(status.strategy, "EP2_TP1_PP1_DP2");
  EXPECT_EQ(status.replicas, 2);
  EXPECT_EQ(status.ready_replicas, 2);
  EXPECT_EQ(status.updated_replicas, 2);
  EXPECT_EQ(status.workers, "4/4");
  EXPECT_EQ(status.epoch, 1u);
  EXPECT_EQ(status.url, "http://demo-gateway.prod.svc");
  EXPECT_EQ(status.hpa_pod_selector,
            "moe-operator.dev/deployment=demo,app.kubernetes.io/component=worker,"
            "moe-operator.dev/slot=0");
  ASSERT_THAT(status.groups[0].ranks, SizeIs(2));
  EXPECT_EQ(status.groups[0].ranks[1],
            (api::RankStatus{1, "demo-g0-s1-0", std::nullopt, "node-0-0", "4-7", "Active"}));
  scene.spec().ingress = api::IngressSpec{
      .host = "moe.example.com", .class_name = "", .tls_secret_name = "tls", .annotations = {}};
  scene.Edit();
  scene.Step();
  EXPECT_EQ(scene.status().url, "https://moe.example.com");
}

TEST(StatusTest, TheTimelineHasEachStepOnceAndInOrder) {
  Scene scene = Serving();
  scene.running(0).generated_tokens = 1;
  scene.Step();
  const api::StartupStatus first = *scene.status().startup;
  EXPECT_LT(first.started, first.scheduled);
  EXPECT_LE(first.scheduled, first.images_pulled);
  EXPECT_LE(first.images_pulled, first.weights_loaded);
  EXPECT_LE(first.weights_loaded, first.communicator);
  EXPECT_LT(first.communicator, first.first_token);
  EXPECT_LE(first.first_token, scene.observed.now);
  scene.running(0).phase = Phase::kRecovering;
  scene.Step();
  EXPECT_EQ(scene.status().startup, first);
}

TEST(StatusTest, ExpertLoadIsWrittenAtMostEachHalfMinute) {
  Scene scene = Serving();
  scene.observed.expert_load = api::ExpertLoadStatus{
      .tokens = 10, .max_over_mean = 1.5, .hottest = "2", .coldest = "0", .at = scene.observed.now};
  EXPECT_THAT(Describe(scene.Step()), ElementsAre("WriteStatus"));
  scene.observed.expert_load->tokens = 20;
  const Plan plan = scene.Step();
  EXPECT_THAT(Describe(plan), IsEmpty());
  EXPECT_EQ(plan.requeue_after, absl::Seconds(30));
  scene.Advance(absl::Seconds(30));
  scene.Step();
  EXPECT_EQ(scene.status().expert_load->tokens, 20u);
  scene.Advance(absl::Hours(1));
  EXPECT_THAT(scene.Decide().actions, IsEmpty()) << "the load has not changed";
  EXPECT_EQ(scene.Decide().requeue_after, absl::Seconds(30)) << "it may, and nobody would tell";
}

TEST(EventsTest, EachTurnIsSaidOnce) {
  Scene scene;
  std::vector<std::string> reasons;
  for (int i = 0; i < 30; ++i) {
    for (const Event& event : All<Event>(scene.Turn())) {
      reasons.push_back(absl::StrCat(event.warning ? "!" : "", event.reason));
    }
  }
  EXPECT_THAT(reasons, ElementsAre("GroupAdded", "RevisionChanged", "ModelReady", "GangScheduled",
                                   "GroupActive", "Ready"));
  reasons.clear();
  scene.pod(0, 1).phase = ObservedPod::Phase::kFailed;
  scene.running(0).phase = Phase::kRecovering;
  scene.running(0).wanted_slots = {1};
  for (int i = 0; i < 30; ++i) {
    for (const Event& event : All<Event>(scene.Turn())) {
      reasons.push_back(absl::StrCat(event.warning ? "!" : "", event.reason));
    }
  }
  EXPECT_THAT(reasons, ElementsAre("!WorkerFailed", "!GroupRecovering", "GroupActive", "Ready"));
}

}  // namespace
}  // namespace moe::reconcile
