#include "worker/engine/scheduler.h"

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::engine {

bool operator==(const ScheduledSlice& a, const ScheduledSlice& b) {
  return a.id == b.id && a.owner == b.owner && a.start == b.start && a.count == b.count &&
         a.sample == b.sample;
}
bool operator==(const Admission& a, const Admission& b) {
  return a.id == b.id && a.owner == b.owner;
}
void PrintTo(const ScheduledSlice& slice, std::ostream* out) {
  *out << "{id " << slice.id << " owner " << slice.owner << " start " << slice.start << " count "
       << slice.count << (slice.sample ? " sample}" : "}");
}
void PrintTo(const Admission& admission, std::ostream* out) {
  *out << "{id " << admission.id << " owner " << admission.owner << "}";
}

namespace {

using testing::ElementsAre;
using testing::ElementsAreArray;

struct Case {
  std::string name;
  SchedulerLimits limits;
  SchedulerState state;
  ScheduleDecision expected;
};

SequenceView Decode(uint64_t id, int owner, int num_tokens) {
  return {.id = id, .owner = owner, .num_tokens = num_tokens, .num_computed = num_tokens - 1};
}
SequenceView Prefill(uint64_t id, int owner, int num_tokens, int num_computed) {
  return {.id = id, .owner = owner, .num_tokens = num_tokens, .num_computed = num_computed};
}
SequenceView Waiting(uint64_t id, int num_tokens) { return {.id = id, .num_tokens = num_tokens}; }

// One owner with 10 blocks of 4 tokens, 16 rows in a step in chunks of at least 4.
SchedulerLimits Small() {
  return {.num_owners = 1,
          .max_sequences = 8,
          .max_step_tokens = 16,
          .min_prefill_chunk = 4,
          .kv_blocks_per_owner = 10,
          .kv_block_tokens = 4};
}
SchedulerLimits Small(int num_owners) {
  SchedulerLimits limits = Small();
  limits.num_owners = num_owners;
  return limits;
}
SchedulerLimits WithBlocks(SchedulerLimits limits, int num_blocks) {
  limits.kv_blocks_per_owner = num_blocks;
  return limits;
}
SchedulerLimits WithSequences(SchedulerLimits limits, int max_sequences) {
  limits.max_sequences = max_sequences;
  return limits;
}
SchedulerLimits WithStepTokens(SchedulerLimits limits, int max_step_tokens) {
  limits.max_step_tokens = max_step_tokens;
  return limits;
}

std::vector<Case> Cases() {
  return {
      {.name = "nothing to do gives an empty decision",
       .limits = Small(),
       .state = {},
       .expected = {}},
      {.name = "a prompt that fits the budget is computed at once and samples",
       .limits = Small(),
       .state = {.waiting = {Waiting(1, 10)}},
       .expected = {.admitted = {{1, 0}}, .slices = {{1, 0, 0, 10, true}}}},
      {.name = "a prompt of one token samples",
       .limits = Small(),
       .state = {.waiting = {Waiting(1, 1)}},
       .expected = {.admitted = {{1, 0}}, .slices = {{1, 0, 0, 1, true}}}},
      {.name = "a long prompt starts with a chunk that does not sample",
       .limits = Small(),
       .state = {.waiting = {Waiting(1, 30)}},
       .expected = {.admitted = {{1, 0}}, .slices = {{1, 0, 0, 16, false}}}},
      {.name = "decode rows come before the rows of a prompt",
       .limits = Small(),
       .state = {.running = {Prefill(1, 0, 30, 8), Decode(2, 0, 3), Decode(3, 0, 3)}},
       .expected = {.slices = {{1, 0, 8, 14, false}, {2, 0, 2, 1, true}, {3, 0, 2, 1, true}}}},
      {.name = "prompts share the budget evenly and the remainder goes to the oldest",
       .limits = Small(),
       .state = {.running = {Prefill(1, 0, 12, 0), Prefill(2, 0, 12, 0), Prefill(3, 0, 12, 0)}},
       .expected = {.slices = {{1, 0, 0, 6, false}, {2, 0, 0, 5, false}, {3, 0, 0, 5, false}}}},
      {.name = "a prompt that needs less than its share leaves the rest to the others",
       .limits = Small(),
       .state = {.running = {Prefill(1, 0, 30, 4), Prefill(2, 0, 3, 0)}},
       .expected = {.slices = {{1, 0, 4, 13, false}, {2, 0, 0, 3, true}}}},
      {.name = "a short prompt is admitted beside a long one in prefill",
       .limits = Small(),
       .state = {.running = {Prefill(1, 0, 30, 4)}, .waiting = {Waiting(2, 3)}},
       .expected = {.admitted = {{2, 0}}, .slices = {{1, 0, 4, 13, false}, {2, 0, 0, 3, true}}}},
      {.name = "no more prompts take part than can have the least chunk each",
       .limits = WithBlocks(Small(), 100),
       .state = {.running = {Prefill(1, 0, 30, 0), Prefill(2, 0, 30, 0), Prefill(3, 0, 30, 0),
                             Prefill(4, 0, 30, 0), Prefill(5, 0, 30, 0)},
                 .waiting = {Waiting(6, 2)}},
       .expected = {.slices = {{1, 0, 0, 4, false},
                               {2, 0, 0, 4, false},
                               {3, 0, 0, 4, false},
                               {4, 0, 0, 4, false}}}},
      {.name = "the oldest prompt takes part even with less than the least chunk",
       .limits = WithStepTokens(Small(), 3),
       .state = {.running = {Prefill(1, 0, 30, 0), Decode(2, 0, 2)}},
       .expected = {.slices = {{1, 0, 0, 2, false}, {2, 0, 1, 1, true}}}},
      {.name = "waiting sequences go to the owner with the most unclaimed blocks",
       .limits = Small(3),
       .state = {.running = {Decode(1, 0, 9), Decode(2, 1, 5)}, .waiting = {Waiting(3, 4)}},
       .expected = {.admitted = {{3, 2}},
                    .slices = {{1, 0, 8, 1, true}, {2, 1, 4, 1, true}, {3, 2, 0, 4, true}}}},
      {.name = "owners with equally many blocks are taken by rank",
       .limits = Small(2),
       .state = {.waiting = {Waiting(1, 3), Waiting(2, 3), Waiting(3, 3)}},
       .expected = {.admitted = {{1, 0}, {2, 1}, {3, 0}},
                    .slices = {{1, 0, 0, 3, true}, {3, 0, 0, 3, true}, {2, 1, 0, 3, true}}}},
      {.name = "nothing overtakes a head of the queue that does not fit",
       .limits = Small(),
       .state = {.running = {Decode(1, 0, 9)}, .waiting = {Waiting(2, 36), Waiting(3, 1)}},
       .expected = {.slices = {{1, 0, 8, 1, true}}}},
      {.name = "admission counts one token more than the prompt",
       .limits = WithBlocks(Small(), 2),
       .state = {.waiting = {Waiting(1, 8)}},
       .expected = {}},
      {.name = "admission leaves the blocks that running prompts will need",
       .limits = Small(),
       .state = {.running = {Prefill(1, 0, 27, 1)}, .waiting = {Waiting(2, 12)}},
       .expected = {.slices = {{1, 0, 1, 16, false}}}},
      {.name = "no more than max_sequences run",
       .limits = WithSequences(Small(), 2),
       .state = {.running = {Decode(1, 0, 2)}, .waiting = {Waiting(2, 1), Waiting(3, 1)}},
       .expected = {.admitted = {{2, 0}}, .slices = {{1, 0, 1, 1, true}, {2, 0, 0, 1, true}}}},
      {.name = "no more sequences run than a step has rows",
       .limits = WithStepTokens(Small(), 2),
       .state = {.running = {Decode(1, 0, 2)}, .waiting = {Waiting(2, 1), Waiting(3, 1)}},
       .expected = {.admitted = {{2, 0}}, .slices = {{1, 0, 1, 1, true}, {2, 0, 0, 1, true}}}},
      {.name = "the newest sequence of a full owner is preempted for a decode row",
       .limits = WithBlocks(Small(), 3),
       .state = {.running = {Decode(1, 0, 5), Decode(2, 0, 4), Decode(3, 0, 4)}},
       .expected = {.preempted = {3}, .slices = {{1, 0, 4, 1, true}, {2, 0, 3, 1, true}}}},
      {.name = "a sequence that is the newest of its owner is preempted itself",
       .limits = WithBlocks(Small(), 2),
       .state = {.running = {Decode(1, 0, 4), Decode(2, 0, 5)}},
       .expected = {.preempted = {2}, .slices = {{1, 0, 3, 1, true}}}},
      {.name = "a full owner preempts nothing of another owner",
       .limits = WithBlocks(Small(2), 2),
       .state = {.running = {Decode(1, 0, 4), Decode(2, 0, 5), Decode(3, 1, 2)},
                 .waiting = {Waiting(4, 1)}},
       .expected = {.preempted = {2}, .slices = {{1, 0, 3, 1, true}, {3, 1, 1, 1, true}}}},
      {.name = "a preempted sequence moves at once to an owner that has the blocks",
       .limits = WithBlocks(Small(2), 4),
       .state = {.running = {Decode(1, 0, 9), Decode(2, 0, 9), Decode(3, 1, 2)}},
       .expected = {.preempted = {2},
                    .admitted = {{2, 1}},
                    .slices = {{1, 0, 8, 1, true}, {3, 1, 1, 1, true}, {2, 1, 0, 9, true}}}},
      {.name = "blocks that a lost step reserved are not given away",
       .limits = WithBlocks(Small(), 4),
       .state =
           {.running =
                {Decode(1, 0, 5),
                 {.id = 2, .owner = 0, .num_tokens = 13, .num_computed = 0, .num_reserved = 12}}},
       .expected = {.preempted = {2}, .slices = {{1, 0, 4, 1, true}}}},
      {.name = "a lost step's own blocks are used again",
       .limits = WithBlocks(Small(), 3),
       .state =
           {.running =
                {{.id = 1, .owner = 0, .num_tokens = 12, .num_computed = 0, .num_reserved = 12}}},
       .expected = {.slices = {{1, 0, 0, 12, true}}}},
      {.name = "a chunk shrinks to the free blocks",
       .limits = WithBlocks(Small(), 4),
       .state = {.running = {Decode(1, 0, 8), Prefill(2, 0, 20, 3)}},
       .expected = {.slices = {{1, 0, 7, 1, true}, {2, 0, 3, 5, false}}}},
      {.name = "an old prompt without a block takes one from the newest",
       .limits = WithBlocks(Small(), 4),
       .state = {.running = {Prefill(1, 0, 12, 8), Decode(2, 0, 4), Decode(3, 0, 4)}},
       .expected = {.preempted = {3}, .slices = {{1, 0, 8, 4, true}, {2, 0, 3, 1, true}}}},
      {.name = "a newer prompt without a block waits",
       .limits = WithBlocks(Small(), 4),
       .state = {.running = {Decode(1, 0, 8), Prefill(2, 0, 12, 8)}},
       .expected = {.slices = {{1, 0, 7, 1, true}}}},
  };
}

class ScheduleCaseTest : public testing::TestWithParam<Case> {};

TEST_P(ScheduleCaseTest, Decides) {
  const Case& c = GetParam();
  const ScheduleDecision decision = Schedule(c.state, c.limits);
  EXPECT_THAT(decision.preempted, ElementsAreArray(c.expected.preempted));
  EXPECT_THAT(decision.admitted, ElementsAreArray(c.expected.admitted));
  EXPECT_THAT(decision.slices, ElementsAreArray(c.expected.slices));
}

std::string TestName(const testing::TestParamInfo<Case>& info) {
  std::string name = info.param.name;
  std::replace_if(
      name.begin(), name.end(), [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); },
      '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Rules, ScheduleCaseTest, testing::ValuesIn(Cases()), TestName);

TEST(NumKvBlocksTest, RoundsUpWithoutOverflow) {
  EXPECT_EQ(NumKvBlocks(0, 32), 0);
  EXPECT_EQ(NumKvBlocks(1, 32), 1);
  EXPECT_EQ(NumKvBlocks(32, 32), 1);
  EXPECT_EQ(NumKvBlocks(33, 32), 2);
  EXPECT_EQ(NumKvBlocks(2147483647, 32), 67108864);
}

// A world in which decisions are applied: checks every decision against the guarantees.
class World {
 public:
  explicit World(const SchedulerLimits& limits) : limits_(limits) {}

  void AddWaiting(SequenceView view) { state_.waiting.push_back(view); }
  void AddRunning(SequenceView view) { state_.running.push_back(view); }
  const SchedulerState& state() const { return state_; }
  bool empty() const { return state_.running.empty() && state_.waiting.empty(); }

  int NumHeld(const SequenceView& view) const {
    return NumKvBlocks(std::max(view.num_computed, view.num_reserved), limits_.kv_block_tokens);
  }
  int NumFree(int owner) const {
    int num_free = limits_.kv_blocks_per_owner;
    for (const SequenceView& view : state_.running) {
      if (view.owner == owner) num_free -= NumHeld(view);
    }
    return num_free;
  }

  // Decides, checks, applies. `commits` false is a step that is lost after its blocks were taken.
  ScheduleDecision Step(bool commits = true) {
    const ScheduleDecision decision = Schedule(state_, limits_);
    Check(decision);
    Apply(decision, commits);
    return decision;
  }

 private:
  void Check(const ScheduleDecision& decision) const {
    std::map<uint64_t, SequenceView> views;
    std::set<uint64_t> running;
    for (const SequenceView& view : state_.running) {
      views[view.id] = view;
      running.insert(view.id);
    }
    for (const SequenceView& view : state_.waiting) views[view.id] = view;
    std::vector<int> num_free;
    for (int owner = 0; owner < limits_.num_owners; ++owner) num_free.push_back(NumFree(owner));

    std::vector<uint64_t> queue;
    std::set<int> has_preempted;
    for (const uint64_t id : decision.preempted) {
      ASSERT_TRUE(running.contains(id));
      running.erase(id);
      SequenceView& view = views[id];
      num_free[view.owner] += NumHeld(view);
      has_preempted.insert(view.owner);
      view = {.id = id, .num_tokens = view.num_tokens};
      queue.push_back(id);
    }
    // Only the newest of an owner are preempted, and they are named oldest first.
    for (const SequenceView& view : state_.running) {
      if (running.contains(view.id)) continue;
      for (const SequenceView& other : state_.running) {
        if (other.owner == view.owner && &other > &view) {
          EXPECT_FALSE(running.contains(other.id)) << other.id << " is newer than " << view.id;
        }
      }
    }
    for (const SequenceView& view : state_.waiting) queue.push_back(view.id);
    ASSERT_LE(decision.admitted.size(), queue.size());
    for (size_t i = 0; i < decision.admitted.size(); ++i) {
      EXPECT_EQ(decision.admitted[i].id, queue[i]) << "admission is not first come first";
      EXPECT_FALSE(has_preempted.contains(decision.admitted[i].owner));
      views[queue[i]].owner = decision.admitted[i].owner;
      running.insert(queue[i]);
    }
    if (!decision.admitted.empty()) {
      EXPECT_LE(running.size(), static_cast<size_t>(limits_.max_sequences));
    }

    int num_rows = 0;
    int last_owner = 0;
    std::set<uint64_t> with_rows;
    for (const ScheduledSlice& slice : decision.slices) {
      ASSERT_TRUE(running.contains(slice.id));
      EXPECT_TRUE(with_rows.insert(slice.id).second) << "two slices of " << slice.id;
      EXPECT_GE(slice.owner, last_owner) << "not grouped by owner";
      last_owner = slice.owner;
      const SequenceView& view = views[slice.id];
      EXPECT_EQ(slice.owner, view.owner);
      EXPECT_EQ(slice.start, view.num_computed);
      EXPECT_GE(slice.count, 1);
      EXPECT_LE(slice.start + slice.count, view.num_tokens);
      EXPECT_EQ(slice.sample, slice.start + slice.count == view.num_tokens);
      num_rows += slice.count;
      num_free[slice.owner] -= std::max(
          0, NumKvBlocks(slice.start + slice.count, limits_.kv_block_tokens) - NumHeld(view));
    }
    EXPECT_LE(num_rows, limits_.max_step_tokens);
    EXPECT_LE(with_rows.size(), static_cast<size_t>(limits_.max_sequences));
    for (const int blocks : num_free) EXPECT_GE(blocks, 0) << "blocks are overdrawn";
    for (const Admission& admission : decision.admitted) {
      EXPECT_TRUE(with_rows.contains(admission.id)) << "admitted without rows";
    }
    // Prefill never holds up decode: while prompts get rows, every sequence that decodes has its.
    if (num_rows > static_cast<int>(with_rows.size()) && running.size() <= MaxRunning()) {
      for (const SequenceView& view : state_.running) {
        if (running.contains(view.id) && view.num_tokens - view.num_computed == 1 &&
            views[view.id].num_computed == view.num_computed) {
          EXPECT_TRUE(with_rows.contains(view.id)) << view.id << " decodes and got no row";
        }
      }
    }
    const bool some_fit = std::any_of(views.begin(), views.end(), [&](const auto& entry) {
      return NumKvBlocks(entry.second.num_tokens + 1, limits_.kv_block_tokens) <=
             limits_.kv_blocks_per_owner;
    });
    const bool head_fits = !state_.running.empty() || state_.waiting.empty() ||
                           NumKvBlocks(state_.waiting.front().num_tokens + 1,
                                       limits_.kv_block_tokens) <= limits_.kv_blocks_per_owner;
    if (some_fit && head_fits) {
      EXPECT_FALSE(decision.slices.empty() && decision.preempted.empty()) << "no progress";
    }
  }

  size_t MaxRunning() const {
    return static_cast<size_t>(std::min(limits_.max_sequences, limits_.max_step_tokens));
  }

  void Apply(const ScheduleDecision& decision, bool commits) {
    std::vector<SequenceView> front;
    for (const uint64_t id : decision.preempted) {
      const auto it = std::find_if(state_.running.begin(), state_.running.end(),
                                   [id](const SequenceView& view) { return view.id == id; });
      front.push_back({.id = id, .num_tokens = it->num_tokens});
      state_.running.erase(it);
    }
    state_.waiting.insert(state_.waiting.begin(), front.begin(), front.end());
    for (const Admission& admission : decision.admitted) {
      SequenceView view = state_.waiting.front();
      state_.waiting.erase(state_.waiting.begin());
      view.owner = admission.owner;
      state_.running.push_back(view);
    }
    for (const ScheduledSlice& slice : decision.slices) {
      const auto it =
          std::find_if(state_.running.begin(), state_.running.end(),
                       [&slice](const SequenceView& view) { return view.id == slice.id; });
      it->num_reserved = std::max(it->num_reserved, slice.start + slice.count);
      if (!commits) continue;
      it->num_computed = slice.start + slice.count;
      if (!slice.sample) continue;
      ++it->num_tokens;
      const auto left = lengths_.find(slice.id);
      if (left != lengths_.end() && it->num_tokens >= left->second) state_.running.erase(it);
    }
  }

  const SchedulerLimits limits_;
  SchedulerState state_;

 public:
  std::map<uint64_t, int> lengths_;  // a sequence of this many tokens is at its end
};

int Uniform(std::mt19937& random, int low, int high) {
  return std::uniform_int_distribution<int>(low, high)(random);
}

SchedulerLimits RandomLimits(std::mt19937& random) {
  return {.num_owners = Uniform(random, 1, 4),
          .max_sequences = Uniform(random, 1, 12),
          .max_step_tokens = Uniform(random, 1, 64),
          .min_prefill_chunk = Uniform(random, 0, 16),
          .kv_blocks_per_owner = Uniform(random, 1, 20),
          .kv_block_tokens = Uniform(random, 1, 8)};
}

TEST(SchedulePropertyTest, GuaranteesHoldInRandomStates) {
  for (unsigned seed = 0; seed < 20000 && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    const SchedulerLimits limits = RandomLimits(random);
    const int capacity = limits.kv_blocks_per_owner * limits.kv_block_tokens;
    World world(limits);
    uint64_t id = 1;
    const int num_running = Uniform(random, 0, 16);
    for (int i = 0; i < num_running; ++i) {
      const int owner = Uniform(random, 0, limits.num_owners - 1);
      const int num_tokens = Uniform(random, 1, capacity);
      SequenceView view = {.id = id,
                           .owner = owner,
                           .num_tokens = num_tokens,
                           .num_computed = Uniform(random, 0, 2) == 0
                                               ? Uniform(random, 0, num_tokens - 1)
                                               : num_tokens - 1};
      if (Uniform(random, 0, 3) == 0) view.num_reserved = Uniform(random, 0, num_tokens);
      if (world.NumHeld(view) > world.NumFree(owner)) continue;
      world.AddRunning(view);
      ++id;
    }
    const int num_waiting = Uniform(random, 0, 8);
    for (int i = 0; i < num_waiting; ++i) {
      world.AddWaiting({.id = id++, .num_tokens = Uniform(random, 1, std::max(1, capacity - 1))});
    }
    world.Step();
  }
}

TEST(SchedulePropertyTest, EverySequenceEndsInASimulatedRun) {
  for (unsigned seed = 0; seed < 300 && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    SchedulerLimits limits = RandomLimits(random);
    const int capacity = limits.kv_blocks_per_owner * limits.kv_block_tokens;
    if (capacity < 2) continue;
    World world(limits);
    const int num_sequences = Uniform(random, 1, 40);
    int64_t num_steps_alone = 0;
    for (int i = 0; i < num_sequences; ++i) {
      const uint64_t id = static_cast<uint64_t>(i) + 1;
      const int length = Uniform(random, 2, capacity);
      const int prompt = Uniform(random, 1, length - 1);
      world.lengths_[id] = length;
      world.AddWaiting({.id = id, .num_tokens = prompt});
      num_steps_alone += length;
    }
    // One row a step would end them all in num_steps_alone steps if nothing was computed twice;
    // recomputation and lost steps have to stay within a small multiple.
    int64_t num_steps = 0;
    for (; !world.empty() && num_steps < 20 * num_steps_alone; ++num_steps) {
      world.Step(/*commits=*/Uniform(random, 0, 9) != 0);
      if (testing::Test::HasFatalFailure()) return;
    }
    EXPECT_TRUE(world.empty()) << "after " << num_steps << " steps";
  }
}

TEST(SchedulePropertyTest, TheOldestSequenceIsNeverHeldUp) {
  // Newer sequences fill the cache again and again; the oldest still gets a row in every step.
  SchedulerLimits limits = Small();
  World world(limits);
  world.lengths_[1] = 40;
  world.AddWaiting({.id = 1, .num_tokens = 2});
  uint64_t id = 2;
  int num_steps = 0;
  while (world.lengths_[1] > 0 && num_steps < 200) {
    while (world.state().waiting.size() < 4) {
      world.lengths_[id] = 30;
      world.AddWaiting({.id = id++, .num_tokens = 12});
    }
    const ScheduleDecision decision = world.Step();
    ++num_steps;
    const bool has_row = std::any_of(decision.slices.begin(), decision.slices.end(),
                                     [](const ScheduledSlice& slice) { return slice.id == 1; });
    ASSERT_TRUE(has_row) << "step " << num_steps;
    const auto& running = world.state().running;
    if (std::none_of(running.begin(), running.end(),
                     [](const SequenceView& view) { return view.id == 1; })) {
      break;
    }
  }
  EXPECT_EQ(num_steps, 38);
}

}  // namespace
}  // namespace moe::engine
