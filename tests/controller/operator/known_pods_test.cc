#include "controller/operator/known_pods.h"

#include <memory>

#include "controller/kube/api.h"
#include "gtest/gtest.h"

namespace moe::controller {
namespace {

using kube::Json;

JsonPtr Worker() {
  return std::make_shared<const Json>(Json::parse(R"({
    "metadata": {"name": "a-g0-s3-1", "uid": "u", "deletionTimestamp": "2026-11-28T16:05:00Z",
                 "labels": {"app.kubernetes.io/component": "worker", "moe-operator.dev/group": "0",
                            "moe-operator.dev/slot": "3"},
                 "annotations": {"moe-operator.dev/incarnation": "1"},
                 "ownerReferences": [{"uid": "other"}, {"uid": "owner", "controller": true}]},
    "status": {"phase": "Failed"}})"));
}

TEST(KnownPodsTest, ReadsWhatReconcilingAsks) {
  KnownPods known;
  const JsonPtr object = Worker();
  const KnownPod& pod = known.Of(object);
  EXPECT_EQ(pod.object, object);
  EXPECT_EQ(pod.name, "a-g0-s3-1");
  EXPECT_EQ(pod.uid, "u");
  EXPECT_EQ(pod.component, "worker");
  EXPECT_EQ(pod.controller_uid, "owner");
  EXPECT_TRUE(pod.terminating);
  EXPECT_TRUE(pod.ended);
  ASSERT_TRUE(pod.worker.has_value());
  EXPECT_EQ(pod.worker->slot, 3);
}

TEST(KnownPodsTest, AnObjectThatIsNoPodOfOursHasNothing) {
  KnownPods known;
  const KnownPod& pod = known.Of(std::make_shared<const Json>(Json{{"metadata", 3}}));
  EXPECT_EQ(pod.name, "");
  EXPECT_EQ(pod.controller_uid, "");
  EXPECT_FALSE(pod.terminating);
  EXPECT_FALSE(pod.ended);
  EXPECT_FALSE(pod.worker.has_value());
}

TEST(KnownPodsTest, EachVersionIsReadOnceAndForgottenWhenNobodyAsks) {
  KnownPods known;
  const JsonPtr first = Worker();
  const KnownPod* pod = &known.Of(first);
  EXPECT_EQ(&known.Of(first), pod);
  EXPECT_EQ(known.size(), 1u);
  known.Sweep();
  EXPECT_EQ(&known.Of(first), pod) << "it was asked for in the round before";
  known.Of(Worker());
  EXPECT_EQ(known.size(), 2u) << "another version";
  known.Sweep();
  known.Of(first);
  known.Sweep();
  EXPECT_EQ(known.size(), 1u);
  known.Sweep();
  EXPECT_EQ(known.size(), 0u);
}

}  // namespace
}  // namespace moe::controller
