#include "controller/operator/status_pace.h"

#include <string>
#include <variant>
#include <vector>

#include "gtest/gtest.h"

namespace moe::controller {
namespace {

const absl::Time kNow = absl::FromUnixSeconds(1000);

api::MoEDeploymentStatus SampleStatus() {
  api::MoEDeploymentStatus status;
  status.term = 3;
  status.workers = "10/64";
  api::GroupStatus group;
  group.phase = "Scheduling";
  group.reason = "3 of 64 pods have a node";
  group.incarnations = {0, 0};
  group.ranks.emplace_back().phase = "Loading";
  status.groups.push_back(group);
  api::Condition& condition = status.conditions.emplace_back();
  condition.type = "Ready";
  condition.status = "False";
  condition.reason = "Loading";
  return status;
}

TEST(StatusPaceTest, WhatCountsAndDescribesIsProgress) {
  api::MoEDeploymentStatus after = SampleStatus();
  after.workers = "11/64";
  after.progress_at = kNow;
  after.groups[0].reason = "4 of 64 pods have a node";
  after.groups[0].ranks[0].phase = "Joining";
  after.conditions[0].message = "4 of 64 workers have loaded their weights";
  EXPECT_TRUE(DifferInProgressAlone(SampleStatus(), after));
}

TEST(StatusPaceTest, EveryTurnIsMore) {
  struct Case {
    std::string name;
    void (*change)(api::MoEDeploymentStatus*);
  };
  const std::vector<Case> cases = {
      {"a term is claimed", [](auto* status) { ++status->term; }},
      {"an incarnation is claimed", [](auto* status) { ++status->groups[0].incarnations[1]; }},
      {"ranks are given", [](auto* status) { status->groups[0].slot_of_rank = {1, 0}; }},
      {"an epoch is claimed", [](auto* status) { ++status->groups[0].epoch; }},
      {"a group changes its phase", [](auto* status) { status->groups[0].phase = "Starting"; }},
      {"a gang takes its turn", [](auto* status) { status->groups[0].gang_since = kNow; }},
      {"a group is added", [](auto* status) { status->groups.emplace_back(); }},
      {"a condition turns", [](auto* status) { status->conditions[0].status = "True"; }},
      {"a reason turns", [](auto* status) { status->conditions[0].reason = "Connecting"; }},
      {"a generation is seen", [](auto* status) { status->observed_generation = 2; }},
      {"a pod has failed", [](auto* status) { status->last_failure.emplace(); }},
  };
  for (const Case& test : cases) {
    api::MoEDeploymentStatus after = SampleStatus();
    test.change(&after);
    EXPECT_FALSE(DifferInProgressAlone(SampleStatus(), after)) << test.name;
  }
}

TEST(StatusPaceTest, ProgressIsHeldBackForASecondAndTheRestOfThePlanIsNot) {
  api::MoEDeploymentStatus after = SampleStatus();
  after.workers = "11/64";
  reconcile::Plan plan;
  plan.actions = {reconcile::WriteStatus{after}, reconcile::RemoveGate{"pod", "uid"}};
  EXPECT_EQ(HoldBackProgress(SampleStatus(), kNow - absl::Milliseconds(300), kNow, &plan),
            absl::Milliseconds(700));
  ASSERT_EQ(plan.actions.size(), 1u);
  EXPECT_TRUE(std::holds_alternative<reconcile::RemoveGate>(plan.actions[0]));
  // Nothing is left that could be.
  EXPECT_EQ(HoldBackProgress(SampleStatus(), kNow, kNow, &plan), absl::InfiniteDuration());
}

TEST(StatusPaceTest, ProgressIsWrittenWhenTheLastStatusIsOldEnough) {
  api::MoEDeploymentStatus after = SampleStatus();
  after.workers = "11/64";
  for (const absl::Time last : {absl::InfinitePast(), kNow - kProgressInterval}) {
    reconcile::Plan plan;
    plan.actions = {reconcile::WriteStatus{after}};
    EXPECT_EQ(HoldBackProgress(SampleStatus(), last, kNow, &plan), absl::InfiniteDuration());
    EXPECT_EQ(plan.actions.size(), 1u);
  }
}

TEST(StatusPaceTest, ATurnIsNeverHeldBack) {
  api::MoEDeploymentStatus after = SampleStatus();
  after.groups[0].phase = "Starting";
  reconcile::Plan plan;
  plan.actions = {reconcile::WriteStatus{after}};
  EXPECT_EQ(HoldBackProgress(SampleStatus(), kNow, kNow, &plan), absl::InfiniteDuration());
  EXPECT_EQ(plan.actions.size(), 1u);
}

}  // namespace
}  // namespace moe::controller
