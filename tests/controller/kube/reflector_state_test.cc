#include <string>
#include <vector>

#include "controller/kube/answer.h"
#include "controller/kube/backoff.h"
#include "controller/kube/reflector.h"
#include "gtest/gtest.h"

namespace moe::kube {
namespace {

constexpr absl::Duration kFirst = absl::Milliseconds(800);
constexpr absl::Duration kMax = absl::Seconds(30);

WatchEvent EventAt(WatchEvent::Type type, const std::string& version) {
  WatchEvent event;
  event.type = type;
  event.object = {{"metadata", {{"name", "a"}, {"resourceVersion", version}}}};
  event.resource_version = version;
  return event;
}

// A state that watches from version 10.
ReflectorState Watching() {
  ReflectorState state(kFirst, kMax);
  state.OnList("10", 0);
  return state;
}

TEST(BackoffTest, PausesDoubleUpToTheMaximumWithJitter) {
  Backoff backoff(kFirst, kMax);
  const std::vector<double> seconds = {0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30};
  for (const double pause : seconds) {
    EXPECT_EQ(backoff.Next(0), absl::Seconds(pause));
  }
  EXPECT_EQ(backoff.Next(0.5), absl::Seconds(37.5));
  backoff.Reset();
  EXPECT_EQ(backoff.Next(0), kFirst);
}

TEST(ReflectorStateTest, ItListsThenWatchesFromTheListsVersion) {
  ReflectorState state(kFirst, kMax);
  EXPECT_TRUE(state.next().list);
  EXPECT_EQ(state.next().pause, absl::ZeroDuration());
  state.OnList("10", 0);
  EXPECT_FALSE(state.next().list);
  EXPECT_EQ(state.next().resource_version, "10");
  EXPECT_EQ(state.next().pause, absl::ZeroDuration());
}

TEST(ReflectorStateTest, OnlyAServerThatIsNotThereIsTriedEarlierWhenItIsBack) {
  ReflectorState state(kFirst, kMax);
  EXPECT_FALSE(state.next().may_be_shorter);
  state.OnList(absl::UnavailableError("no connection"), 0);
  EXPECT_TRUE(state.next().may_be_shorter);
  state.OnList(absl::PermissionDeniedError("403"), 0);
  EXPECT_FALSE(state.next().may_be_shorter);
  state.OnList(ErrorOf(503, "", "list pods", /*is_create=*/false, absl::Seconds(1)), 0);
  EXPECT_FALSE(state.next().may_be_shorter) << "the server asked for the pause";
  state.OnList("10", 0);
  state.OnWatchEnd(absl::UnavailableError("no connection"), absl::Seconds(10), 0);
  EXPECT_TRUE(state.next().may_be_shorter);
}

TEST(ReflectorStateTest, AnHourOfFailingListsIsTriedEachHalfMinute) {
  ReflectorState state(kFirst, kMax);
  absl::Duration passed;
  int tries = 0;
  for (; passed < absl::Hours(1); ++tries) {
    state.OnList(absl::UnavailableError("503"), 0);
    EXPECT_TRUE(state.next().list);
    passed += state.next().pause;
  }
  EXPECT_LT(tries, 130);
  state.OnList("10", 0);
  EXPECT_FALSE(state.next().list);
}

TEST(ReflectorStateTest, RetryAfterMakesThePauseLongerNeverShorter) {
  ReflectorState state(kFirst, kMax);
  state.OnList(ErrorOf(429, "", "list", false, absl::Seconds(7)), 0);
  EXPECT_EQ(state.next().pause, absl::Seconds(7));
  state.OnList(ErrorOf(429, "", "list", false, absl::Seconds(1)), 0);
  EXPECT_EQ(state.next().pause, absl::Seconds(1.6));
}

TEST(ReflectorStateTest, AWatchThatEndsInOrderGoesOnAtOnceFromTheLastVersion) {
  for (const auto type : {WatchEvent::kAdded, WatchEvent::kBookmark, WatchEvent::kDeleted}) {
    ReflectorState state = Watching();
    absl::Status error;
    ASSERT_TRUE(state.OnEvent(EventAt(type, "17"), &error));
    state.OnWatchEnd(absl::OkStatus(), absl::Minutes(5), 0);
    EXPECT_FALSE(state.next().list);
    EXPECT_EQ(state.next().resource_version, "17");
    EXPECT_EQ(state.next().pause, absl::ZeroDuration());
  }
}

TEST(ReflectorStateTest, ABrokenOrSilentConnectionGoesOnFromTheLastVersionAfterAPause) {
  ReflectorState state = Watching();
  absl::Status error;
  ASSERT_TRUE(state.OnEvent(EventAt(WatchEvent::kModified, "17"), &error));
  state.OnWatchEnd(absl::UnavailableError("silent"), absl::Minutes(3), 0);
  EXPECT_FALSE(state.next().list);
  EXPECT_EQ(state.next().resource_version, "17");
  EXPECT_EQ(state.next().pause, kFirst);
}

TEST(ReflectorStateTest, WhatCannotBeTrustedIsListedAgain) {
  for (const absl::Status& status :
       {absl::DataLossError("half a line"), absl::OutOfRangeError("410")}) {
    ReflectorState state = Watching();
    state.OnWatchEnd(status, absl::Minutes(1), 0);
    EXPECT_TRUE(state.next().list) << status;
    EXPECT_GT(state.next().pause, absl::ZeroDuration());
  }
}

TEST(ReflectorStateTest, AnErrorEventEndsTheWatchAndListsAgain) {
  for (const int code : {410, 500, 0}) {
    ReflectorState state = Watching();
    WatchEvent event;
    event.type = WatchEvent::kError;
    event.object = {{"kind", "Status"}, {"code", code}, {"message", "too old"}};
    absl::Status error;
    EXPECT_FALSE(state.OnEvent(event, &error));
    EXPECT_EQ(error.code(),
              code == 410 ? absl::StatusCode::kOutOfRange : absl::StatusCode::kDataLoss);
    state.OnWatchEnd(error, absl::Seconds(5), 0);
    EXPECT_TRUE(state.next().list);
  }
}

TEST(ReflectorStateTest, AServerThatEndsEveryWatchAtOnceIsAskedLessAndLess) {
  ReflectorState state = Watching();
  absl::Duration last;
  for (int i = 0; i < 6; ++i) {
    state.OnWatchEnd(absl::OkStatus(), absl::Milliseconds(1), 0);
    EXPECT_GT(state.next().pause, last);
    last = state.next().pause;
  }
}

TEST(ReflectorStateTest, GoodListsAndFailingWatchesDoNotSpin) {
  ReflectorState state = Watching();
  absl::Duration last;
  for (int i = 0; i < 6; ++i) {
    state.OnWatchEnd(absl::OutOfRangeError("410"), absl::Milliseconds(1), 0);
    EXPECT_GT(state.next().pause, last);
    last = state.next().pause;
    state.OnList("10", 0);
  }
}

}  // namespace
}  // namespace moe::kube
