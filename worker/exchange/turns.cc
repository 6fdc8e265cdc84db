#include "worker/exchange/turns.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>

namespace moe::exchange {

std::vector<int> AllowedCores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cores;
  // Fails on a machine with more cores than the set has room for.
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return cores;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &set)) cores.push_back(core);
  }
  return cores;
}

void TakeSeat(Seat* seat, absl::Span<const int> cores) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int core : cores) CPU_SET(core, &set);
  // If the system says no, ranks run where the kernel puts them.
  if (sched_setaffinity(0, sizeof(set), &set) != 0) return;
  seat->core_plus_one.store(0, std::memory_order_relaxed);
  seat->thread.store(gettid(), std::memory_order_relaxed);
}

void Turns::SetOrder(absl::Span<const int32_t> ranks, size_t num_started) {
  std::copy(ranks.begin(), ranks.end(), order_);
  head_->num_turns = static_cast<uint32_t>(ranks.size());
  // Released by the request words, as all that Post writes.
  head_->next.store(static_cast<uint32_t>(num_started), std::memory_order_relaxed);
}

void Turns::WakeNext() {
  const uint32_t num_turns = head_->num_turns;
  if (num_turns == 0 || num_turns > static_cast<uint32_t>(num_ranks_)) return;
  const uint32_t turn = head_->next.fetch_add(1, std::memory_order_relaxed);
  if (turn >= num_turns) return;
  const int rank = order_[turn];
  if (rank < 0 || rank >= num_ranks_) return;
  WakeOn(rank, sched_getcpu());
}

void Turns::WakeOn(int rank, int core) {
  Seat& seat = seats_[rank];
  const int thread = seat.thread.load(std::memory_order_relaxed);
  if (thread > 0 && core >= 0 && seat.core_plus_one.load(std::memory_order_relaxed) != core + 1) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(core, &set);
    // It sleeps, so nothing is moved: this says where it will wake. A failure costs speed only.
    if (sched_setaffinity(thread, sizeof(set), &set) == 0) {
      seat.core_plus_one.store(core + 1, std::memory_order_relaxed);
    }
  }
  bells_->Ring(rank);
}

}  // namespace moe::exchange
