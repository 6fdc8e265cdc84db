#include "worker/exchange/doorbell.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#include <ctime>

namespace moe::exchange {
namespace {

// The kernel wants the address of the plain word inside the atomic.
static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t));

void FutexWake(std::atomic<uint32_t>* word, uint32_t mask) {
  // Not FUTEX_PRIVATE_FLAG: the sleepers are in other processes.
  syscall(SYS_futex, word, FUTEX_WAKE_BITSET, INT_MAX, nullptr, nullptr, mask);
}

void FutexWait(std::atomic<uint32_t>* word, uint32_t expected, const timespec* deadline,
               uint32_t mask) {
  // Every outcome (woken, value changed, deadline, signal) means the same here: look again.
  syscall(SYS_futex, word, FUTEX_WAIT_BITSET, expected, deadline, nullptr, mask);
}

uint32_t BitOf(int rank) { return uint32_t{1} << (rank % Doorbells::kRanksPerBell); }

}  // namespace

// Why no wake-up is lost. The waiter does: load `rings` (the ticket); set its bit in `sleeping`;
// look for work; sleep while `rings` is the ticket. The ringer does: publish; take the bit from
// `sleeping`; increment `rings`; wake those whose bits it took. Both touch `sleeping` by
// read-modify-write, so one comes first:
// - the ringer's: the waiter's read-modify-write reads what the ringer's wrote (or something later
//   in the same release sequence), hence it happens after the publication, and looking for work
//   finds it.
// - the waiter's, and this ringer or another takes the bit. Who takes it increments `rings` after
//   that, so after the ticket, and wakes. The kernel compares `rings` with the ticket under its own
//   lock, so the waiter is either queued and woken, or not queued.
// The increment must not come first: a ringer that is slow between the two would take the bit of
// the waiter's next wait, whose ticket has the increment already, and wake before it sleeps.
void Doorbells::RingBell(Bell& bell, uint32_t mask) const {
  const uint32_t sleepers = bell.sleeping.fetch_and(~mask, std::memory_order_seq_cst) & mask;
  bell.rings.fetch_add(1, std::memory_order_seq_cst);
  if (sleepers != 0) FutexWake(&bell.rings, sleepers);
}

void Doorbells::Ring(int rank) const { RingBell(bells_[rank / kRanksPerBell], BitOf(rank)); }

void Doorbells::AddRank(int rank, absl::Span<uint32_t> masks) {
  masks[rank / kRanksPerBell] |= BitOf(rank);
}

void Doorbells::RingMany(absl::Span<const uint32_t> masks) const {
  for (size_t i = 0; i < masks.size(); ++i) {
    if (masks[i] != 0) RingBell(bells_[i], masks[i]);
  }
}

void Doorbells::RingAlways(int rank) const {
  Bell& bell = bells_[rank / kRanksPerBell];
  bell.rings.fetch_add(1, std::memory_order_seq_cst);
  FutexWake(&bell.rings, BitOf(rank));
}

uint32_t Doorbells::Prepare(int rank) const {
  Bell& bell = bells_[rank / kRanksPerBell];
  const uint32_t ticket = bell.rings.load(std::memory_order_seq_cst);
  bell.sleeping.fetch_or(BitOf(rank), std::memory_order_seq_cst);
  return ticket;
}

void Doorbells::Cancel(int rank) const {
  bells_[rank / kRanksPerBell].sleeping.fetch_and(~BitOf(rank), std::memory_order_seq_cst);
}

void Doorbells::Sleep(int rank, uint32_t ticket, Clock::time_point deadline) const {
  Bell& bell = bells_[rank / kRanksPerBell];
  timespec at{};
  const bool has_deadline = deadline != Clock::time_point::max();
  if (has_deadline) {
    const auto since_boot =
        std::chrono::duration_cast<std::chrono::nanoseconds>(deadline.time_since_epoch()).count();
    at.tv_sec = static_cast<time_t>(since_boot / 1'000'000'000);
    at.tv_nsec = static_cast<decltype(at.tv_nsec)>(since_boot % 1'000'000'000);
  }
  FutexWait(&bell.rings, ticket, has_deadline ? &at : nullptr, BitOf(rank));
}

}  // namespace moe::exchange
