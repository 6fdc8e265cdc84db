#include "controller/kube/work_queue.h"

#include <atomic>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace moe::kube {
namespace {

const absl::Time kStart = absl::UnixEpoch();
const ObjectKey kA{.ns = "n", .name = "a"};
const ObjectKey kB{.ns = "n", .name = "b"};

TEST(WorkQueueStateTest, AKeyThatWaitsIsKeptOnce) {
  WorkQueueState queue({});
  queue.Add(kA);
  queue.Add(kB);
  queue.Add(kA);
  EXPECT_EQ(queue.num_ready(), 2);
  EXPECT_EQ(queue.Take(kStart), kA);
  EXPECT_EQ(queue.Take(kStart), kB);
  EXPECT_EQ(queue.Take(kStart), std::nullopt);
}

TEST(WorkQueueStateTest, AKeyInSomebodysHandsComesBackOnlyWhenDone) {
  WorkQueueState queue({});
  queue.Add(kA);
  EXPECT_EQ(queue.Take(kStart), kA);
  queue.Add(kA);
  queue.Add(kA);
  EXPECT_EQ(queue.Take(kStart), std::nullopt);
  queue.Done(kA);
  EXPECT_EQ(queue.Take(kStart), kA);
  queue.Done(kA);
  EXPECT_EQ(queue.Take(kStart), std::nullopt);
}

TEST(WorkQueueStateTest, OfSeveralDelaysTheEarliestCounts) {
  WorkQueueState queue({});
  queue.AddAt(kA, kStart + absl::Seconds(5));
  queue.AddAt(kA, kStart + absl::Seconds(2));
  queue.AddAt(kA, kStart + absl::Seconds(9));
  EXPECT_EQ(queue.num_delayed(), 1);
  EXPECT_EQ(queue.next_due(), kStart + absl::Seconds(2));
  EXPECT_EQ(queue.Take(kStart + absl::Milliseconds(1999)), std::nullopt);
  EXPECT_EQ(queue.Take(kStart + absl::Seconds(2)), kA);
  queue.Done(kA);
  EXPECT_EQ(queue.Take(kStart + absl::Seconds(10)), std::nullopt);
  EXPECT_EQ(queue.next_due(), absl::InfiniteFuture());
}

TEST(WorkQueueStateTest, FailuresOfAKeyPauseItFrom5MillisecondsTo1000Seconds) {
  WorkQueueState queue({});
  absl::Time now = kStart;
  absl::Duration expected = absl::Milliseconds(5);
  for (int i = 0; i < 60; ++i) {
    queue.AddFailed(kA, now);
    EXPECT_EQ(queue.next_due() - now, expected) << i;
    now = queue.next_due();
    ASSERT_EQ(queue.Take(now), kA);
    queue.Done(kA);
    expected = std::min(expected * 2, absl::Seconds(1000));
  }
  EXPECT_EQ(queue.num_failures(kA), 60);
  queue.Forget(kA);
  queue.AddFailed(kA, now);
  EXPECT_EQ(queue.next_due() - now, absl::Milliseconds(5));
}

TEST(WorkQueueStateTest, ManyFailingKeysAreRetriedTenTimesASecondAfterABurst) {
  WorkQueueState queue({});
  for (int i = 0; i < 150; ++i) {
    queue.AddFailed({.ns = "n", .name = absl::StrCat(i)}, kStart);
  }
  const auto ready_at = [&queue](absl::Duration after) {
    int count = 0;
    while (queue.Take(kStart + after).has_value()) {
      ++count;
    }
    return count;
  };
  EXPECT_EQ(ready_at(absl::Milliseconds(5)), 100);
  EXPECT_EQ(ready_at(absl::Seconds(1)), 10);
  EXPECT_EQ(ready_at(absl::Seconds(5)), 40);
}

TEST(WorkQueueTest, NoKeyIsEverInTwoHandsAndNoChangeIsForgotten) {
  WorkQueue queue;
  constexpr int kKeys = 4;
  constexpr int kAdds = 2000;
  // What is there to be seen, and what was seen last, of each key.
  std::vector<std::atomic<int>> versions(kKeys);
  std::vector<std::atomic<int>> seen(kKeys);
  std::vector<std::atomic<int>> hands(kKeys);
  std::atomic<bool> two_hands{false};
  std::vector<std::thread> workers;
  workers.reserve(4);
  for (int i = 0; i < 4; ++i) {
    workers.emplace_back([&] {
      while (const std::optional<ObjectKey> key = queue.Get()) {
        const auto index = static_cast<size_t>(key->name[0] - '0');
        if (hands[index].fetch_add(1) != 0) {
          two_hands.store(true);
        }
        seen[index].store(versions[index].load());
        hands[index].fetch_sub(1);
        queue.Done(*key);
      }
    });
  }
  for (int i = 0; i < kAdds; ++i) {
    for (int k = 0; k < kKeys; ++k) {
      versions[static_cast<size_t>(k)].fetch_add(1);
      queue.Add({.ns = "n", .name = absl::StrCat(k)});
    }
  }
  for (size_t k = 0; k < kKeys; ++k) {
    while (seen[k].load() != kAdds) {
      std::this_thread::yield();
    }
  }
  queue.ShutDown();
  for (std::thread& worker : workers) {
    worker.join();
  }
  EXPECT_FALSE(two_hands.load());
}

TEST(WorkQueueTest, ADelayedKeyComesWhenTheClockSaysSo) {
  std::atomic<int64_t> seconds{0};
  WorkQueue queue({}, [&seconds] { return kStart + absl::Seconds(seconds.load()); });
  queue.AddAfter(kA, absl::Hours(1));
  queue.Add(kB);
  EXPECT_EQ(queue.Get(), kB);
  std::atomic<bool> got{false};
  std::thread worker([&] {
    EXPECT_EQ(queue.Get(), kA);
    got.store(true);
  });
  seconds.store(3599);
  queue.ClockMoved();
  EXPECT_FALSE(got.load());
  seconds.store(3600);
  queue.ClockMoved();
  worker.join();
  EXPECT_TRUE(got.load());
}

TEST(WorkQueueTest, ShutDownWakesEverybodyWhoWaits) {
  WorkQueue queue;
  std::vector<std::thread> workers;
  workers.reserve(3);
  for (int i = 0; i < 3; ++i) {
    workers.emplace_back([&queue] { EXPECT_EQ(queue.Get(), std::nullopt); });
  }
  queue.AddAfter(kA, absl::Hours(1));
  queue.ShutDown();
  for (std::thread& worker : workers) {
    worker.join();
  }
}

}  // namespace
}  // namespace moe::kube
