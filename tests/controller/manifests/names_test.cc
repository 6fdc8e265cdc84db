#include "controller/manifests/names.h"

#include <optional>
#include <string>

#include "gtest/gtest.h"

namespace moe::manifests {
namespace {

using kube::Json;

TEST(NamesTest, NamesSayWhichPlaceOfWhichDeploymentAPodHas) {
  EXPECT_EQ(WorkerPodName("olmoe", 1, 63, 4), "olmoe-g1-s63-4");
  EXPECT_EQ(InspectPodName("olmoe"), "olmoe-inspect");
  EXPECT_EQ(GroupName("olmoe", 1), "olmoe-g1");
  EXPECT_EQ(GatewayName("olmoe"), "olmoe-gateway");
  EXPECT_EQ(WorkerAccountName("olmoe"), "olmoe-worker");
}

TEST(NamesTest, LabelsOfMalformedObjectsAreEmpty) {
  struct Case {
    const char* name;
    Json object;
    std::string label;
  };
  const Case cases[] = {
      {"no object", Json("text"), ""},
      {"no metadata", Json::object(), ""},
      {"metadata of another type", {{"metadata", "x"}}, ""},
      {"no labels", {{"metadata", Json::object()}}, ""},
      {"labels of another type", {{"metadata", {{"labels", Json::array()}}}}, ""},
      {"another label", {{"metadata", {{"labels", {{"a", "b"}}}}}}, ""},
      {"a value that is no text", {{"metadata", {{"labels", {{kLabelSlot, 3}}}}}}, ""},
      {"the label", {{"metadata", {{"labels", {{kLabelSlot, "3"}}}}}}, "3"},
  };
  for (const Case& test : cases) {
    EXPECT_EQ(LabelOf(test.object, kLabelSlot), test.label) << test.name;
  }
}

TEST(NamesTest, OnlyPlainDigitsAreANumber) {
  EXPECT_EQ(NumberOf("0"), 0);
  EXPECT_EQ(NumberOf("123456789"), 123456789);
  for (const char* text : {"", " 1", "+1", "-1", "1 ", "0x1", "1234567890", "1.0"}) {
    EXPECT_EQ(NumberOf(text), std::nullopt) << "'" << text << "'";
  }
}

TEST(NamesTest, TheHashOfAnObjectIsTheSameInEveryBuildAndChangesWithIt) {
  const Json object{{"b", 1}, {"a", {{"c", "d"}}}};
  EXPECT_EQ(ContentHash(object), ContentHash(Json::parse(R"({"a":{"c":"d"},"b":1})")));
  EXPECT_EQ(ContentHash(Json::object()), "08f44b07b5901a25");
  EXPECT_NE(ContentHash(object), ContentHash(Json{{"b", 2}, {"a", {{"c", "d"}}}}));
  // Not UTF-8, from a field that nobody checked: a hash all the same.
  EXPECT_EQ(ContentHash(Json{{"a", "\xff"}}).size(), 16u);
}

}  // namespace
}  // namespace moe::manifests
