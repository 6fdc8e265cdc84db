// How ranks meet: barriers, and the canary exchange of Connect.
//
// Tested by tests/worker/exchange/shared_memory_test.cc and shared_memory_fault_test.cc.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/exchange/shared_memory_group.h"

namespace moe::exchange {

// ---- Barriers

void RankGroup::Arrive() {
  // Sequentially consistent, as the loads of AllArrived: of two ranks that arrive at once, at least
  // one sees both, so somebody rings the sleepers. Also releases what was written before.
  segment_->arrival(rank_).exchange(++barrier_, std::memory_order_seq_cst);
  if (!AllArrived()) return;
  std::fill(ring_masks_.begin(), ring_masks_.end(), 0);
  for (int rank = 0; rank < shape_.num_ranks; ++rank) {
    if (rank == rank_) continue;
    Doorbells::AddRank(rank, absl::MakeSpan(ring_masks_));
  }
  bells_.RingMany(ring_masks_);
}

bool RankGroup::AllArrived() const { return FirstAbsent() < 0; }

int RankGroup::FirstAbsent() const {
  for (int rank = 0; rank < shape_.num_ranks; ++rank) {
    if (segment_->arrival(rank).load(std::memory_order_seq_cst) < barrier_) return rank;
  }
  return -1;
}

absl::Status RankGroup::WaitForAll(Clock::time_point deadline, absl::string_view what,
                                   Counter* asleep_ns) {
  const auto nudge = [this] {
    for (int rank = 0; rank < shape_.num_ranks; ++rank) {
      if (segment_->arrival(rank).load(std::memory_order_seq_cst) < barrier_) {
        bells_.RingAlways(rank);
      }
    }
  };
  absl::Status status = WaitServing([this] { return AllArrived(); }, deadline, nudge, asleep_ns);
  if (!absl::IsDeadlineExceeded(status)) return status;
  return state_.DeadlineMissed(FirstAbsent(), what);
}

// ---- Joining

namespace {

// What a canary row holds, and what comes back: both depend on the rank, and neither is what fresh
// memory holds.
kernels::BFloat16 CanaryValue(int owner, int row, int i) {
  return {static_cast<uint16_t>(0x3c00 + owner * 251 + row * 17 + i)};
}
kernels::BFloat16 EchoValue(kernels::BFloat16 value, int rank) {
  return {static_cast<uint16_t>(value.bits ^ (0xa5a5 + rank))};
}

}  // namespace

absl::Status RankGroup::ServeCanary(int owner) {
  if (!state_.is_connecting()) {
    return absl::InternalError(absl::StrCat("unexpected step: canary from ", RankName(owner)));
  }
  for (const RoutedRow& pair : serving_pairs_) {
    const kernels::BFloat16* x = segment_->rows(owner) + size_t{1} * pair.x_row * shape_.hidden;
    kernels::BFloat16* out = segment_->results(owner) + size_t{1} * pair.out_row * shape_.hidden;
    for (int i = 0; i < shape_.hidden; ++i) out[i] = EchoValue(x[i], rank_);
  }
  return absl::OkStatus();
}

absl::Status RankGroup::SendCanaries(Clock::time_point deadline) {
  kernels::BFloat16* rows = segment_->rows(rank_);
  int next_rank = 0;
  while (next_rank < shape_.num_ranks) {
    // As many ranks at once as there are result rows.
    parcels_.clear();
    for (; next_rank < shape_.num_ranks && static_cast<int64_t>(parcels_.size()) < max_pairs();
         ++next_rank) {
      if (next_rank == rank_) continue;
      const int32_t out_row = static_cast<int32_t>(parcels_.size());
      const int32_t row = out_row / shape_.top_k;
      segment_->pairs(rank_)[out_row] = {-1, row, out_row};
      parcels_.push_back({next_rank, out_row, 1});
      for (int i = 0; i < shape_.hidden; ++i) {
        rows[size_t{1} * row * shape_.hidden + i] = CanaryValue(rank_, row, i);
      }
    }
    Post(kCanaryStep, -1, parcels_, /*has_own_work=*/false);
    absl::Status status = WaitServing([this] { return AllAnswered(); }, deadline,
                                      [this] { NudgeUnanswered(); }, nullptr);
    if (absl::IsDeadlineExceeded(status)) {
      return state_.DeadlineMissed(FirstUnanswered(), "did not answer the canary");
    }
    if (!status.ok()) return status;
    for (const Parcel& parcel : parcels_) {
      const int row = parcel.first_pair / shape_.top_k;
      const kernels::BFloat16* out =
          segment_->results(rank_) + size_t{1} * parcel.first_pair * shape_.hidden;
      for (int i = 0; i < shape_.hidden; ++i) {
        if (out[i].bits != EchoValue(CanaryValue(rank_, row, i), parcel.rank).bits) {
          return absl::InternalError(absl::StrCat("the canary came back from ",
                                                  RankName(parcel.rank), " with wrong bits"));
        }
      }
    }
  }
  return absl::OkStatus();
}

absl::Status RankGroup::CheckCanaryDigests() const {
  for (int rank = 0; rank < shape_.num_ranks; ++rank) {
    const uint64_t digest = segment_->digest(0, rank).load(std::memory_order_relaxed);
    if (digest != kCanaryStep - static_cast<uint64_t>(rank)) {
      return absl::InternalError(absl::StrCat("the canary of ", RankName(rank), " has wrong bits"));
    }
  }
  return absl::OkStatus();
}

absl::Status RankGroup::Connect() {
  if (absl::Status status = state_.BeginConnect(); !status.ok()) return status;
  // Owners run several threads and stay where the kernel puts them.
  if (!options_.cores.empty() && !state_.is_owner()) {
    TakeSeat(&segment_->seats()[rank_], options_.cores);
  }
  const Clock::time_point deadline = After(options_.join_deadline);
  Arrive();
  absl::Status status = WaitForAll(deadline, "did not join", nullptr);
  if (status.ok() && shape_.replicated) {
    // No mailboxes here: the words that every layer compares carry the canary.
    segment_->digest(0, rank_).store(kCanaryStep - static_cast<uint64_t>(rank_),
                                     std::memory_order_relaxed);
  } else if (status.ok() && state_.is_owner()) {
    status = SendCanaries(deadline);
  }
  if (status.ok()) {
    // Served until all owners have their echoes: no canary is under way after this.
    Arrive();
    status = WaitForAll(deadline, "did not finish the canary exchange", nullptr);
  }
  if (status.ok() && shape_.replicated) status = CheckCanaryDigests();
  if (!status.ok()) return state_.Fail(std::move(status));
  state_.SetReady();
  return absl::OkStatus();
}

}  // namespace moe::exchange
