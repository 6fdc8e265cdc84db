// A control channel that takes the plan of a step before the results of the one before it.
#include <chrono>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker/exchange/group_steps.h"

namespace moe::exchange {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr absl::StatusCode kTooEarly = absl::StatusCode::kFailedPrecondition;

struct Group : TcpThreadGroup {
  explicit Group(int num_ranks, bool has_experts = false)
      : TcpThreadGroup(SmallShape(num_ranks, 1), absl::Minutes(2), absl::Minutes(2), has_experts) {
    ConnectAll();
  }
  // The next plan of `rank` is that one; it is answered.
  void Answer(int rank, uint64_t step, const std::string& text) {
    const auto plan = at(rank).ReceivePlan();
    ASSERT_TRUE(plan.ok()) << plan.status();
    EXPECT_EQ(plan->step, step);
    EXPECT_EQ(plan->plan, absl::StrCat("plan ", step));
    const absl::Status status = at(rank).SendResult(step, text);
    ASSERT_TRUE(status.ok()) << status;
  }
  absl::Status Send(uint64_t step) {
    std::vector<int> others;
    for (int rank = 1; rank < shape.num_ranks; ++rank) others.push_back(rank);
    return at(0).SendPlan(step, absl::StrCat("plan ", step), others);
  }
};

TEST(TcpPlanAheadTest, OnePlanMayBeSentBeforeTheResultsOfTheLast) {
  Group group(3);
  ASSERT_TRUE(group.at(0).TakesPlanAhead());
  ASSERT_TRUE(group.Send(5).ok());
  for (uint64_t step = 5; step < 20; ++step) {
    SCOPED_TRACE(step);
    ASSERT_TRUE(group.Send(step + 1).ok());
    EXPECT_EQ(group.Send(step + 2).code(), kTooEarly) << "two plans ahead";
    EXPECT_EQ(group.at(0).ReceiveResults(step + 2, {1, 2}).status().code(), kTooEarly);
    group.Answer(1, step, "one");
    // The second is a step ahead of the first; its results lie in wait.
    if (step % 4 == 1) {
      group.Answer(2, step, "two");
      group.Answer(2, step + 1, "two");
    } else if (step % 4 != 2) {
      group.Answer(2, step, "two");
    }
    const auto results = group.at(0).ReceiveResults(step, {2, 1});
    ASSERT_TRUE(results.ok()) << results.status();
    EXPECT_THAT(*results, ElementsAre("two", "one"));
  }
}

// More than a socket takes: a result goes on while its rank is in the step after, and waits there.
TEST(TcpPlanAheadTest, LargePlansAndResultsPassEachOther) {
  constexpr uint64_t kNumSteps = 6;
  Group group(2);
  const auto large = [](char what, uint64_t step) {
    return std::string(kMaxPlanBytes, static_cast<char>(what + step));
  };
  std::thread other([&] {
    for (uint64_t step = 1; step <= kNumSteps; ++step) {
      const auto plan = group.at(1).ReceivePlan();
      ASSERT_TRUE(plan.ok() && plan->step == step) << plan.status();
      EXPECT_TRUE(plan->plan == large('a', step));
      const absl::Status status = group.at(1).SendResult(step, large('A', step));
      ASSERT_TRUE(status.ok()) << status;
    }
    // Its last result may not be sent yet: that goes on while it waits.
    EXPECT_TRUE(absl::IsAborted(group.at(1).ReceivePlan().status()));
  });
  EXPECT_TRUE(group.at(0).SendPlan(1, large('a', 1), {1}).ok());
  for (uint64_t step = 1; step <= kNumSteps; ++step) {
    if (step < kNumSteps) {
      EXPECT_TRUE(group.at(0).SendPlan(step + 1, large('a', step + 1), {1}).ok());
    }
    const auto results = group.at(0).ReceiveResults(step, {1});
    EXPECT_TRUE(results.ok() && (*results)[0] == large('A', step)) << step << results.status();
  }
  group.at(1).Abort("the test is over");
  other.join();
}

TEST(TcpPlanAheadTest, AResultThatWaitsIsNotOvertakenByTheNext) {
  Group group(2);
  ASSERT_TRUE(group.Send(1).ok());
  ASSERT_TRUE(group.Send(2).ok());
  const std::string first(kMaxResultBytes / 4, '1');
  const std::string second(kMaxResultBytes / 4, '2');
  group.Answer(1, 1, first);
  group.Answer(1, 2, second);  // nobody has received the first
  std::thread other([&] { EXPECT_TRUE(absl::IsAborted(group.at(1).ReceivePlan().status())); });
  for (const auto& [step, expected] : {std::pair(1, first), std::pair(2, second)}) {
    const auto results = group.at(0).ReceiveResults(step, {1});
    EXPECT_TRUE(results.ok() && (*results)[0] == expected) << step << results.status();
  }
  group.at(1).Abort("the test is over");
  other.join();
}

TEST(TcpPlanAheadTest, WhereRowsTravelThePlanComesAfterTheResults) {
  Group group(2, /*has_experts=*/true);
  EXPECT_FALSE(group.at(0).TakesPlanAhead());
  ASSERT_TRUE(group.Send(1).ok());
  EXPECT_EQ(group.Send(2).code(), kTooEarly);
  group.Answer(1, 1, "one");
  EXPECT_EQ(group.Send(2).code(), kTooEarly) << "the result was not received";
  ASSERT_TRUE(group.at(0).ReceiveResults(1, {1}).ok());
  EXPECT_TRUE(group.Send(2).ok());
}

TEST(TcpPlanAheadTest, WordsAreSeenBehindThePlanThatWaits) {
  Group group(2);
  ASSERT_TRUE(group.Send(1).ok());
  ASSERT_TRUE(group.at(1).ReceivePlan().ok());
  ASSERT_TRUE(group.Send(2).ok());
  const LastWords words = {.at = {.step = 1, .layer = 0}, .suspect = 1};
  group.at(0).Say(1, words);
  group.at(0).HangUp();
  while (true) {
    const PeerState state = group.at(1).Peek(0);
    if (state.is_gone && state.words.has_value()) {
      EXPECT_EQ(*state.words, words);
      break;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

TEST(TcpPlanAheadTest, ARankThatWaitsInTheStepAheadIsNotTheLateOne) {
  Group group(3);
  ASSERT_TRUE(group.Send(4).ok());
  ASSERT_TRUE(group.Send(5).ok());
  group.Answer(1, 4, "one");
  group.at(1).Say(0, {.at = {.step = 5, .layer = 1}, .is_late = true});
  const absl::Status status = group.at(0).ReceiveResults(4, {1, 2}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_THAT(status.ToString(),
              HasSubstr("rank 2 did not send its result of step 4, while rank 1 waits in step 5"));
  EXPECT_EQ(group.at(0).suspect(), 2);
}

}  // namespace
}  // namespace moe::exchange
