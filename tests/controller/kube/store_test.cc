#include "controller/kube/store.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::kube {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr char kOwner[] = "moe-operator.dev/deployment";

Json Pod(const std::string& ns, const std::string& name, const std::string& owner,
         const std::string& version) {
  Json pod = {{"metadata",
               {{"namespace", ns},
                {"name", name},
                {"resourceVersion", version},
                {"managedFields", {{{"manager", "x"}}}}}}};
  if (!owner.empty()) {
    pod["metadata"]["labels"] = {{kOwner, owner}, {"component", "worker"}};
  }
  return pod;
}

class StoreTest : public ::testing::Test {
 protected:
  StoreTest() {
    store_.SetChangeCallback([this](const Store::Change& change) {
      changes_.push_back(change.key.name + " of " + change.owner);
    });
  }
  std::vector<std::string> TakeChanges() { return std::exchange(changes_, {}); }
  static std::vector<std::string> Names(const std::vector<Store::Object>& objects) {
    std::vector<std::string> names;
    for (const Store::Object& object : objects) {
      names.push_back((*object)["metadata"]["name"]);
    }
    return names;
  }

  Store store_;
  std::vector<std::string> changes_;
};

TEST_F(StoreTest, ItIsSyncedByTheFirstListEvenAnEmptyOne) {
  EXPECT_FALSE(store_.synced());
  EXPECT_FALSE(store_.AwaitSynced(absl::ZeroDuration()));
  store_.OnReplace({});
  EXPECT_TRUE(store_.synced());
  EXPECT_TRUE(store_.AwaitSynced(absl::ZeroDuration()));
}

TEST_F(StoreTest, ALaterListTellsOnlyWhatHasChanged) {
  store_.OnReplace({Pod("n", "a", "d", "1"), Pod("n", "b", "d", "2"), Pod("n", "c", "e", "3")});
  EXPECT_THAT(TakeChanges(), ElementsAre("a of d", "b of d", "c of e"));
  store_.OnReplace({Pod("n", "a", "d", "1"), Pod("n", "b", "d", "5"), Pod("n", "x", "e", "6")});
  EXPECT_THAT(TakeChanges(), ElementsAre("c of e", "b of d", "x of e"));
  EXPECT_EQ(store_.size(), 3);
  EXPECT_EQ(store_.Get({.ns = "n", .name = "c"}), nullptr);
}

TEST_F(StoreTest, EventsAreToldOnceAndRepeatsNotAtAll) {
  store_.OnReplace({});
  store_.OnUpsert(Pod("n", "a", "d", "1"));
  store_.OnUpsert(Pod("n", "a", "d", "1"));
  EXPECT_THAT(TakeChanges(), ElementsAre("a of d"));
  store_.OnRemove(Pod("n", "a", "d", "2"));
  store_.OnRemove(Pod("n", "a", "d", "2"));
  EXPECT_THAT(TakeChanges(), ElementsAre("a of d"));
}

TEST_F(StoreTest, AChangeOfTheOwnerIsToldForBoth) {
  store_.OnReplace({Pod("n", "a", "d", "1")});
  TakeChanges();
  store_.OnUpsert(Pod("n", "a", "e", "2"));
  EXPECT_THAT(TakeChanges(), ElementsAre("a of d", "a of e"));
  EXPECT_THAT(store_.ListOwned("n", "d"), IsEmpty());
  EXPECT_THAT(Names(store_.ListOwned("n", "e")), ElementsAre("a"));
  store_.OnUpsert(Pod("n", "a", "", "3"));
  EXPECT_THAT(TakeChanges(), ElementsAre("a of e", "a of "));
}

TEST_F(StoreTest, ListsAreByNamespaceAndLabels) {
  store_.OnReplace({Pod("m", "a", "d", "1"), Pod("n", "b", "d", "2"), Pod("n", "c", "e", "3"),
                    Pod("o", "z", "", "4")});
  EXPECT_THAT(Names(store_.List()), ElementsAre("a", "b", "c", "z"));
  EXPECT_THAT(Names(store_.List("n")), ElementsAre("b", "c"));
  EXPECT_THAT(Names(store_.List("", {{kOwner, "d"}})), ElementsAre("a", "b"));
  EXPECT_THAT(Names(store_.List("n", {{kOwner, "d"}, {"component", "worker"}})), ElementsAre("b"));
  EXPECT_THAT(Names(store_.ListOwned("m", "d")), ElementsAre("a"));
}

TEST_F(StoreTest, WhatWasJustWrittenIsKnownUnlessTheWatchKnowsBetter) {
  store_.OnReplace({Pod("n", "a", "d", "9")});
  TakeChanges();
  const auto version = [this] { return (*store_.Get({.ns = "n", .name = "a"}))["metadata"]; };
  store_.Learn(Pod("n", "a", "d", "10"));
  EXPECT_EQ(version()["resourceVersion"], "10");
  store_.Learn(Pod("n", "a", "d", "8"));
  store_.OnUpsert(Pod("n", "a", "d", "9"));
  EXPECT_EQ(version()["resourceVersion"], "10");
  store_.OnRemove(Pod("n", "a", "d", "11"));
  TakeChanges();
  store_.Learn(Pod("n", "a", "d", "10"));
  EXPECT_EQ(store_.size(), 0);
  EXPECT_THAT(TakeChanges(), IsEmpty());
}

TEST_F(StoreTest, SnapshotsDoNotChangeAndCarryNoManagedFields) {
  store_.OnReplace({Pod("n", "a", "d", "1")});
  const Store::Object before = store_.Get({.ns = "n", .name = "a"});
  store_.OnUpsert(Pod("n", "a", "d", "2"));
  store_.OnRemove(Pod("n", "a", "d", "3"));
  EXPECT_EQ((*before)["metadata"]["resourceVersion"], "1");
  EXPECT_FALSE((*before)["metadata"].contains("managedFields"));
}

}  // namespace
}  // namespace moe::kube
