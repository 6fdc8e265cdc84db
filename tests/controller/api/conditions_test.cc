#include "controller/api/conditions.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::api {
namespace {

const absl::Time kFirst = absl::FromUnixSeconds(1000);
const absl::Time kLater = absl::FromUnixSeconds(2000);

Condition Make(const std::string& type, const std::string& status, const std::string& reason) {
  Condition condition;
  condition.type = type;
  condition.status = status;
  condition.reason = reason;
  return condition;
}

TEST(Conditions, ANewOneGetsTheTimeOfNow) {
  std::vector<Condition> conditions;
  SetCondition(&conditions, Make("Ready", "False", "Loading"), kFirst);
  ASSERT_EQ(conditions.size(), 1);
  EXPECT_EQ(conditions[0].last_transition, kFirst);
}

TEST(Conditions, TheTimeStaysWhileTheStatusDoes) {
  std::vector<Condition> conditions;
  SetCondition(&conditions, Make("Ready", "False", "Loading"), kFirst);
  SetCondition(&conditions, Make("Ready", "False", "Connecting"), kLater);
  ASSERT_EQ(conditions.size(), 1);
  EXPECT_EQ(conditions[0].reason, "Connecting");
  EXPECT_EQ(conditions[0].last_transition, kFirst);
}

TEST(Conditions, TheTimeChangesWithTheStatus) {
  std::vector<Condition> conditions;
  SetCondition(&conditions, Make("Ready", "False", "Loading"), kFirst);
  SetCondition(&conditions, Make("Ready", "True", "Serving"), kLater);
  EXPECT_EQ(conditions[0].last_transition, kLater);
}

TEST(Conditions, AreSortedByType) {
  std::vector<Condition> conditions;
  for (const char* type : {"Ready", "Available", "Progressing", "Degraded", "Available"}) {
    SetCondition(&conditions, Make(type, "True", "Because"), kFirst);
  }
  std::vector<std::string> types;
  types.reserve(conditions.size());
  for (const Condition& condition : conditions) {
    types.push_back(condition.type);
  }
  EXPECT_THAT(types, testing::ElementsAre("Available", "Degraded", "Progressing", "Ready"));
}

TEST(Conditions, AreFoundByType) {
  std::vector<Condition> conditions;
  SetCondition(&conditions, Make("Ready", "True", "Serving"), kFirst);
  SetCondition(&conditions, Make("Failed", "Unknown", "Starting"), kFirst);
  EXPECT_TRUE(IsTrue(conditions, "Ready"));
  EXPECT_FALSE(IsTrue(conditions, "Failed"));
  EXPECT_FALSE(IsTrue(conditions, "Degraded"));
  EXPECT_EQ(FindCondition(conditions, "Failed")->reason, "Starting");
  EXPECT_EQ(FindCondition(conditions, "Degraded"), nullptr);
  RemoveCondition(&conditions, "Ready");
  EXPECT_EQ(FindCondition(conditions, "Ready"), nullptr);
  EXPECT_EQ(conditions.size(), 1);
}

}  // namespace
}  // namespace moe::api
