// Tests gateway/journal/engine_view.h.
#include "gateway/journal/engine_view.h"

#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::gateway {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

GroupView MakeGroup(const std::string& name, bool serving, bool draining = false) {
  GroupView group;
  group.name = name;
  group.serving = serving;
  group.reason = serving ? "" : "The engine is loading the model.";
  group.state.set_group(name);
  group.state.set_draining(draining);
  group.state.set_kv_capacity_tokens(1000);
  group.welcome.set_vocab_size(10);
  group.welcome.set_max_context(512);
  return group;
}

TEST(EngineViewTest, GroupsAreOrderedByTheirNumber) {
  EXPECT_EQ(GroupIndex("ns/name/12"), 12);
  EXPECT_EQ(GroupIndex(""), 0);
  EXPECT_EQ(GroupIndex("ns/name/x"), 0);
  const EngineView view = Summarize(
      {MakeGroup("ns/m/10", true), MakeGroup("ns/m/2", true), MakeGroup("ns/m/0", false)}, {});
  std::vector<std::string> names;
  for (const GroupView& group : view.groups) {
    names.push_back(group.name);
  }
  EXPECT_THAT(names, ElementsAre("ns/m/0", "ns/m/2", "ns/m/10"));
}

GroupView OfAnotherModel(GroupView group) {
  group.other_model = true;
  group.serving = false;
  group.state.set_phase(coordinator::v1::GroupState::ACTIVE);
  return group;
}

TEST(EngineViewTest, ServesWhileOneGroupTakesNewRequests) {
  struct Case {
    const char* sentence;
    std::vector<GroupView> groups;
    bool serving;
    const char* reason;  // a part of it
    const char* shown;   // the group that stands for all
  };
  const std::vector<Case> cases = {
      {"none at all", {}, false, "scaled to zero", ""},
      {"one that serves", {MakeGroup("a/b/0", true)}, true, "", "a/b/0"},
      {"one that loads",
       {MakeGroup("a/b/0", false)},
       false,
       "The engine is loading the model.",
       "a/b/0"},
      {"one of three serves",
       {MakeGroup("a/b/0", false), MakeGroup("a/b/1", true), MakeGroup("a/b/2", false)},
       true,
       "",
       "a/b/1"},
      {"none of two serves",
       {MakeGroup("a/b/0", false), MakeGroup("a/b/1", false)},
       false,
       "None of 2 groups serves. Group 0: The engine is loading",
       "a/b/0"},
      {"the old one drains and the new one loads",
       {MakeGroup("a/b/0", true, true), MakeGroup("a/b/1", false)},
       false,
       "Group 1:",
       "a/b/1"},
      {"its own loads beside one of another model",
       {OfAnotherModel(MakeGroup("a/b/0", false)), MakeGroup("a/b/1", false)},
       false,
       "Group 1:",
       "a/b/1"},
      {"its own serves beside one of another model",
       {OfAnotherModel(MakeGroup("a/b/0", false)), MakeGroup("a/b/1", true)},
       true,
       "",
       "a/b/1"},
      {"only one of another model",
       {OfAnotherModel(MakeGroup("a/b/0", false))},
       false,
       "another model than this gateway",
       "a/b/0"},
      {"only one that drains", {MakeGroup("a/b/0", true, true)}, false, "about to end", "a/b/0"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.sentence);
    const EngineView view = Summarize(c.groups, {});
    EXPECT_EQ(view.serving, c.serving);
    EXPECT_THAT(view.reason, HasSubstr(c.reason));
    EXPECT_EQ(view.reason.empty(), c.serving);
    EXPECT_EQ(view.group.group(), c.shown);
  }
}

TEST(EngineViewTest, StatisticsAreAddedAndTheCacheIsWeighed) {
  GroupView small = MakeGroup("a/b/0", true);
  small.stats.set_num_running(1);
  small.stats.set_num_waiting(2);
  small.stats.set_kv_usage(1.0);
  small.stats.set_step(7);
  GroupView large = MakeGroup("a/b/1", true);
  large.state.set_kv_capacity_tokens(3000);
  large.stats.set_num_running(10);
  large.stats.set_kv_usage(0.2);
  large.stats.set_step(900);
  const EngineView view = Summarize({small, large}, {});
  EXPECT_EQ(view.stats.num_running(), 11U);
  EXPECT_EQ(view.stats.num_waiting(), 2U);
  EXPECT_NEAR(view.stats.kv_usage(), 0.4, 1e-9);
  EXPECT_EQ(view.stats.step(), 7U) << "a sum of steps means nothing";
}

TEST(EngineViewTest, NewRequestsAreMeasuredByTheGroupThatTakesTheLongest) {
  GroupView draining = MakeGroup("a/b/0", true, true);
  draining.welcome.set_max_context(4096);
  GroupView large = MakeGroup("a/b/1", true);
  large.welcome.set_max_context(2048);
  large.welcome.set_kv_capacity_tokens(1024);
  engine::v1::Welcome last;
  last.set_max_context(77);
  EXPECT_EQ(SequenceLimit(Summarize({draining, MakeGroup("a/b/2", true), large}, last).welcome),
            1024);
  EXPECT_EQ(Summarize({}, last).welcome.max_context(), 77U) << "with no group, the last known";
  EXPECT_EQ(Summarize({OfAnotherModel(large)}, last).welcome.max_context(), 77U)
      << "another model's limits are not this one's";
}

}  // namespace
}  // namespace moe::gateway
