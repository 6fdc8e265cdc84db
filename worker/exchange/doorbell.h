// How a rank sleeps until another rank, in any process, has something for it.
//
// An event count per rank: a rank that finds nothing to do takes a ticket, looks once more, and
// sleeps; whoever publishes something for it rings afterwards. Up to 32 ranks share one futex word
// and are told apart by futex bitsets, so ringing 64 ranks takes two system calls, and none when
// they are awake. The state may be left anywhere by a rank that dies: nothing here is a lock.
//
// Tested by tests/worker/exchange/doorbell_test.cc.
#ifndef MOE_WORKER_EXCHANGE_DOORBELL_H_
#define MOE_WORKER_EXCHANGE_DOORBELL_H_

#include <atomic>
#include <cstdint>

#include "absl/types/span.h"
#include "worker/exchange/clock.h"

namespace moe::exchange {

// In shared memory, zero at first.
struct alignas(64) Bell {
  // Changes with every ring of any rank of this bell: the word on which they sleep.
  std::atomic<uint32_t> rings;
  // Bit i: rank i of this bell may be asleep, so that ringing it needs a system call.
  std::atomic<uint32_t> sleeping;
};
static_assert(sizeof(Bell) == 64 && std::atomic<uint32_t>::is_always_lock_free);

// The bells of a group. A view: the memory belongs to the segment. Any thread may ring; only one
// thread at a time may wait for a rank.
class Doorbells {
 public:
  static constexpr int kRanksPerBell = 32;

  static constexpr int NumBells(int num_ranks) {
    return (num_ranks + kRanksPerBell - 1) / kRanksPerBell;
  }

  // bells [NumBells(num_ranks)]
  explicit Doorbells(Bell* bells) : bells_(bells) {}

  // After something for `rank` was published: wakes it if it sleeps.
  void Ring(int rank) const;

  // Puts a rank into masks [NumBells(num_ranks)]: bit i of word w is rank 32 w + i.
  static void AddRank(int rank, absl::Span<uint32_t> masks);

  // The same as Ring for many ranks. masks [NumBells(num_ranks)]
  void RingMany(absl::Span<const uint32_t> masks) const;

  // As Ring, but makes the system call even if the rank seems to be awake: heals a wake-up that got
  // lost when the rank that owed it died or was stopped.
  void RingAlways(int rank) const;

  // To sleep: Prepare, look again for work, then Sleep with the ticket or Cancel. Work published
  // after Prepare makes Sleep return.
  uint32_t Prepare(int rank) const;
  void Cancel(int rank) const;
  // Returns when rung, at the deadline (Clock::time_point::max() is none), or for no reason.
  void Sleep(int rank, uint32_t ticket, Clock::time_point deadline) const;

 private:
  void RingBell(Bell& bell, uint32_t mask) const;

  Bell* bells_;
};

}  // namespace moe::exchange

#endif  // MOE_WORKER_EXCHANGE_DOORBELL_H_
