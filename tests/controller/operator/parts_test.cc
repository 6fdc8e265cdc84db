// The small parts of the operator: who leads, whose turn it is, what was applied, the authority,
// and what is measured.
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "controller/kube/resource_types.h"
#include "controller/manifests/names.h"
#include "controller/operator/applied_children.h"
#include "controller/operator/ca_store.h"
#include "controller/operator/gang_arbiter.h"
#include "controller/operator/group_options.h"
#include "controller/operator/leader_identity.h"
#include "controller/operator/operator_metrics.h"
#include "controller/operator/recovery.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "prometheus/text_serializer.h"
#include "tests/controller/kube/fake_api.h"

namespace moe::controller {
namespace {

using coordinator::v1::GroupState;
using kube::Json;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(LeaderIdentityTest, TheAddressIsFoundInTheIdentity) {
  EXPECT_EQ(LeaderAddress(LeaderIdentity("moe-operator-1", "10.0.0.7"), 7700), "10.0.0.7:7700");
  EXPECT_EQ(LeaderAddress(LeaderIdentity("moe-operator-1", "fd00::7"), 7700), "[fd00::7]:7700");
  for (const char* identity : {"", "somebody", "a_b", "a_", "_", "a_10.0.0", "a_10.0.0.7:1"}) {
    EXPECT_EQ(LeaderAddress(identity, 7700), "") << identity;
  }
}

TEST(GangArbiterTest, OneDeploymentsGangIsInFlightAtATime) {
  GangArbiter gangs;
  const kube::ObjectKey a{"models", "a"};
  const kube::ObjectKey b{"models", "b"};
  EXPECT_EQ(gangs.OtherInFlight(b), "");
  EXPECT_TRUE(gangs.TryStart(a, 2));
  EXPECT_EQ(gangs.OtherInFlight(b), "models/a/2");
  EXPECT_EQ(gangs.OtherInFlight(a), "") << "its own is no other's";
  EXPECT_FALSE(gangs.TryStart(b, 0));
  EXPECT_TRUE(gangs.TryStart(a, 3)) << "its own turn";
  EXPECT_FALSE(gangs.Observe(b, std::nullopt)) << "it had none";
  EXPECT_TRUE(gangs.Observe(a, std::nullopt)) << "its turn has ended";
  EXPECT_FALSE(gangs.Observe(a, std::nullopt));
  EXPECT_TRUE(gangs.TryStart(b, 0));
}

TEST(GangArbiterTest, KnowsWhetherOthersWait) {
  GangArbiter gangs;
  const kube::ObjectKey a{"models", "a"};
  const kube::ObjectKey b{"models", "b"};
  EXPECT_FALSE(gangs.OthersWait(a));
  EXPECT_TRUE(gangs.SetWaiting(b, true)) << "it has begun to wait";
  EXPECT_FALSE(gangs.SetWaiting(b, true)) << "it waits still";
  EXPECT_TRUE(gangs.OthersWait(a));
  EXPECT_FALSE(gangs.OthersWait(b)) << "it does not wait for itself";
  EXPECT_FALSE(gangs.SetWaiting(b, false));
  EXPECT_FALSE(gangs.OthersWait(a));
  gangs.SetWaiting(b, true);
  gangs.Clear();
  EXPECT_FALSE(gangs.OthersWait(a));
}

TEST(GangArbiterTest, AGangOfAnEarlierControllerKeepsItsTurn) {
  GangArbiter gangs;
  gangs.Observe({"models", "a"}, 1);
  EXPECT_FALSE(gangs.TryStart({"models", "b"}, 0));
  gangs.Clear();
  EXPECT_TRUE(gangs.TryStart({"models", "b"}, 0));
}

TEST(GroupOptionsTest, AreTheRevisions) {
  api::RevisionStatus revision;
  revision.name = "r1";
  revision.num_slots = 4;
  revision.num_layers = 3;
  revision.num_experts = 8;
  revision.attention_ranks = 2;
  revision.engine.max_sequences = 9;
  revision.engine.kv_cache_bytes = 1000;
  const auto group = MakeGroupOptions(revision, 6);
  ASSERT_TRUE(group.ok());
  EXPECT_EQ(group->placement.num_slots, 4);
  EXPECT_EQ(group->placement.num_experts(), 8);
  EXPECT_EQ(group->num_layers, 3);
  EXPECT_EQ(group->num_attention_ranks, 2);
  EXPECT_EQ(group->exchange, coordinator::v1::EXCHANGE_TCP);
  EXPECT_TRUE(group->retry_unknown_workers) << "a pod may connect before it is observed";
  EXPECT_EQ(group->limits.max_sequences(), 9u);
  EXPECT_EQ(group->limits.kv_bytes(), 1000u);
  EXPECT_EQ(group->limits.attention_threads(), 6u);
  revision.backend = api::Backend::kCuda;
  EXPECT_EQ(MakeGroupOptions(revision, 6)->exchange, coordinator::v1::EXCHANGE_NCCL);

  revision.attention_ranks = 5;
  EXPECT_EQ(MakeGroupOptions(revision, 1).status().code(), absl::StatusCode::kInvalidArgument);
  revision.attention_ranks = 1;
  revision.num_slots = 9;
  EXPECT_EQ(MakeGroupOptions(revision, 1).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(MakeGroupOptions({}, 1).ok());
}

class AppliedChildrenTest : public ::testing::Test {
 protected:
  AppliedChildrenTest() {
    child_.type = kube::kServices;
    child_.object = Json::parse(R"({"metadata": {"namespace": "models", "name": "olmoe-gateway",
        "annotations": {"moe-operator.dev/content-hash": "h1"}}})");
    live_ = child_.object;
    live_["metadata"]["uid"] = "u1";
    live_["metadata"]["generation"] = 4;
  }
  AppliedChildren::Difference Compare(absl::Duration later = absl::ZeroDuration()) const {
    std::vector<AppliedChildren::Live> owned;
    if (!live_.is_null()) owned.push_back({child_.type, std::make_shared<const Json>(live_)});
    std::vector<manifests::Child> desired;
    if (wanted_) desired.push_back(child_);
    return applied_.Compare(
        desired,
        [this](const kube::ResourceType&, const kube::ObjectKey&) {
          return live_.is_null() ? nullptr : std::make_shared<const Json>(live_);
        },
        owned, now_ + later);
  }

  const absl::Time now_ = absl::UnixEpoch();
  manifests::Child child_;
  Json live_;
  bool wanted_ = true;
  AppliedChildren applied_;
};

TEST_F(AppliedChildrenTest, WhatThisProcessDidNotApplyIsApplied) {
  EXPECT_EQ(Compare().apply.size(), 1u);
  applied_.OnApplied(child_, live_, now_);
  EXPECT_TRUE(Compare().empty());
  EXPECT_TRUE(Compare(absl::Hours(1)).empty());
  applied_.Clear();
  EXPECT_EQ(Compare().apply.size(), 1u);
}

TEST_F(AppliedChildrenTest, WhatIsAnotherByNowIsAppliedAgain) {
  applied_.OnApplied(child_, live_, now_);
  const Json applied = live_;
  child_.object["metadata"]["annotations"]["moe-operator.dev/content-hash"] = "h2";
  EXPECT_EQ(Compare().apply.size(), 1u) << "the manifest changed";
  child_.object["metadata"]["annotations"]["moe-operator.dev/content-hash"] = "h1";
  live_["metadata"]["generation"] = 5;
  EXPECT_EQ(Compare().apply.size(), 1u) << "somebody edited it";
  live_ = applied;
  live_["metadata"]["annotations"]["moe-operator.dev/content-hash"] = "h0";
  EXPECT_TRUE(Compare().empty()) << "the cache may be behind";
  EXPECT_EQ(Compare(absl::Minutes(1)).apply.size(), 1u) << "a controller before us applied its own";
  live_ = Json();
  EXPECT_TRUE(Compare().empty()) << "the cache may be behind";
  EXPECT_EQ(Compare(absl::Minutes(1)).apply.size(), 1u) << "somebody deleted it";
}

TEST_F(AppliedChildrenTest, WhatIsNotWantedIsRemovedOnce) {
  wanted_ = false;
  ASSERT_EQ(Compare().remove.size(), 1u);
  EXPECT_EQ(Compare().remove[0].uid, "u1");
  live_["metadata"]["deletionTimestamp"] = "2026-11-28T10:00:00Z";
  EXPECT_TRUE(Compare().empty());
}

TEST(CaStoreTest, WhoComesSecondReadsWhatTheFirstMade) {
  kube::testing::FakeObjects objects;
  kube::testing::FakeApi api(objects);
  const auto first = ReadOrCreateCa(&api, "moe-system", absl::Now());
  ASSERT_TRUE(first.ok()) << first.status();
  const auto second = ReadOrCreateCa(&api, "moe-system", absl::Now());
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ((*first)->certificate_pem(), (*second)->certificate_pem());
  EXPECT_EQ((*first)->key_pem().value(), (*second)->key_pem().value());
}

TEST(CaStoreTest, TwoThatComeAtOnceEndWithOneAuthority) {
  kube::testing::FakeObjects objects;
  kube::testing::FakeApi api(objects);
  kube::testing::FakeApi other(objects);
  std::string others;
  api.SetBefore([&](const std::string& verb, const kube::ResourceType&) {
    if (verb == "create" && others.empty()) {
      const auto authority = ReadOrCreateCa(&other, "moe-system", absl::Now());
      others = authority.ok() ? (*authority)->certificate_pem() : "none";
    }
    return absl::OkStatus();
  });
  const auto authority = ReadOrCreateCa(&api, "moe-system", absl::Now());
  ASSERT_TRUE(authority.ok()) << authority.status();
  EXPECT_EQ((*authority)->certificate_pem(), others);
}

TEST(CaStoreTest, ASecretOfAnotherFormIsAnErrorThatShowsNothingOfIt) {
  kube::testing::FakeObjects objects;
  kube::testing::FakeApi api(objects);
  for (const char* data : {R"({})", R"({"ca.crt": "aGVsbG8=", "ca.key": "c2VjcmV0"})",
                           R"({"ca.crt": "aGVsbG8="})", R"({"ca.crt": "???", "ca.key": 3})"}) {
    Json secret =
        Json::parse(R"({"metadata": {"namespace": "moe-system", "name": "moe-operator-ca"}})");
    secret["data"] = Json::parse(data);
    objects.Put(kube::kSecrets, secret);
    const auto authority = ReadOrCreateCa(&api, "moe-system", absl::Now());
    EXPECT_EQ(authority.status().code(), absl::StatusCode::kDataLoss) << data;
    EXPECT_THAT(std::string(authority.status().message()), Not(HasSubstr("secret")));
  }
}

GroupState State(GroupState::Phase phase, uint64_t epoch, int num_present, int num_loaded) {
  GroupState state;
  state.set_phase(phase);
  state.set_epoch(epoch);
  for (int i = 0; i < 2; ++i) {
    GroupState::Worker* worker = state.add_workers();
    if (i < num_present) worker->set_host("h");
    if (i < num_loaded) worker->set_loaded_bytes(1);
  }
  return state;
}

std::string Describe(const std::vector<RecoveryTime>& times) {
  std::string text;
  for (const RecoveryTime& time : times) {
    text +=
        std::string(RecoveryPhaseName(time.phase)) + " " + absl::FormatDuration(time.took) + ";";
  }
  return text;
}

TEST(RecoveryTest, TakesTheTimeOfEachPart) {
  RecoveryTracker tracker;
  const auto at = [](int seconds) { return absl::UnixEpoch() + absl::Seconds(seconds); };
  EXPECT_EQ(Describe(tracker.OnState(State(GroupState::LOADING, 0, 2, 0), at(0))), "");
  EXPECT_EQ(Describe(tracker.OnState(State(GroupState::ACTIVE, 1, 2, 2), at(5))), "")
      << "the first start is no recovery";
  EXPECT_EQ(Describe(tracker.OnState(State(GroupState::RECOVERING, 0, 1, 1), at(10))), "");
  EXPECT_EQ(Describe(tracker.OnState(State(GroupState::RECOVERING, 0, 2, 1), at(13))),
            "replace 3s;");
  EXPECT_EQ(Describe(tracker.OnState(State(GroupState::RECOVERING, 0, 2, 2), at(14))), "load 1s;");
  EXPECT_EQ(Describe(tracker.OnState(State(GroupState::ACTIVE, 2, 2, 2), at(16))), "join 2s;");
  EXPECT_EQ(tracker.num_epochs(), 2u);
}

TEST(RecoveryTest, StatesThatWereSkippedTakeNoTime) {
  RecoveryTracker tracker;
  tracker.OnState(State(GroupState::ACTIVE, 1, 2, 2), absl::UnixEpoch());
  EXPECT_EQ(Describe(tracker.OnState(State(GroupState::ACTIVE, 3, 2, 2), absl::UnixEpoch())),
            "replace 0;load 0;join 0;");
  EXPECT_EQ(Describe(tracker.OnState(State(GroupState::ACTIVE, 3, 2, 2), absl::UnixEpoch())), "");
}

TEST(RecoveryTest, AGroupThatFailsDoesNotRecover) {
  RecoveryTracker tracker;
  tracker.OnState(State(GroupState::ACTIVE, 1, 2, 2), absl::UnixEpoch());
  tracker.OnState(State(GroupState::RECOVERING, 0, 1, 1), absl::UnixEpoch());
  EXPECT_EQ(Describe(tracker.OnState(State(GroupState::FAILED, 0, 1, 1), absl::UnixEpoch())), "");
  EXPECT_EQ(Describe(tracker.OnState(State(GroupState::FAILED, 0, 2, 2), absl::UnixEpoch())), "");
}

std::string Text(const OperatorMetrics& metrics) {
  return prometheus::TextSerializer().Serialize(metrics.Collect());
}

TEST(OperatorMetricsTest, EverySeriesIsThereFromTheStart) {
  OperatorMetrics metrics;
  for (const char* series :
       {"moe_controller_reconcile_seconds_count{result=\"ok\"} 0",
        "moe_controller_work_queue_depth 0", "moe_controller_watch_restarts_total 0",
        "moe_controller_epochs_total 0",
        "moe_controller_recovery_seconds_count{phase=\"detect\"} 0",
        "moe_controller_recovery_seconds_count{phase=\"join\"} 0", "moe_controller_leader 0"}) {
    EXPECT_THAT(Text(metrics), HasSubstr(series));
  }
}

TEST(OperatorMetricsTest, CountsWhatHappens) {
  OperatorMetrics metrics;
  int64_t restarts = 3;
  metrics.SetSources({.queue_depth = [] { return size_t{7}; },
                      .num_watch_restarts = [&restarts] { return restarts; }});
  kube::testing::FakeObjects objects;
  kube::testing::FakeApi fake(objects);
  CountingApi api(&fake, &metrics);
  EXPECT_FALSE(api.Get(kube::kPods, {"models", "a"}).ok());
  EXPECT_FALSE(api.Delete(kube::kPods, {"models", "a"}, {}).ok());
  metrics.CountEpoch();
  metrics.SetLeader(true);
  metrics.CountReconcile(absl::Milliseconds(3), false);
  metrics.AddRecovery(RecoveryPhase::kLoad, absl::Seconds(4));
  metrics.SetReady({"models", "olmoe"}, true);
  std::string text = Text(metrics);
  EXPECT_THAT(text, HasSubstr("moe_controller_work_queue_depth 7"));
  EXPECT_THAT(text, HasSubstr("moe_controller_watch_restarts_total 3"));
  EXPECT_THAT(text, HasSubstr("moe_controller_api_requests_total{verb=\"get\"} 1"));
  EXPECT_THAT(text, HasSubstr("moe_controller_api_requests_total{verb=\"delete\"} 1"));
  EXPECT_THAT(text, HasSubstr("moe_controller_epochs_total 1"));
  EXPECT_THAT(text, HasSubstr("moe_controller_leader 1"));
  EXPECT_THAT(text, HasSubstr("moe_controller_reconcile_seconds_count{result=\"error\"} 1"));
  EXPECT_THAT(text, HasSubstr("moe_controller_recovery_seconds_sum{phase=\"load\"} 4"));
  EXPECT_THAT(text, HasSubstr("moe_deployment_ready{deployment=\"olmoe\",namespace=\"models\"} 1"));
  restarts = 5;
  metrics.Forget({"models", "olmoe"});
  text = Text(metrics);
  EXPECT_THAT(text, HasSubstr("moe_controller_watch_restarts_total 5"));
  EXPECT_THAT(text, Not(HasSubstr("olmoe")));
}

}  // namespace
}  // namespace moe::controller
