#include "controller/kube/events.h"

#include <atomic>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "controller/kube/resource_types.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/controller/kube/fake_api.h"

namespace moe::kube {
namespace {

using testing::FakeApi;
using testing::FakeObjects;

const absl::Time kStart = absl::UnixEpoch() + absl::Hours(1);

Event Failed(const std::string& name, const std::string& note = "worker 3 failed") {
  return {.type = kMoeDeployments,
          .key = {.ns = "default", .name = name},
          .uid = "u-" + name,
          .warning = true,
          .reason = "WorkerFailed",
          .action = "Replace",
          .note = note};
}

TEST(EventAggregatorTest, RepeatsBecomeOneSeriesWrittenAtMostEachHalfMinute) {
  EventAggregator aggregator({});
  bool limited = false;
  const auto first = aggregator.Observe(Failed("a"), kStart, &limited);
  ASSERT_TRUE(first.has_value());
  EXPECT_TRUE(first->create);
  for (int i = 1; i <= 100; ++i) {
    EXPECT_FALSE(aggregator.Observe(Failed("a"), kStart + absl::Milliseconds(i), &limited));
    EXPECT_FALSE(limited);
  }
  EXPECT_TRUE(aggregator.TakeDue(kStart + absl::Seconds(29)).empty());
  EXPECT_EQ(aggregator.next_due(), kStart + absl::Seconds(30));
  const auto due = aggregator.TakeDue(kStart + absl::Seconds(30));
  ASSERT_EQ(due.size(), 1);
  EXPECT_FALSE(due[0].create);
  EXPECT_EQ(due[0].name, first->name);
  EXPECT_EQ(due[0].count, 101);
  EXPECT_TRUE(aggregator.TakeDue(kStart + absl::Seconds(61)).empty());
}

TEST(EventAggregatorTest, WhatDiffersIsAnotherEvent) {
  EventAggregator aggregator({});
  bool limited = false;
  const auto a = aggregator.Observe(Failed("a"), kStart, &limited);
  const auto b = aggregator.Observe(Failed("b"), kStart, &limited);
  const auto other_note = aggregator.Observe(Failed("a", "worker 4 failed"), kStart, &limited);
  ASSERT_TRUE(a.has_value() && b.has_value() && other_note.has_value());
  EXPECT_NE(a->name, b->name);
  EXPECT_NE(a->name, other_note->name);
}

TEST(EventAggregatorTest, ASeriesThatIsOldBeginsAnew) {
  EventAggregator aggregator({});
  bool limited = false;
  const auto first = aggregator.Observe(Failed("a"), kStart, &limited);
  const auto later = aggregator.Observe(Failed("a"), kStart + absl::Minutes(6), &limited);
  ASSERT_TRUE(later.has_value());
  EXPECT_TRUE(later->create);
  EXPECT_NE(later->name, first->name);
  EXPECT_TRUE(aggregator.TakeDue(kStart + absl::Minutes(20)).empty());
  EXPECT_EQ(aggregator.next_due(), absl::InfiniteFuture());
}

TEST(EventAggregatorTest, OneObjectCannotFloodTheServerButOthersAreHeard) {
  EventAggregator aggregator({});
  int written = 0;
  bool limited = false;
  for (int i = 0; i < 1000; ++i) {
    written += aggregator.Observe(Failed("a", absl::StrCat("note ", i)), kStart, &limited) ? 1 : 0;
  }
  EXPECT_EQ(written, 25);
  EXPECT_TRUE(limited);
  EXPECT_TRUE(aggregator.Observe(Failed("b"), kStart, &limited).has_value());
}

TEST(EventAggregatorTest, MemoryIsBoundedWhateverComes) {
  EventOptions options;
  options.max_series = 10;
  EventAggregator aggregator(options);
  bool limited = false;
  for (int i = 0; i < 1000; ++i) {
    aggregator.Observe(Failed(absl::StrCat("o", i)), kStart + absl::Milliseconds(i), &limited);
    aggregator.Observe(Failed(absl::StrCat("o", i)), kStart + absl::Milliseconds(i), &limited);
  }
  EXPECT_LE(aggregator.TakeDue(kStart + absl::Minutes(1)).size(), 10);
}

TEST(EventObjectTest, FieldsFitTheServersLimits) {
  EventAggregator aggregator({});
  bool limited = false;
  Event event = Failed(std::string(253, 'n'));
  for (int i = 0; i < 1000; ++i) {
    event.note += "ü";
  }
  const auto write = aggregator.Observe(event, kStart, &limited);
  const Json object = EventObject(*write, {.instance = std::string(300, 'i')}, kStart);
  EXPECT_LE(object["metadata"]["name"].get<std::string>().size(), 253);
  EXPECT_LE(object["note"].get<std::string>().size(), 1024);
  EXPECT_NO_THROW((void)object.dump());  // still UTF-8
  EXPECT_EQ(object["reportingInstance"].get<std::string>().size(), 128);
  EXPECT_EQ(object["type"], "Warning");
  EXPECT_EQ(object["regarding"]["kind"], "MoEDeployment");
  EXPECT_EQ(object["eventTime"], "1970-01-01T01:00:00.000000Z");
  event.key.ns = "";
  EXPECT_EQ(EventNamespace(event), "default");
}

// Waits until `number` gives at least `expected`.
template <typename Number>
bool Reaches(Number number, int64_t expected) {
  const absl::Time give_up = absl::Now() + absl::Seconds(30);
  while (number() < expected) {
    if (absl::Now() > give_up) {
      return false;
    }
    absl::SleepFor(absl::Milliseconds(2));
  }
  return true;
}

TEST(EventRecorderTest, EventsAreWrittenAndALostAnswerMakesNoSecondOne) {
  FakeObjects objects;
  FakeApi api(objects);
  std::atomic<int> num_lost{0};
  api.SetAfter([&num_lost](const std::string&, const ResourceType&) {
    return num_lost.fetch_add(1) == 0 ? absl::UnavailableError("lost") : absl::OkStatus();
  });
  EventOptions options;
  options.retry_pause = absl::ZeroDuration();
  EventRecorder recorder(api, options);
  recorder.Record(Failed("a"));
  ASSERT_TRUE(Reaches([&] { return recorder.num_written(); }, 1));
  EXPECT_EQ(objects.All(kEvents).size(), 1);
  EXPECT_EQ(recorder.num_dropped(), 0);
}

TEST(EventRecorderTest, AServerThatHangsNeverBlocksTheCallerAndDropsAreCounted) {
  FakeObjects objects;
  FakeApi api(objects);
  absl::Notification hanging;
  absl::Notification go_on;
  api.SetBefore([&](const std::string&, const ResourceType&) {
    if (!hanging.HasBeenNotified()) {
      hanging.Notify();
    }
    go_on.WaitForNotification();
    return absl::OkStatus();
  });
  EventOptions options;
  options.max_queue = 10;
  EventRecorder recorder(api, options);
  recorder.Record(Failed("first"));
  hanging.WaitForNotification();
  for (int i = 0; i < 50; ++i) {
    recorder.Record(Failed(absl::StrCat("o", i)));
  }
  EXPECT_EQ(recorder.num_dropped(), 40);
  go_on.Notify();
  EXPECT_TRUE(Reaches([&] { return recorder.num_written(); }, 11));
}

TEST(EventRecorderTest, WhatCannotBeWrittenIsCountedAndTheNextOneTriedAnew) {
  FakeObjects objects;
  FakeApi api(objects);
  api.SetBefore([](const std::string&, const ResourceType&) {
    return absl::PermissionDeniedError("the namespace is being terminated");
  });
  EventRecorder recorder(api, {});
  recorder.Record(Failed("a"));
  ASSERT_TRUE(Reaches([&] { return recorder.num_dropped(); }, 1));
  api.SetBefore(nullptr);
  recorder.Record(Failed("a"));
  EXPECT_TRUE(Reaches([&] { return recorder.num_written(); }, 1));
}

}  // namespace
}  // namespace moe::kube
