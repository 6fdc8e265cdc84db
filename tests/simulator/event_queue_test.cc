#include "simulator/event_queue.h"

#include "gtest/gtest.h"

namespace moe::simulator {
namespace {

TEST(EventQueueTest, EventsComeByTimeAndThoseOfOneTimeInTheOrderInWhichTheyWerePut) {
  EventQueue queue;
  const absl::Time start = queue.now();
  queue.PushAfter(absl::Seconds(2), {.number = 1});
  queue.PushAfter(absl::Seconds(1), {.number = 2});
  queue.PushAfter(absl::Seconds(2), {.number = 3});
  queue.PushAfter(absl::Seconds(1), {.number = 4});
  EXPECT_EQ(queue.Pop().number, 2);
  EXPECT_EQ(queue.Pop().number, 4);
  EXPECT_EQ(queue.now(), start + absl::Seconds(1));
  EXPECT_EQ(queue.Pop().number, 1);
  EXPECT_EQ(queue.Pop().number, 3);
  EXPECT_TRUE(queue.empty());
}

TEST(EventQueueTest, ManyEventsOfOneTimeKeepTheirOrder) {
  EventQueue queue;
  for (uint64_t i = 0; i < 1000; ++i) queue.PushAfter(absl::Seconds(1), {.number = i});
  for (uint64_t i = 0; i < 1000; ++i) ASSERT_EQ(queue.Pop().number, i);
}

TEST(EventQueueTest, WhatWasDueEarlierIsDueNow) {
  EventQueue queue;
  queue.PushAfter(absl::Seconds(2), {});
  queue.Pop();
  const absl::Time now = queue.now();
  queue.Push(now - absl::Seconds(1), {.number = 5});
  EXPECT_EQ(queue.Pop().number, 5);
  EXPECT_EQ(queue.now(), now);
}

}  // namespace
}  // namespace moe::simulator
