#include "worker/exchange/doorbell.h"

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace moe::exchange {
namespace {

// Sleeps until the counter has reached `target`. A wake-up that was lost is a failure, not a hang.
void AwaitCount(const Doorbells& bells, int rank, const std::atomic<int>& counter, int target) {
  while (true) {
    const uint32_t ticket = bells.Prepare(rank);
    if (counter.load(std::memory_order_acquire) >= target) {
      bells.Cancel(rank);
      return;
    }
    const Clock::time_point deadline = Clock::now() + std::chrono::seconds(60);
    bells.Sleep(rank, ticket, deadline);
    if (Clock::now() >= deadline) ADD_FAILURE() << "rank " << rank << " was not woken";
  }
}

TEST(DoorbellsTest, PingPongOfManyRoundsLosesNoWakeUp) {
  constexpr int kRounds = 20000;
  Bell bell{};
  Doorbells bells(&bell);
  std::atomic<int> ping{0};
  std::atomic<int> pong{0};
  std::thread other([&] {
    for (int i = 1; i <= kRounds; ++i) {
      AwaitCount(bells, 1, ping, i);
      pong.store(i, std::memory_order_release);
      bells.Ring(0);
    }
  });
  for (int i = 1; i <= kRounds; ++i) {
    ping.store(i, std::memory_order_release);
    bells.Ring(1);
    AwaitCount(bells, 0, pong, i);
  }
  other.join();
}

TEST(DoorbellsTest, RingManyWakesAllRanksOfSeveralBells) {
  constexpr int kRanks = 70;
  constexpr int kRounds = 200;
  std::vector<Bell> memory(Doorbells::NumBells(kRanks + 1));
  Doorbells bells(memory.data());
  std::atomic<int> round{0};
  std::atomic<int> done{0};
  std::vector<std::thread> threads;
  for (int rank = 0; rank < kRanks; ++rank) {
    threads.emplace_back([&, rank] {
      for (int i = 1; i <= kRounds; ++i) {
        AwaitCount(bells, rank, round, i);
        if (done.fetch_add(1) + 1 == i * kRanks) bells.Ring(kRanks);
      }
    });
  }
  std::vector<uint32_t> masks(memory.size(), ~uint32_t{0});
  for (int i = 1; i <= kRounds; ++i) {
    round.store(i, std::memory_order_release);
    bells.RingMany(masks);
    AwaitCount(bells, kRanks, done, i * kRanks);
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(DoorbellsTest, SleepReturnsAtItsDeadlineAndOnAnOldTicket) {
  Bell bell{};
  Doorbells bells(&bell);
  const Clock::time_point deadline = Clock::now() + std::chrono::milliseconds(20);
  while (Clock::now() < deadline) bells.Sleep(3, bells.Prepare(3), deadline);

  const uint32_t ticket = bells.Prepare(3);
  bells.Ring(3);
  bells.Sleep(3, ticket, Clock::time_point::max());
}

TEST(DoorbellsTest, RingAlwaysWakesARankWhoseWakerDied) {
  Bell bell{};
  Doorbells bells(&bell);
  std::atomic<int> published{0};
  std::thread sleeper([&] { AwaitCount(bells, 5, published, 1); });
  // Let it sleep, then forget that it does, as a ringer that dies before its system call would.
  while (bell.sleeping.load() == 0) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  bell.sleeping.store(0);
  published.store(1, std::memory_order_release);
  bells.RingAlways(5);
  sleeper.join();
}

}  // namespace
}  // namespace moe::exchange
