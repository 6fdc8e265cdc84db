// Tests kernels/thread_pool.h and kernels/scratch.h.
#include "kernels/thread_pool.h"

#include <atomic>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/scratch.h"

namespace moe::kernels {
namespace {

TEST(ThreadPoolTest, RunsEachTaskOnce) {
  for (const int num_threads : {1, 2, 3, 8}) {
    for (const int spin_microseconds : {0, 50}) {
      ThreadPool pool({.num_threads = num_threads, .spin_microseconds = spin_microseconds});
      EXPECT_EQ(pool.num_threads(), num_threads);
      for (const int num_tasks : {0, 1, 2, 3, 7, 100, 1000}) {
        std::vector<std::atomic<int>> calls(num_tasks);
        pool.ParallelFor(num_tasks, [&](int task) { calls[task].fetch_add(1); });
        for (int task = 0; task < num_tasks; ++task) ASSERT_EQ(calls[task].load(), 1);
      }
    }
  }
}

TEST(ThreadPoolTest, WritesOfALoopAreSeenAfterItAndInTheNextOne) {
  // Many short loops in a row: a worker that wakes late must not disturb a later loop. The values
  // are not atomic, so that the thread sanitizer would see a missing order.
  for (const int spin_microseconds : {0, 20}) {
    ThreadPool pool({.num_threads = 3, .spin_microseconds = spin_microseconds});
    std::vector<int> values(16, 0);
    constexpr int kLoops = 3000;
    for (int loop = 0; loop < kLoops; ++loop) {
      const int num_tasks = 1 + loop % 16;
      pool.ParallelFor(num_tasks, [&](int task) { values[(task + loop) % 16] += 1; });
    }
    int64_t sum = 0;
    for (const int value : values) sum += value;
    int64_t expected = 0;
    for (int loop = 0; loop < kLoops; ++loop) expected += 1 + loop % 16;
    EXPECT_EQ(sum, expected);
  }
}

TEST(ThreadPoolTest, UsesItsThreads) {
  ThreadPool pool({.num_threads = 3});
  // Each task waits for the two others, so one thread alone could not end the loop.
  std::atomic<int> started = 0;
  pool.ParallelFor(3, [&](int) {
    started.fetch_add(1);
    while (started.load() < 3) {
    }
  });
  EXPECT_EQ(started.load(), 3);
}

TEST(ThreadPoolTest, AllThreadsFlushDenormalsAndTheCallerOnlyInTheLoop) {
  ThreadPool pool({.num_threads = 3});
  volatile float smallest = std::numeric_limits<float>::min();
  const auto half = [&] { return smallest * 0.5f; };
  EXPECT_NE(half(), 0.0f);
  std::atomic<int> started = 0;
  std::atomic<int> flushed = 0;
  pool.ParallelFor(3, [&](int) {
    started.fetch_add(1);
    while (started.load() < 3) {
    }
    if (half() == 0.0f) flushed.fetch_add(1);
  });
  EXPECT_EQ(flushed.load(), 3);
  EXPECT_NE(half(), 0.0f);
}

TEST(ThreadPoolTest, EndsWithoutEverBeingUsed) {
  for (int i = 0; i < 20; ++i) {
    const ThreadPool pool({.num_threads = 4, .spin_microseconds = i % 2 * 50});
  }
}

TEST(ScratchTest, IsAlignedAndGrows) {
  Scratch scratch;
  for (const size_t size : {size_t{1}, size_t{0}, size_t{100}, size_t{64}, size_t{100000}}) {
    void* memory = scratch.Get(size);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory) % Scratch::kAlignment, 0u);
    std::memset(memory, 1, size);
  }
  void* big = scratch.Get(100000);
  EXPECT_EQ(scratch.Get<float>(10), big);  // reused, not given back
}

}  // namespace
}  // namespace moe::kernels
