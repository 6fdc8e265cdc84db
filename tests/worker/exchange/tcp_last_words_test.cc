// What a thread beside the engine's sees of a Tcp group and says in it: tcp_last_words.cc.
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker/exchange/group_steps.h"

namespace moe::exchange {
namespace {

using ::testing::HasSubstr;

struct Group : TcpThreadGroup {
  using TcpThreadGroup::TcpThreadGroup;
  // What rank 0 sees of another when that is there.
  template <typename Condition>
  PeerState Await(int rank, Condition condition) {
    while (true) {
      const PeerState state = at(0).Peek(rank);
      if (condition(state)) return state;
      std::this_thread::yield();
    }
  }
};

TEST(TcpLastWordsTest, AConnectionThatIsGoodSaysNothing) {
  Group group(SmallShape(3, 1));
  group.ConnectAll();
  for (const int rank : {1, 2}) {
    const PeerState state = group.at(0).Peek(rank);
    EXPECT_FALSE(state.is_gone);
    EXPECT_FALSE(state.answered_step.has_value());
    EXPECT_FALSE(state.words.has_value());
  }
  EXPECT_FALSE(group.at(1).Peek(2).is_gone);  // they have no connection
}

TEST(TcpLastWordsTest, WordsAreSeenWithoutBeingTaken) {
  Group group(SmallShape(3, 1));
  group.ConnectAll();
  const LastWords words = {.at = {.step = 8, .layer = 1}, .suspect = 2};
  group.at(1).Say(0, words);
  for (int i = 0; i < 2; ++i) {
    const PeerState state = group.Await(1, [](const PeerState& s) { return s.words.has_value(); });
    EXPECT_EQ(*state.words, words);
    EXPECT_FALSE(state.is_gone);
  }
  EXPECT_FALSE(group.at(0).Peek(2).words.has_value());
  const LastWords none = {.is_late = true};
  group.at(2).Say(0, none);
  EXPECT_EQ(*group.Await(2, [](const PeerState& s) { return s.words.has_value(); }).words, none);
}

TEST(TcpLastWordsTest, ARankThatHangsUpIsGoneAndItsWordsStay) {
  Group group(SmallShape(3, 1));
  group.ConnectAll();
  group.at(1).Say(0, {.suspect = 2});
  group.at(1).HangUp();
  const PeerState state = group.Await(1, [](const PeerState& s) { return s.is_gone; });
  ASSERT_TRUE(state.words.has_value());
  EXPECT_EQ(state.words->suspect, 2);
}

TEST(TcpLastWordsTest, ARankThatDiesIsGoneWithoutWords) {
  Group group(SmallShape(3, 1));
  group.ConnectAll();
  group.ranks[1].reset();
  const PeerState state = group.Await(1, [](const PeerState& s) { return s.is_gone; });
  EXPECT_FALSE(state.words.has_value());
}

TEST(TcpLastWordsTest, AResultThatWaitsIsSeen) {
  Group group(SmallShape(2, 1));
  group.ConnectAll();
  ASSERT_TRUE(group.at(0).SendPlan(4, "plan", {1}).ok());
  ASSERT_TRUE(group.at(1).ReceivePlan().ok());
  EXPECT_FALSE(group.at(0).Peek(1).answered_step.has_value());
  ASSERT_TRUE(group.at(1).SendResult(4, "result").ok());
  group.Await(1, [](const PeerState& s) { return s.answered_step == 4; });
  ASSERT_TRUE(group.at(0).ReceiveResults(4, {1}).ok());
  EXPECT_FALSE(group.at(0).Peek(1).answered_step.has_value());
}

TEST(TcpLastWordsTest, AnEngineThatWaitsHearsWhoIsToBlame) {
  for (const int suspect : {-1, 2}) {
    Group group(SmallShape(3, 1));
    group.ConnectAll();
    group.at(0).Say(1, {.at = {.step = 1, .layer = 0}, .suspect = suspect});
    const absl::Status status = group.at(1).ReceivePlan().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    EXPECT_THAT(status.ToString(),
                HasSubstr(suspect < 0 ? "rank 0 ended the epoch"
                                      : "rank 0 ended the epoch because of rank 2"));
    EXPECT_EQ(group.at(1).suspect(), suspect);
  }
}

TEST(TcpLastWordsTest, NothingIsSaidInTheMiddleOfAFrame) {
  Group group(SmallShape(2, 1));
  group.ConnectAll();
  const std::string plan(kMaxPlanBytes, 'p');
  std::thread other([&] {
    const auto received = group.at(1).ReceivePlan();
    EXPECT_TRUE(received.ok() && received->plan == plan) << received.status();
    if (!received.ok()) group.at(0).Abort("the plan did not come");
    EXPECT_TRUE(group.at(1).SendResult(1, "").ok());
  });
  // More than a socket takes at once. The other end makes room again and again, and gets no more of
  // the plan until this rank waits.
  EXPECT_TRUE(group.at(0).SendPlan(1, plan, {1}).ok());
  for (int i = 0; i < 50; ++i) {
    group.at(0).Say(1, {.suspect = 1});
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_TRUE(group.at(0).ReceiveResults(1, {1}).ok());
  other.join();
}

TEST(TcpLastWordsTest, AnEngineThatIsDoneHearsWhoIsLate) {
  Group group(SmallShape(3, 1));
  group.ConnectAll();
  ASSERT_TRUE(group.at(0).SendPlan(4, "", {1, 2}).ok());
  group.at(2).Say(0, {.at = {.step = 4, .layer = 1}, .is_late = true});
  const absl::Status status = group.at(0).ReceiveResults(4, {1, 2}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_THAT(status.ToString(),
              HasSubstr("rank 2 is late: it says that it waits in layer 1 of step 4"));
  EXPECT_EQ(group.at(0).suspect(), 2);
}

TEST(TcpLastWordsTest, AGroupWithoutExpertsMovesNoRows) {
  const GroupShape shape = SmallShape(2, 2);
  std::vector<std::unique_ptr<TcpListener>> listeners;
  TcpOptions options{.step_deadline = absl::Minutes(2), .join_deadline = absl::Minutes(2)};
  for (int rank = 0; rank < 2; ++rank) {
    listeners.push_back(*TcpListener::Start("127.0.0.1:0"));
    options.addresses.push_back(listeners.back()->address());
  }
  FakeExperts experts(shape, 0);
  options.listener = listeners[0].get();
  const auto first = TcpGroup::Create(shape, 1, &experts, options);
  ASSERT_TRUE(first.ok());
  options.listener = listeners[1].get();
  const auto second = TcpGroup::Open((*first)->bootstrap(), shape, 1, 1, nullptr, options);
  ASSERT_TRUE(second.ok());
  std::thread other([&] { EXPECT_TRUE((*second)->Connect().ok()); });
  EXPECT_TRUE((*first)->Connect().ok());
  other.join();
  ASSERT_TRUE((*first)->SendPlan(1, "", {1}).ok());
  ASSERT_TRUE((*second)->ReceivePlan().ok());
  const std::vector<int32_t> ids = {0, 1};
  EXPECT_EQ((*second)->Dispatch(1, 0, 1, ids.data()).code(), absl::StatusCode::kFailedPrecondition);
  // A rank that sends rows all the same.
  ASSERT_TRUE((*first)->Dispatch(1, 0, 1, ids.data()).ok());
  ASSERT_TRUE((*second)->SendResult(1, "").ok());
  const absl::Status status = (*second)->ReceivePlan().status();
  EXPECT_THAT(status.ToString(), HasSubstr("and rows do not travel here"));
  EXPECT_EQ((*second)->suspect(), 0);
}

}  // namespace
}  // namespace moe::exchange
