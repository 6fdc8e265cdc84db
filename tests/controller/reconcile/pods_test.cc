// The pods of groups: gangs before the start, replacements after it, and strangers.
#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "controller/api/gpu_failures.h"
#include "controller/reconcile/gang.h"
#include "controller/reconcile/plan.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/exit_codes.h"
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

// A group whose four pods exist and whose gates have gone.
Scene Ungated() {
  Scene scene;
  scene.Step();  // claims
  scene.Step();  // creates
  scene.Step();  // takes its turn
  scene.Step();  // removes the gates
  return scene;
}

// A group that serves.
Scene Serving(int expert = 4, int replicas = 1) {
  Scene scene(expert, replicas);
  EXPECT_TRUE(scene.Settle());
  EXPECT_EQ(scene.num_active(), replicas);
  return scene;
}

void Lose(Scene* scene, int slot) {
  scene->Erase(scene->pod(0, slot).name);
  scene->running(0).phase = Phase::kRecovering;
  scene->running(0).epoch = 0;
  scene->running(0).wanted_slots = {slot};
}

TEST(GangTest, PodsAreCreatedGatedOnceTheirIncarnationsAreInTheStatus) {
  Scene scene;
  EXPECT_THAT(Describe(scene.Step()), ElementsAre("WriteStatus", "ApplyChildren"));
  EXPECT_THAT(scene.group(0).incarnations, ElementsAre(0, 0, 0, 0));
  const Plan plan = scene.Decide();
  EXPECT_THAT(All<CreatePod>(plan), SizeIs(4));
  EXPECT_THAT(Describe(plan), Contains("CreatePod g0-s3-0 gated"));
}

TEST(GangTest, ALostReplyOfACreateMakesNoSecondPod) {
  Scene scene;
  scene.Step();
  scene.Step();
  scene.Erase("demo-g0-s2-0");  // the others were created, with or without a reply
  EXPECT_THAT(Describe(scene.Step()), Contains("CreatePod g0-s2-0 gated"));
  EXPECT_THAT(scene.observed.pods, SizeIs(4));
}

TEST(GangTest, GatesStayUntilAllPodsExistAndTheStatusSaysSo) {
  Scene scene;
  scene.Step();
  scene.Step();
  scene.Erase("demo-g0-s2-0");
  EXPECT_THAT(All<RemoveGate>(scene.Step()), IsEmpty());
  const Plan plan = scene.Step();
  EXPECT_THAT(All<RemoveGate>(plan), SizeIs(4));
  EXPECT_TRUE(std::holds_alternative<WriteStatus>(plan.actions[0]))
      << "gang_since is durable first";
  EXPECT_EQ(GangInFlight(scene.observed.deployment), 0);
}

TEST(GangTest, OneGangOfTheClusterIsScheduledAtATime) {
  Scene scene(4, 2);
  scene.observed.other_gang_in_flight = "other/model/3";
  for (int i = 0; i < 5; ++i) {
    EXPECT_THAT(All<RemoveGate>(scene.Step()), IsEmpty());
  }
  EXPECT_EQ(scene.condition("GangScheduled").reason, "WaitingForTurn");
  EXPECT_THAT(scene.condition("GangScheduled").message, HasSubstr("other/model/3"));
  EXPECT_TRUE(scene.Decide().waits_for_turn);
  scene.observed.other_gang_in_flight = "";
  EXPECT_FALSE(scene.Decide().waits_for_turn);
  scene.Step();
  EXPECT_FALSE(scene.Decide().waits_for_turn) << "that of its second group waits for its own";
  for (int i = 0; i < 3; ++i) {
    for (const RemoveGate& remove : All<RemoveGate>(scene.Step())) {
      EXPECT_THAT(remove.pod, HasSubstr("-g0-"));
    }
  }
  EXPECT_EQ(scene.group(1).gang_since, absl::InfinitePast());
}

TEST(GangTest, RanksOfOneNodeAreBesideEachOther) {
  Scene scene = Ungated();
  const std::vector<std::string> nodes = {"b", "a", "b", "a"};
  for (int slot = 0; slot < 4; ++slot) {
    scene.pod(0, slot).node = nodes[static_cast<size_t>(slot)];
  }
  EXPECT_THAT(Describe(scene.Step()), ElementsAre("WriteStatus"));
  EXPECT_THAT(scene.group(0).slot_of_rank, ElementsAre(1, 3, 0, 2));
  const Plan plan = scene.Decide();
  ASSERT_THAT(All<StartGroup>(plan), SizeIs(1));
  EXPECT_THAT(All<StartGroup>(plan)[0].slot_of_rank, ElementsAre(1, 3, 0, 2));
}

TEST(GangTest, AGangThatIsNotScheduledInTimeIsDeletedWholeAndBacksOff) {
  Scene scene = Ungated();
  absl::Duration delay = absl::Minutes(1);
  for (int attempt = 1; attempt <= 6; ++attempt) {
    SCOPED_TRACE(absl::StrCat("attempt ", attempt));
    scene.pod(0, 0).node = "a";
    scene.pod(0, 1).unschedulable = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.";
    EXPECT_THAT(Describe(scene.Decide()), Each(Not(HasSubstr("DeletePod"))));
    // Said at once, not only when the time is over.
    EXPECT_THAT(All<Event>(scene.Step()),
                Contains(AllOf(Field(&Event::warning, true), Field(&Event::reason, "Unschedulable"),
                               Field(&Event::message, HasSubstr("1 of 4 pods have a node")))));
    EXPECT_EQ(scene.condition("GangScheduled").reason, "Unschedulable");
    EXPECT_THAT(All<Event>(scene.Step()), IsEmpty()) << "but once";
    scene.Advance(scene.spec().worker.gang_timeout + absl::Seconds(1));
    scene.Step();
    EXPECT_EQ(scene.group(0).gang_attempts, attempt);
    EXPECT_EQ(scene.condition("GangScheduled").reason, "BackingOff");
    EXPECT_THAT(scene.condition("GangScheduled").message, HasSubstr("Insufficient nvidia.com/gpu"));
    EXPECT_THAT(All<DeletePod>(scene.Step()), SizeIs(4));
    EXPECT_THAT(scene.observed.pods, IsEmpty());
    const Plan waits = scene.Step();
    EXPECT_THAT(All<CreatePod>(waits), IsEmpty());
    EXPECT_EQ(waits.requeue_after, delay);
    scene.Advance(delay);
    EXPECT_THAT(Describe(scene.Step()),
                Contains(absl::StrCat("CreatePod g0-s0-", attempt, " gated")));
    scene.Step();
    scene.Step();
    delay = std::min(2 * delay, absl::Minutes(10));
  }
}

TEST(GangTest, AGangWithoutRoomGivesItsTurnAwayIfAnotherDeploymentWaits) {
  struct Case {
    const char* name;
    bool unschedulable;
    bool wanted;
    absl::Duration timeout;
    absl::Duration given_up_after;
  };
  constexpr absl::Duration kTimeout = absl::Minutes(10);
  const std::vector<Case> cases = {
      {"another one waits", true, true, kTimeout, absl::Seconds(30)},
      {"nobody else waits", true, false, kTimeout, kTimeout},
      {"the scheduler is not done yet", false, true, kTimeout, kTimeout},
      {"its own timeout is shorter", true, true, absl::Seconds(6), absl::Seconds(6)},
  };
  for (const Case& test_case : cases) {
    SCOPED_TRACE(test_case.name);
    Scene scene = Ungated();
    scene.spec().worker.gang_timeout = test_case.timeout;
    if (test_case.unschedulable) {
      scene.pod(0, 1).unschedulable = "0/1 nodes are available";
    }
    scene.Step();
    scene.observed.gang_turn_wanted = test_case.wanted;
    const Plan waits = scene.Decide();
    EXPECT_EQ(waits.requeue_after, test_case.given_up_after + absl::Milliseconds(1));
    scene.Advance(test_case.given_up_after);
    scene.Step();
    EXPECT_EQ(scene.group(0).gang_attempts, 0);
    scene.Advance(absl::Milliseconds(1));
    scene.Step();
    EXPECT_EQ(scene.group(0).gang_attempts, 1);
    EXPECT_EQ(GangInFlight(scene.observed.deployment), std::nullopt);
    EXPECT_THAT(
        scene.condition("GangScheduled").message,
        HasSubstr("not scheduled within " + absl::FormatDuration(test_case.given_up_after)));
  }
}

TEST(GangTest, AMemberThatIsLostBeforeTheStartGivesUpTheGang) {
  struct Case {
    const char* name;
    void (*lose)(Scene*);
    const char* reason;
    const char* advice;
  };
  const std::vector<Case> cases = {
      {"it ended",
       [](Scene* scene) {
         scene->pod(0, 1).phase = ObservedPod::Phase::kFailed;
         scene->pod(0, 1).exit_code = 1;
       },
       "WorkerEnded", "status.lastFailure has what it said last"},
      {"it is being deleted", [](Scene* scene) { scene->pod(0, 1).terminating = true; },
       "BackingOff", "If there is no room for 4 pods"},
      {"it is gone", [](Scene* scene) { scene->Erase(scene->pod(0, 1).name); }, "BackingOff",
       "If there is no room for 4 pods"},
  };
  for (const Case& test_case : cases) {
    SCOPED_TRACE(test_case.name);
    Scene scene = Ungated();
    test_case.lose(&scene);
    scene.Step();
    EXPECT_EQ(scene.group(0).gang_attempts, 1);
    EXPECT_EQ(scene.condition("GangScheduled").reason, test_case.reason);
    EXPECT_THAT(scene.condition("GangScheduled").message, HasSubstr(test_case.advice));
    EXPECT_THAT(scene.group(0).incarnations, ElementsAre(1, 1, 1, 1));
    EXPECT_GE(All<DeletePod>(scene.Step()).size(), 3u);
  }
}

TEST(GangTest, AnErrorOfCreatingPodsIsShown) {
  Scene scene;
  scene.Step();
  scene.observed.last_create_error = "exceeded quota: gpus";
  const Plan plan = scene.Decide();
  EXPECT_THAT(All<Event>(plan),
              Contains(AllOf(Field(&Event::warning, true), Field(&Event::reason, "CreateFailed"),
                             Field(&Event::message, HasSubstr("exceeded quota: gpus")))));
  scene.Apply({{All<WriteStatus>(plan)[0]}});
  EXPECT_EQ(scene.condition("GangScheduled").reason, "CreateFailed");
  EXPECT_THAT(scene.condition("GangScheduled").message, HasSubstr("exceeded quota: gpus"));
}

TEST(SlotsTest, AWantedSlotIsClaimedAndThenCreatedWithoutAGate) {
  Scene scene = Serving();
  Lose(&scene, 2);
  EXPECT_THAT(Describe(scene.Step()), ElementsAre("WriteStatus"));
  EXPECT_THAT(scene.group(0).incarnations, ElementsAre(0, 0, 1, 0));
  EXPECT_THAT(Describe(scene.Step()), ElementsAre("CreatePod g0-s2-1"));
  EXPECT_THAT(Describe(scene.Step()), Not(Contains("CreatePod g0-s2-1"))) << "it exists";
  EXPECT_TRUE(scene.Settle());
  EXPECT_EQ(scene.num_active(), 1);
}

TEST(SlotsTest, ASlotThatIsNotWantedIsNotFilled) {
  Scene scene = Serving();
  Lose(&scene, 2);
  scene.running(0).wanted_slots = {};  // the coordinator backs off
  scene.Step();
  EXPECT_THAT(All<CreatePod>(scene.Step()), IsEmpty());
  EXPECT_THAT(scene.group(0).incarnations, ElementsAre(0, 0, 0, 0));
}

TEST(SlotsTest, APodThatIsStuckInTerminatingBlocksNothing) {
  Scene scene = Serving();
  scene.pod(0, 2).terminating = true;
  scene.running(0).phase = Phase::kRecovering;
  scene.running(0).wanted_slots = {2};
  scene.running(0).unwanted_pods = {{scene.pod(0, 2).uid, "it hangs"}};
  EXPECT_THAT(All<DeletePod>(scene.Step()), IsEmpty());
  EXPECT_THAT(Describe(scene.Step()), ElementsAre("CreatePod g0-s2-1"));
}

TEST(SlotsTest, APodThatCameAndWentIsNotMadeAgainUnderItsName) {
  Scene scene = Serving();
  Lose(&scene, 2);
  scene.Step();
  scene.Step();
  scene.running(0).used_incarnations[2] = 1;  // it was seen
  Lose(&scene, 2);
  scene.Step();
  EXPECT_THAT(Describe(scene.Step()), ElementsAre("CreatePod g0-s2-2"));
}

TEST(SlotsTest, APodThatEndedIsRecordedAndDeleted) {
  Scene scene = Serving();
  ObservedPod& pod = scene.pod(0, 3);
  pod.phase = ObservedPod::Phase::kFailed;
  pod.exit_code = 137;
  pod.exit_reason = "OOMKilled";
  pod.termination_message = std::string(5000, 'x') + "the end";
  const Plan plan = scene.Step();
  EXPECT_THAT(Describe(plan), ElementsAre("WriteStatus", "DeletePod demo-g0-s3-0"));
  ASSERT_TRUE(scene.status().last_failure.has_value());
  const api::FailureStatus& failure = *scene.status().last_failure;
  EXPECT_EQ(failure.pod, "demo-g0-s3-0");
  EXPECT_EQ(failure.rank, 3);
  EXPECT_EQ(failure.node, "node-0-1");
  EXPECT_EQ(failure.exit_code, 137);
  EXPECT_EQ(failure.reason, "OOMKilled");
  EXPECT_EQ(failure.last_log.size(), 2048u);
  EXPECT_THAT(failure.last_log, HasSubstr("the end"));
  EXPECT_EQ(All<Event>(plan)[0].reason, "WorkerFailed");
  EXPECT_THAT(All<CreatePod>(scene.Step()), IsEmpty()) << "the coordinator did not ask";
}

TEST(SlotsTest, APodThatTheCoordinatorGaveUpIsDeletedByItsUid) {
  Scene scene = Serving();
  scene.running(0).unwanted_pods = {{scene.pod(0, 1).uid, ""}};
  const std::vector<DeletePod> deleted = All<DeletePod>(scene.Decide());
  ASSERT_THAT(deleted, SizeIs(1));
  EXPECT_EQ(deleted[0].uid, scene.pod(0, 1).uid);
}

TEST(SlotsTest, TheLastFailureNamesThePodThatWasLostWhateverBecameOfItsProcess) {
  struct Case {
    const char* name;
    void (*lose)(Scene*, ObservedPod*);
    const char* reason;  // empty: an earlier failure is kept
    const char* last_log;
  };
  const std::vector<Case> cases = {
      {"it ended",
       [](Scene*, ObservedPod* pod) {
         pod->phase = ObservedPod::Phase::kFailed;
         pod->exit_code = 1;
         pod->termination_message = "last words";
       },
       "Error", "last words"},
      {"it hangs",
       [](Scene* scene, ObservedPod* pod) {
         scene->running(0).unwanted_pods = {{pod->uid, "it sent no heartbeat for 10s"}};
       },
       "GivenUp", "it sent no heartbeat for 10s"},
      {"it ended while it was given up",
       [](Scene* scene, ObservedPod* pod) {
         scene->running(0).unwanted_pods = {{pod->uid, "it sent no heartbeat for 10s"}};
         pod->phase = ObservedPod::Phase::kFailed;
         pod->exit_reason = "OOMKilled";
       },
       "OOMKilled", ""},
      {"a newer pod has replaced it",
       [](Scene* scene, ObservedPod* pod) { scene->running(0).unwanted_pods = {{pod->uid, ""}}; },
       "", ""},
      {"it is being deleted already",
       [](Scene* scene, ObservedPod* pod) {
         scene->running(0).unwanted_pods = {{pod->uid, "it sent no heartbeat for 10s"}};
         pod->terminating = true;
       },
       "", ""},
  };
  for (const Case& test_case : cases) {
    SCOPED_TRACE(test_case.name);
    Scene scene = Serving();
    scene.status().last_failure.emplace().pod = "demo-g0-s0-earlier";
    ObservedPod& pod = scene.pod(0, 1);
    const std::string name = pod.name;
    test_case.lose(&scene, &pod);
    const Plan plan = scene.Step();
    const api::FailureStatus& failure = *scene.status().last_failure;
    if (std::string(test_case.reason).empty()) {
      EXPECT_EQ(failure.pod, "demo-g0-s0-earlier");
      continue;
    }
    EXPECT_EQ(failure.pod, name);
    EXPECT_EQ(failure.slot, 1);
    EXPECT_EQ(failure.rank, 1);
    EXPECT_EQ(failure.reason, test_case.reason);
    EXPECT_EQ(failure.last_log, test_case.last_log);
    EXPECT_EQ(failure.exit_code.has_value(), std::string(test_case.name) == "it ended");
    ASSERT_THAT(All<Event>(plan), Not(IsEmpty()));
    EXPECT_THAT(All<Event>(plan)[0].message, HasSubstr(name));
  }
}

TEST(SlotsTest, ANodeWhereTwoWorkersLostTheirGpuIsAvoidedForADay) {
  Scene scene = Serving();
  const auto lose = [&scene](int slot, std::optional<int> exit_code) {
    ObservedPod& pod = scene.pod(0, slot);
    pod.phase = ObservedPod::Phase::kFailed;
    pod.exit_code = exit_code;
    return scene.Step();
  };
  const auto reasons = [](const Plan& plan) {
    std::vector<std::string> names;
    for (const Event& event : All<Event>(plan)) {
      names.push_back(event.reason);
    }
    return names;
  };
  ASSERT_EQ(scene.pod(0, 2).node, scene.pod(0, 3).node);
  ASSERT_NE(scene.pod(0, 0).node, scene.pod(0, 2).node);
  const std::string node = scene.pod(0, 2).node;
  lose(0, 1);
  EXPECT_THAT(scene.status().gpu_failures, IsEmpty()) << "an error of another kind";
  lose(1, runtime::kGpuLostExitCode);
  lose(2, runtime::kGpuLostExitCode);
  scene.Step();
  EXPECT_THAT(scene.status().gpu_failures, SizeIs(2)) << "each pod counts once";
  EXPECT_THAT(api::NodesToAvoid(scene.status()), IsEmpty());
  scene.Advance(absl::Hours(23));
  EXPECT_THAT(reasons(lose(3, runtime::kGpuLostExitCode)), Contains("NodeAvoided"));
  EXPECT_THAT(api::NodesToAvoid(scene.status()), ElementsAre(node));
  EXPECT_THAT(reasons(scene.Step()), Not(Contains("NodeAvoided"))) << "said once";
  scene.Advance(absl::Hours(2));
  scene.Step();
  EXPECT_THAT(api::NodesToAvoid(scene.status()), IsEmpty());
  EXPECT_THAT(scene.status().gpu_failures, SizeIs(1));
}

TEST(SlotsTest, AReplacementWithoutANodeGivesUpTheGroupAfterTheGangTimeout) {
  Scene scene = Serving();
  Lose(&scene, 2);
  scene.Step();
  scene.Step();
  EXPECT_EQ(scene.Step().requeue_after, scene.spec().worker.gang_timeout + absl::Milliseconds(1));
  EXPECT_EQ(scene.condition("GangScheduled").reason, "ReplacementPending");
  scene.Advance(scene.spec().worker.gang_timeout + absl::Seconds(1));
  scene.Step();
  EXPECT_THAT(scene.group(0).slot_of_rank, IsEmpty());
  const Plan plan = scene.Step();
  EXPECT_THAT(Describe(plan), Contains("StopGroup 0"));
  EXPECT_THAT(All<DeletePod>(plan), SizeIs(4));
  scene.Advance(absl::Minutes(2));
  EXPECT_TRUE(scene.Settle());
  EXPECT_EQ(scene.num_active(), 1);
}

TEST(StrangersTest, PodsThatNobodyClaimedAreDeleted) {
  struct Case {
    const char* name;
    int group, slot, incarnation;
    const char* revision;  // nullptr: that of the group
  };
  const std::vector<Case> cases = {
      {"an earlier incarnation, made late by another controller", 0, 1, 0, nullptr},
      {"a slot that the group does not have", 0, 9, 0, nullptr},
      {"another revision", 0, 1, 1, "other"},
      {"a group that was removed", 5, 0, 0, nullptr},
  };
  for (const Case& test_case : cases) {
    SCOPED_TRACE(test_case.name);
    Scene scene = Serving();
    Lose(&scene, 1);
    ASSERT_TRUE(scene.Settle());
    scene.status().next_incarnation = 1;
    ObservedPod stranger = scene.pod(0, 0);
    stranger.name = "stranger";
    stranger.uid = "uid-stranger";
    stranger.group = test_case.group;
    stranger.slot = test_case.slot;
    stranger.incarnation = test_case.incarnation;
    if (test_case.revision != nullptr) {
      stranger.revision = test_case.revision;
    }
    scene.observed.pods.push_back(stranger);
    const std::vector<DeletePod> deleted = All<DeletePod>(scene.Decide());
    ASSERT_THAT(deleted, SizeIs(1));
    EXPECT_EQ(deleted[0].uid, "uid-stranger");
    scene.observed.pods.back().terminating = true;
    EXPECT_THAT(scene.Decide().actions, IsEmpty());
  }
}

TEST(StrangersTest, APodThatIsNewerThanTheStatusIsClaimedAboveBeforeItIsDeleted) {
  for (const int group : {0, 5}) {
    SCOPED_TRACE(absl::StrCat("group ", group));
    Scene scene = Serving();
    ObservedPod stranger = scene.pod(0, 1);
    stranger.name = "stranger";
    stranger.uid = "uid-stranger";
    stranger.group = group;
    stranger.incarnation = 7;
    scene.observed.pods.push_back(stranger);
    // Another controller may have claimed it in a status that was not seen yet; then this
    // conflicts.
    EXPECT_THAT(Describe(scene.Step()), ElementsAre("WriteStatus"));
    EXPECT_THAT(Describe(scene.Decide()), Contains("DeletePod stranger"));
  }
}

}  // namespace
}  // namespace moe::reconcile
