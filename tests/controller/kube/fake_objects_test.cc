// The fake is worth what it refuses: the rules of a real API server that the controller builds on.
#include "tests/controller/kube/fake_objects.h"

#include <string>

#include "controller/kube/resource_types.h"
#include "gtest/gtest.h"

namespace moe::kube::testing {
namespace {

using Part = FakeObjects::Part;

const ObjectKey kKey{.ns = "n", .name = "a"};

Json Object(const ResourceType& type, const std::string& name) {
  return {{"apiVersion", type.ApiVersion()},
          {"kind", type.kind},
          {"metadata", {{"namespace", "n"}, {"name", name}}},
          {"spec", {{"x", 1}}}};
}

Json OwnedBy(Json object, const Json& owner) {
  object["metadata"]["ownerReferences"] = {
      {{"uid", owner["metadata"]["uid"]}, {"kind", owner["kind"]}, {"controller", true}}};
  return object;
}

TEST(FakeObjectsTest, ACreateSetsWhatTheServerOwns) {
  FakeObjects objects;
  Json sent = Object(kMoeDeployments, "a");
  sent["status"] = {{"term", 9}};
  const Json made = objects.Create(kMoeDeployments, "n", sent).body;
  EXPECT_FALSE(MetaString(made, "uid").empty());
  EXPECT_FALSE(MetaString(made, "resourceVersion").empty());
  EXPECT_EQ(made["metadata"]["generation"], 1);
  EXPECT_FALSE(made.contains("status"));
  EXPECT_EQ(objects.Create(kMoeDeployments, "n", sent).code, 409);
  Json other_kind = Object(kPods, "b");
  EXPECT_EQ(objects.Create(kServices, "n", other_kind).code, 400);
}

TEST(FakeObjectsTest, ADryRunLeavesNothing) {
  FakeObjects objects;
  EXPECT_EQ(objects.Create(kPods, "n", Object(kPods, "a"), /*dry_run=*/true).code, 201);
  EXPECT_EQ(objects.Get(kPods, kKey).code, 404);
}

TEST(FakeObjectsTest, AnUpdateNeedsThePresentVersion) {
  FakeObjects objects;
  Json first = objects.Create(kMoeDeployments, "n", Object(kMoeDeployments, "a")).body;
  Json second = first;
  second["spec"]["x"] = 2;
  const FakeAnswer updated = objects.Replace(kMoeDeployments, kKey, second, Part::kAll);
  EXPECT_EQ(updated.code, 200);
  EXPECT_EQ(updated.body["metadata"]["generation"], 2);
  EXPECT_EQ(objects.Replace(kMoeDeployments, kKey, second, Part::kAll).code, 409);
  second["metadata"].erase("resourceVersion");
  EXPECT_EQ(objects.Replace(kMoeDeployments, kKey, second, Part::kAll).code, 422);
}

TEST(FakeObjectsTest, StatusAndSpecAreWrittenApart) {
  FakeObjects objects;
  Json object = objects.Create(kMoeDeployments, "n", Object(kMoeDeployments, "a")).body;
  object["spec"]["x"] = 7;
  object["status"] = {{"term", 1}};
  object = objects.Replace(kMoeDeployments, kKey, object, Part::kStatus).body;
  EXPECT_EQ(object["spec"]["x"], 1);
  EXPECT_EQ(object["status"]["term"], 1);
  EXPECT_EQ(object["metadata"]["generation"], 1);
  object["spec"]["x"] = 7;
  object["status"]["term"] = 5;
  object = objects.Replace(kMoeDeployments, kKey, object, Part::kAll).body;
  EXPECT_EQ(object["spec"]["x"], 7);
  EXPECT_EQ(object["status"]["term"], 1);
}

TEST(FakeObjectsTest, AWriteThatChangesNothingMakesNoVersion) {
  FakeObjects objects;
  const Json object = objects.Create(kConfigMaps, "n", Object(kConfigMaps, "a")).body;
  const int64_t version = objects.version();
  EXPECT_EQ(objects.Replace(kConfigMaps, kKey, object, Part::kAll).code, 200);
  EXPECT_EQ(objects.version(), version);
}

TEST(FakeObjectsTest, ApplyMergesAndTakesBackWhatItsManagerNoLongerSays) {
  FakeObjects objects;
  Json applied = Object(kServices, "a");
  applied["spec"] = {{"x", 1}, {"y", 2}};
  EXPECT_EQ(objects.Apply(kServices, kKey, applied, "m").code, 201);
  objects.Edit(kServices, kKey, [](Json& object) { object["spec"]["z"] = 3; });
  applied["spec"] = {{"x", 4}};
  const FakeAnswer second = objects.Apply(kServices, kKey, applied, "m");
  EXPECT_EQ(second.code, 200);
  EXPECT_EQ(second.body["spec"], Json({{"x", 4}, {"z", 3}}));
  EXPECT_EQ(second.body["metadata"]["managedFields"][0]["manager"], "m");
  const int64_t version = objects.version();
  objects.Apply(kServices, kKey, applied, "m");
  EXPECT_EQ(objects.version(), version);
  // A version makes it fence.
  applied["metadata"]["resourceVersion"] = "1";
  EXPECT_EQ(objects.Apply(kServices, kKey, applied, "m").code, 409);
  EXPECT_EQ(objects.Apply(kServices, kKey, applied, "").code, 422);
}

TEST(FakeObjectsTest, MergePatchesCanBeGuarded) {
  FakeObjects objects;
  const Json object = objects.Create(kPods, "n", Object(kPods, "a")).body;
  const Json annotate = {{"metadata", {{"annotations", {{"rank", "3"}}}}}};
  EXPECT_EQ(objects.MergePatch(kPods, kKey, annotate, Part::kAll).code, 200);
  Json guarded = annotate;
  guarded["metadata"]["uid"] = "another";
  EXPECT_EQ(objects.MergePatch(kPods, kKey, guarded, Part::kAll).code, 409);
  guarded["metadata"].erase("uid");
  guarded["metadata"]["resourceVersion"] = MetaString(object, "resourceVersion");
  EXPECT_EQ(objects.MergePatch(kPods, kKey, guarded, Part::kAll).code, 409);
}

TEST(FakeObjectsTest, ASchedulingGateThatIsGoneCannotReturn) {
  FakeObjects objects;
  Json pod = Object(kPods, "a");
  pod["spec"]["schedulingGates"] = {{{"name", "g"}}};
  pod = objects.Create(kPods, "n", pod).body;
  const Json gates = pod["spec"]["schedulingGates"];
  EXPECT_EQ(
      objects.MergePatch(kPods, kKey, {{"spec", {{"schedulingGates", nullptr}}}}, Part::kAll).code,
      200);
  EXPECT_EQ(
      objects.MergePatch(kPods, kKey, {{"spec", {{"schedulingGates", gates}}}}, Part::kAll).code,
      422);
}

TEST(FakeObjectsTest, ADeleteOfAnotherUidIsRefused) {
  FakeObjects objects;
  const Json pod = objects.Create(kPods, "n", Object(kPods, "a")).body;
  EXPECT_EQ(objects.Delete(kPods, kKey, {{"preconditions", {{"uid", "another"}}}}).code, 409);
  EXPECT_EQ(
      objects.Delete(kPods, kKey, {{"preconditions", {{"uid", MetaString(pod, "uid")}}}}).code,
      200);
  EXPECT_EQ(objects.Delete(kPods, kKey, Json()).code, 404);
}

TEST(FakeObjectsTest, APodOnANodeTerminatesUntilItsKubeletIsDone) {
  FakeObjects objects;
  Json pod = Object(kPods, "a");
  pod["spec"]["nodeName"] = "node-0";
  objects.Create(kPods, "n", pod);
  EXPECT_EQ(objects.Delete(kPods, kKey, {{"gracePeriodSeconds", 7}}).code, 200);
  EXPECT_EQ((*objects.Find(kPods, kKey))["metadata"]["deletionGracePeriodSeconds"], 7);
  EXPECT_EQ(objects.Create(kPods, "n", Object(kPods, "a")).code, 409);
  EXPECT_TRUE(objects.Finish(kPods, kKey));
  EXPECT_FALSE(objects.Find(kPods, kKey).has_value());
  // One that ended, or that no node has, goes at once; and so does one without grace.
  objects.Create(kPods, "n", pod);
  EXPECT_EQ(objects.Delete(kPods, kKey, {{"gracePeriodSeconds", 0}}).code, 200);
  EXPECT_FALSE(objects.Find(kPods, kKey).has_value());
  objects.Create(kPods, "n", Object(kPods, "a"));
  objects.Delete(kPods, kKey, Json());
  EXPECT_FALSE(objects.Find(kPods, kKey).has_value());
}

TEST(FakeObjectsTest, WhatAnObjectOwnsGoesWithItAndLateChildrenToo) {
  FakeObjects objects;
  const Json owner = objects.Create(kMoeDeployments, "n", Object(kMoeDeployments, "a")).body;
  objects.Create(kServices, "n", OwnedBy(Object(kServices, "s"), owner));
  Json pod = OwnedBy(Object(kPods, "p"), owner);
  pod["spec"]["nodeName"] = "node-0";
  objects.Create(kPods, "n", pod);
  objects.Delete(kMoeDeployments, kKey, Json());
  EXPECT_FALSE(objects.Find(kServices, {.ns = "n", .name = "s"}).has_value());
  const auto terminating = objects.Find(kPods, {.ns = "n", .name = "p"});
  ASSERT_TRUE(terminating.has_value());
  EXPECT_TRUE((*terminating)["metadata"].contains("deletionTimestamp"));
  EXPECT_EQ(objects.Create(kServices, "n", OwnedBy(Object(kServices, "late"), owner)).code, 201);
  EXPECT_FALSE(objects.Find(kServices, {.ns = "n", .name = "late"}).has_value());
}

TEST(FakeObjectsTest, PagesShowOneMomentAndEndWhenItIsForgotten) {
  FakeObjects objects;
  for (const char* name : {"a", "b", "c", "d"}) {
    objects.Create(kPods, "n", Object(kPods, name));
  }
  const Json first = objects.ListPage(kPods, "", "", 2).body;
  ASSERT_EQ(first["items"].size(), 2);
  objects.Delete(kPods, {.ns = "n", .name = "d"}, Json());
  const Json second = objects.ListPage(kPods, "", "", 2, MetaString(first, "continue")).body;
  EXPECT_EQ(second["items"].size(), 2);
  EXPECT_EQ(MetaString(second, "resourceVersion"), MetaString(first, "resourceVersion"));
  EXPECT_EQ(MetaString(second, "continue"), "");
  const Json again = objects.ListPage(kPods, "", "", 2).body;
  objects.Compact();
  EXPECT_EQ(objects.ListPage(kPods, "", "", 2, MetaString(again, "continue")).code, 410);
}

TEST(FakeObjectsTest, SelectorsKnowEqualityAndPresence) {
  const Json object = {{"metadata", {{"labels", {{"a", "1"}, {"b/c", "2"}}}}}};
  EXPECT_TRUE(MatchesSelector(object, ""));
  EXPECT_TRUE(MatchesSelector(object, "a=1,b/c==2"));
  EXPECT_FALSE(MatchesSelector(object, "a=1,b/c=3"));
  EXPECT_TRUE(MatchesSelector(object, "a,!d,d!=1,a!=2"));
  EXPECT_FALSE(MatchesSelector(object, "!a"));
  EXPECT_FALSE(MatchesSelector(object, "d"));
}

TEST(FakeObjectsTest, ANamespaceThatEndsTakesNothingNew) {
  FakeObjects objects;
  objects.TerminateNamespace("n");
  const FakeAnswer answer = objects.Create(kPods, "n", Object(kPods, "a"));
  EXPECT_EQ(answer.code, 403);
  EXPECT_EQ(answer.body["details"]["causes"][0]["reason"], "NamespaceTerminating");
}

}  // namespace
}  // namespace moe::kube::testing
