#include "worker/exchange/nccl/watch.h"

#include <functional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::exchange {
namespace {

using ::testing::HasSubstr;
using Action = WatchVerdict::Action;

constexpr Clock::time_point kNow(std::chrono::hours(1));
constexpr std::chrono::milliseconds kMoment(1);

// A view of rank 1 of 4, in layer 5 of step 7, in which nothing is wrong. Owns its peers.
struct View : WatchView {
  View() {
    states.resize(4);
    now = kNow;
    rank = 1;
    deadline = kNow + kMoment;
    at = {.step = 7, .layer = 5};
  }
  WatchVerdict Look() {
    peers = states;
    return Judge(*this);
  }
  // The deadline has passed, and the others were asked so long ago.
  void BeLate(int at_rank, std::chrono::milliseconds asked_before) {
    rank = at_rank;
    deadline = kNow;
    asked_at = kNow - asked_before;
  }
  std::vector<PeerState> states;
};

TEST(WatchTest, AStepThatGoesWellGoesOn) {
  View view;
  EXPECT_EQ(view.Look().action, Action::kGoOn);
  view.deadline = Clock::time_point::max();
  view.now += std::chrono::hours(100);
  EXPECT_EQ(view.Look().action, Action::kGoOn);
}

struct Case {
  std::string name;
  std::function<void(View&)> set;
  absl::StatusCode code;
  int suspect;
  std::string words;  // of the reason
};

TEST(WatchTest, TheReasonAndTheSuspectAreTheOnesNearestToTheCause) {
  for (const Case& c : std::vector<Case>{
           {"a rank is gone", [](View& v) { v.states[2].is_gone = true; },
            absl::StatusCode::kUnavailable, 2, "rank 2: its connection ended in layer 5 of step 7"},
           {"a rank is gone before the first layer",
            [](View& v) {
              v.states[2].is_gone = true;
              v.at.layer = -1;
            },
            absl::StatusCode::kUnavailable, 2,
            "rank 2: its connection ended at the start of step 7"},
           {"a rank is gone between steps",
            [](View& v) {
              v.states[2].is_gone = true;
              v.deadline = Clock::time_point::max();
            },
            absl::StatusCode::kUnavailable, 2, "between two steps"},
           {"a rank is gone while ranks join",
            [](View& v) {
              v.states[3].is_gone = true;
              v.is_joining = true;
            },
            absl::StatusCode::kUnavailable, 3, "while NCCL connects the ranks"},
           {"of several that are gone the lowest",
            [](View& v) { v.states[2].is_gone = v.states[3].is_gone = true; },
            absl::StatusCode::kUnavailable, 2, "rank 2"},
           {"a rank that hung up because of another",
            [](View& v) { v.states[0] = {.is_gone = true, .words = LastWords{.suspect = 3}}; },
            absl::StatusCode::kUnavailable, 3, "rank 0 ended the epoch because of rank 3"},
           {"what a rank said counts more than that another is gone",
            [](View& v) {
              v.states[0].is_gone = true;
              v.states[2] = {.is_gone = true, .words = LastWords{.suspect = 3}};
            },
            absl::StatusCode::kUnavailable, 3, "rank 2 ended the epoch because of rank 3"},
           {"a rank that was late and then is gone",
            [](View& v) { v.states[2] = {.is_gone = true, .words = LastWords{.is_late = true}}; },
            absl::StatusCode::kUnavailable, 2, "rank 2: its connection ended"},
           {"a rank that hung up because of nobody",
            [](View& v) { v.states[0] = {.is_gone = true, .words = LastWords{}}; },
            absl::StatusCode::kUnavailable, -1, "rank 0 ended the epoch in layer 5 of step 7"},
           {"NCCL's error, when no rank turns out to be gone",
            [](View& v) {
              v.communicator = absl::InternalError("bad");
              v.communicator_failed = kNow - kErrorPatience;
            },
            absl::StatusCode::kInternal, -1, "bad (in layer 5 of step 7)"},
           {"NCCL's error, when a rank is gone",
            [](View& v) {
              v.communicator = absl::InternalError("bad");
              v.communicator_failed = kNow;
              v.states[3].is_gone = true;
            },
            absl::StatusCode::kUnavailable, 3, "rank 3"},
           {"rank 0 does not say who is late", [](View& v) { v.BeLate(1, kLateVerdictPatience); },
            absl::StatusCode::kDeadlineExceeded, 0, "rank 0 hangs: step 7 is late"},
           {"one rank is silent",
            [](View& v) {
              v.BeLate(0, kLatePatience);
              v.states[1].words = v.states[3].words = LastWords{.at = v.at};
            },
            absl::StatusCode::kDeadlineExceeded, 2, "rank 2 hangs: step 7 is late"},
           {"one rank is behind",
            [](View& v) {
              v.BeLate(0, kMoment);
              v.states[1].words = v.states[2].words = LastWords{.at = v.at};
              v.states[3].words = LastWords{.at = {.step = 7, .layer = 4}};
            },
            absl::StatusCode::kDeadlineExceeded, 3,
            "rank 3 is late: step 7 is late, and it has only come to layer 4 of step 7"},
           {"one rank has not begun",
            [](View& v) {
              v.BeLate(0, kMoment);
              v.states[1].words = v.states[2].words = LastWords{.at = v.at};
              v.states[3].words = LastWords{.at = {.step = 7, .layer = -1}};
            },
            absl::StatusCode::kDeadlineExceeded, 3, "only come to the start of step 7"},
           {"rank 0 is behind",
            [](View& v) {
              v.BeLate(0, kMoment);
              for (int r : {1, 2, 3}) v.states[r].words = LastWords{.at = {.step = 7, .layer = 6}};
            },
            absl::StatusCode::kDeadlineExceeded, 0, "rank 0 is late"},
           {"a rank that has answered is not late",
            [](View& v) {
              v.BeLate(0, kMoment);
              v.states[1].words = LastWords{.at = {.step = 7, .layer = 2}};
              v.states[2].answered_step = v.states[3].answered_step = 7;
            },
            absl::StatusCode::kDeadlineExceeded, 1, "rank 1 is late"},
           {"an answer to the step before says nothing",
            [](View& v) {
              v.BeLate(0, kLatePatience);
              v.states[1].words = v.states[2].words = LastWords{.at = v.at};
              v.states[3].answered_step = 6;
            },
            absl::StatusCode::kDeadlineExceeded, 3, "rank 3 hangs"},
           {"all came equally far",
            [](View& v) {
              v.BeLate(0, kMoment);
              for (int r : {1, 2, 3}) v.states[r].words = LastWords{.at = v.at};
            },
            absl::StatusCode::kDeadlineExceeded, -1, "all ranks came equally far"},
           {"another rank waits where rank 0 does not",
            [](View& v) {
              v.BeLate(0, kLatePatience);
              v.deadline = Clock::time_point::max();
              v.states[1].words = LastWords{.at = {.step = 7, .layer = 3}, .is_late = true};
              v.states[2].words = LastWords{.at = {.step = 7, .layer = 2}, .is_late = true};
            },
            absl::StatusCode::kDeadlineExceeded, 2,
            "rank 2 is late: it says that it waits in layer 2 of step 7, and rank 0 does not"},
           {"NCCL never connects",
            [](View& v) {
              v.BeLate(0, kMoment);
              v.is_joining = true;
              v.at = {};
              for (int r : {1, 2, 3}) v.states[r].words = LastWords{};
            },
            absl::StatusCode::kDeadlineExceeded, -1, "NCCL did not connect the ranks in time"},
       }) {
    View view;
    c.set(view);
    const WatchVerdict verdict = view.Look();
    EXPECT_EQ(verdict.action, Action::kEnd) << c.name;
    EXPECT_EQ(verdict.status.code(), c.code) << c.name;
    EXPECT_THAT(verdict.status.ToString(), HasSubstr(c.words)) << c.name;
    EXPECT_EQ(verdict.suspect, c.suspect) << c.name;
  }
}

TEST(WatchTest, NothingIsSaidBeforeItCanBeKnown) {
  View error;
  error.communicator = absl::InternalError("bad");
  error.communicator_failed = kNow - kErrorPatience + kMoment;
  EXPECT_EQ(error.Look().action, Action::kGoOn);

  View late;
  late.deadline = kNow;
  EXPECT_EQ(late.Look().action, Action::kAskWhoIsLate);
  View waiting;
  waiting.rank = 0;
  waiting.states[2].words = LastWords{.at = {.step = 7, .layer = 1}, .is_late = true};
  EXPECT_EQ(waiting.Look().action, Action::kAskWhoIsLate);
  waiting.asked_at = kNow - kLatePatience + kMoment;
  EXPECT_EQ(waiting.Look().action, Action::kGoOn);
  late.BeLate(1, kLateVerdictPatience - kMoment);
  EXPECT_EQ(late.Look().action, Action::kGoOn);
  late.BeLate(0, kLatePatience - kMoment);
  late.states[1].words = LastWords{.at = {.step = 7, .layer = 1}};
  EXPECT_EQ(late.Look().action, Action::kGoOn);
}

TEST(WatchTest, WhoSaysHowFarItCameHasNotEndedTheEpoch) {
  View view;
  view.states[2].words = LastWords{.at = {.step = 7, .layer = 1}, .is_late = true};
  EXPECT_EQ(view.Look().action, Action::kGoOn);
}

}  // namespace
}  // namespace moe::exchange
