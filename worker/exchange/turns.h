// Which ranks run an owner's work where ranks outnumber cores: as many at once as there are cores,
// and each that has finished wakes the next one on its own core.
//
// Waking all of them leaves it to the kernel to spread dozens of short tasks over few cores, and
// what it does about an uneven spread comes milliseconds late (docs/benchmarks.md has both ways
// side by side). Here a core takes the next rank when it is free, so none is idle before the last
// turn was taken. It is about speed only: a rank that is rung out of turn, or twice, does its work
// then, and a wake-up that gets lost with a rank that dies is healed by the nudge of whoever waits.
//
// Tested by tests/worker/exchange/turns_test.cc.
#ifndef MOE_WORKER_EXCHANGE_TURNS_H_
#define MOE_WORKER_EXCHANGE_TURNS_H_

#include <atomic>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "worker/exchange/doorbell.h"

namespace moe::exchange {

// The cores on which this thread may run, ascending. Empty if the system does not say.
std::vector<int> AllowedCores();

// In shared memory, zero at first. Who runs a rank, and where it was put.
struct Seat {
  std::atomic<int32_t> thread;         // id of the rank's engine thread; 0: not to be moved
  std::atomic<int32_t> core_plus_one;  // where it was put last; 0: anywhere
};

// In shared memory, one for each owner, zero at first; followed by order [num_ranks] int32.
// Written by the owner before it advances any request word, and not again before all have answered;
// ranks take turns before they answer.
struct alignas(64) TurnHead {
  std::atomic<uint32_t> next;  // index in the order of the next rank to wake
  uint32_t num_turns;          // ranks in the order; 0: all were woken at once
};

// The turns of one owner. A view: the memory belongs to the segment.
class Turns {
 public:
  // order [num_ranks], seats [num_ranks]
  Turns(TurnHead* head, int32_t* order, Seat* seats, int num_ranks, const Doorbells* bells)
      : head_(head), order_(order), seats_(seats), num_ranks_(num_ranks), bells_(bells) {}

  // Owner: wakes ranks[0 .. cores.size()) on those cores, the others in their turn. `publish` makes
  // the work visible, between the order and the first wake-up.
  template <typename Publish>
  void Start(absl::Span<const int32_t> ranks, absl::Span<const int> cores, Publish publish) {
    SetOrder(ranks, cores.size());
    publish();
    for (size_t i = 0; i < cores.size() && i < ranks.size(); ++i) WakeOn(ranks[i], cores[i]);
  }

  // Any rank that has finished, before it answers, and the owner after its own share: wakes the
  // next rank on this core. What the owner wrote is checked; nonsense wakes nobody.
  void WakeNext();

 private:
  void SetOrder(absl::Span<const int32_t> ranks, size_t num_started);
  void WakeOn(int rank, int core);

  TurnHead* const head_;
  int32_t* const order_;
  Seat* const seats_;
  const int num_ranks_;
  const Doorbells* const bells_;
};

// Gives the calling thread a seat, so that others may move it between `cores`; leaves it free to
// run on all of them.
void TakeSeat(Seat* seat, absl::Span<const int> cores);

}  // namespace moe::exchange

#endif  // MOE_WORKER_EXCHANGE_TURNS_H_
