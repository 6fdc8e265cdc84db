// Tests gateway/journal/routing.h.
#include "gateway/journal/routing.h"

#include <optional>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace moe::gateway {
namespace {

// A group that can take anything, changed by the chained calls.
struct G : RouteGroup {
  G() {
    connected = serving = true;
    model_digest = "model";
    numerics_id = "cpu";
  }
  G& Load(int64_t tokens, int64_t own) {
    outstanding_tokens = tokens;
    num_own = num_reported = own;
    return *this;
  }
  G& Others(int64_t count) {
    num_reported = num_own + count;
    return *this;
  }
  G& Disconnected() {
    connected = serving = false;
    return *this;
  }
  G& Recovering() {
    serving = false;
    return *this;
  }
  G& Draining() {
    draining = true;
    return *this;
  }
  G& Full() {
    full = true;
    return *this;
  }
  G& Of(const char* model, const char* numerics) {
    model_digest = model;
    numerics_id = numerics;
    return *this;
  }
  G& UpTo(int64_t tokens) {
    max_sequence_tokens = tokens;
    return *this;
  }
};

RouteSequence Fresh() {
  RouteSequence sequence;
  sequence.num_tokens = 100;
  return sequence;
}

RouteSequence Begun() {
  RouteSequence sequence = Fresh();
  sequence.begun = sequence.placed = true;
  sequence.model_digest = "model";
  sequence.numerics_id = "cpu";
  return sequence;
}

RouteSequence Placed() {
  RouteSequence sequence = Fresh();
  sequence.placed = true;
  return sequence;
}

TEST(ChooseGroupTest, FollowsItsRules) {
  const std::optional<size_t> none;
  struct Case {
    const char* sentence;
    std::vector<RouteGroup> groups;
    RouteSequence sequence;
    std::optional<size_t> want;
  };
  const std::vector<Case> cases = {
      {"without a group there is no choice", {}, Fresh(), none},
      {"the only group is taken", {G()}, Fresh(), 0},
      {"the fewest outstanding tokens win",
       {G().Load(500, 2), G().Load(300, 4), G().Load(301, 1)},
       Fresh(),
       1},
      {"one long sequence weighs more than several short ones",
       {G().Load(1000, 1), G().Load(300, 6)},
       Fresh(),
       1},
      {"sequences of other gateways count as much as ours do on average",
       {G().Load(400, 4).Others(5), G().Load(800, 8)},
       Fresh(),
       1},
      {"few sequences of other gateways do not outweigh many tokens of ours",
       {G().Load(400, 4).Others(3), G().Load(800, 8)},
       Fresh(),
       0},
      {"before we have any, the sequences of others are compared",
       {G().Others(3), G().Others(2)},
       Fresh(),
       1},
      {"what was just sent is not yet in the leader's count",
       {[] {
          RouteGroup group = G().Load(200, 2);
          group.num_reported = 0;
          return group;
        }(),
        G().Load(300, 3)},
       Fresh(),
       0},
      {"a group without a leader takes nothing", {G().Disconnected(), G().Load(9, 1)}, Fresh(), 1},
      {"no group has a leader", {G().Disconnected(), G().Disconnected()}, Fresh(), none},
      {"one that serves comes before an idle one that recovers",
       {G().Recovering(), G().Load(9000, 9)},
       Fresh(),
       1},
      {"a new request waits in a leader that recovers when there is no other",
       {G().Disconnected(), G().Recovering()},
       Fresh(),
       1},
      {"a draining group takes nothing new", {G().Draining()}, Fresh(), none},
      {"a draining group takes nothing new beside one that is loaded",
       {G().Draining(), G().Load(9000, 9)},
       Fresh(),
       1},
      {"a full queue is passed over", {G().Full(), G().Load(9000, 9)}, Fresh(), 1},
      {"when all queues are full, a leader says so", {G().Full()}, Fresh(), 0},
      {"a group that is too small is passed over",
       {G().UpTo(99), G().Load(9000, 9).UpTo(100)},
       Fresh(),
       1},
      {"when all groups are too small, a leader says so", {G().UpTo(99), G().UpTo(50)}, Fresh(), 0},
      {"a new request may use any model", {G().Of("other", "gpu")}, Fresh(), 0},
      {"what was begun never goes on with another model", {G().Of("other", "cpu")}, Begun(), none},
      {"what was begun never goes on with other numerics", {G().Of("model", "gpu")}, Begun(), none},
      {"what was begun goes on in kind, however loaded",
       {G().Of("other", "cpu"), G().Load(9000, 9), G().Of("model", "gpu")},
       Begun(),
       1},
      {"what was begun goes on in a draining group when no other is left",
       {G().Draining()},
       Begun(),
       0},
      {"what was begun prefers a group that does not drain",
       {G().Draining(), G().Load(9000, 9)},
       Begun(),
       1},
      {"what has a place leaves it only for a group that serves",
       {G().Recovering()},
       Placed(),
       none},
      {"what has a place does not leave it for a full queue", {G().Full()}, Placed(), none},
      {"what has a place does not leave it for a group that is too small",
       {G().UpTo(99)},
       Placed(),
       none},
      {"what has a place but no token does not go to a draining group",
       {G().Draining()},
       Placed(),
       none},
  };
  for (const Case& c : cases) {
    EXPECT_EQ(ChooseGroup(c.groups, c.sequence), c.want) << c.sentence;
  }
}

TEST(ChooseGroupTest, EqualGroupsTakeTurns) {
  const std::vector<RouteGroup> groups = {G(), G(), G().Disconnected(), G()};
  std::vector<int> count(groups.size());
  for (uint64_t turn = 1; turn <= 12; ++turn) {
    RouteSequence sequence = Fresh();
    sequence.turn = turn;
    ++count[*ChooseGroup(groups, sequence)];
  }
  EXPECT_EQ(count[2], 0);
  for (const size_t index : {0, 1, 3}) {
    EXPECT_GE(count[index], 3);
  }
}

TEST(ChooseGroupTest, ManySequencesSpreadEvenly) {
  std::vector<RouteGroup> groups(5, G());
  for (uint64_t i = 0; i < 1000; ++i) {
    RouteSequence sequence = Fresh();
    sequence.turn = i;
    RouteGroup& group = groups[*ChooseGroup(groups, sequence)];
    group.outstanding_tokens += static_cast<int64_t>(1 + i % 100);
    ++group.num_own;
  }
  for (const RouteGroup& group : groups) {
    EXPECT_NEAR(static_cast<double>(group.outstanding_tokens), 10100, 100);
  }
}

}  // namespace
}  // namespace moe::gateway
