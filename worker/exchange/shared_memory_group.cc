// Dispatch, Combine and serving. See shared_memory_group.h for who writes what.
#include "worker/exchange/shared_memory_group.h"

#include <sched.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"

namespace moe::exchange {
namespace {

uint64_t BitOf(int rank) { return uint64_t{1} << (rank % 64); }

}  // namespace

RankGroup::RankGroup(std::shared_ptr<Segment> segment, const GroupShape& shape, int rank,
                     LocalExperts* experts, const SharedMemoryOptions& options)
    : segment_(std::move(segment)),
      shape_(shape),
      rank_(rank),
      num_mailboxes_(shape.replicated ? 0 : shape.num_attention_ranks),
      experts_(experts),
      options_(options),
      bells_(segment_->bells()),
      state_(shape_, rank),
      router_(shape),
      asked_((shape.num_ranks + 63) / 64),
      num_asked_(shape.num_ranks),
      ring_masks_(Doorbells::NumBells(shape.num_ranks)),
      num_served_(num_mailboxes_),
      served_step_(num_mailboxes_),
      served_layer_(num_mailboxes_, -1),
      named_in_(shape.num_ranks) {
  if (shape.replicated) {
    const size_t bytes = sizeof(kernels::BFloat16) * shape.max_rows * shape.hidden;
    private_rows_.reset(std::aligned_alloc(64, (bytes + 63) / 64 * 64));
    rows_ = static_cast<kernels::BFloat16*>(private_rows_.get());
  } else if (state_.is_owner()) {
    rows_ = segment_->rows(rank);
    // Owners divide the cores, and have at least one each.
    const int num_cores = static_cast<int>(options.cores.size());
    const int share = std::max(1, num_cores / shape.num_attention_ranks);
    for (int i = 0; i < share && num_cores > 0; ++i) {
      own_cores_.push_back(options.cores[(rank * share + i) % num_cores]);
    }
  }
}

// ---- Waiting

void RankGroup::Abort(std::string_view reason) {
  state_.Abort(reason);
  // Always: a peer may have died after it marked this rank as woken and before it woke it.
  bells_.RingAlways(rank_);
}

absl::Status RankGroup::WaitServing(absl::FunctionRef<bool()> done, Clock::time_point deadline,
                                    absl::FunctionRef<void()> nudge, Counter* asleep_ns) {
  const bool has_deadline = deadline != Clock::time_point::max();
  Clock::time_point idle_since = Clock::now();
  Clock::time_point wake_at =
      has_deadline ? idle_since + (deadline - idle_since) / 2 : Clock::time_point::max();
  const auto spin = absl::ToChronoNanoseconds(options_.spin);
  while (true) {
    if (state_.aborted()) return state_.AbortedStatus();
    if (done()) return absl::OkStatus();
    absl::StatusOr<bool> served = ServePending();
    if (!served.ok()) return served.status();
    const Clock::time_point now = Clock::now();
    if (has_deadline && now >= wake_at && !done()) {
      if (now >= deadline) return absl::DeadlineExceededError("");
      nudge();
      wake_at = deadline;
    }
    if (*served) {
      idle_since = now;
      continue;
    }
    if (now - idle_since < spin) {
      std::this_thread::yield();
      if (asleep_ns != nullptr) asleep_ns->Add(NanosecondsSince(now));
      continue;
    }
    const uint32_t ticket = bells_.Prepare(rank_);
    if (state_.aborted() || done() || HasRequest()) {
      bells_.Cancel(rank_);
      continue;
    }
    bells_.Sleep(rank_, ticket, wake_at);
    if (asleep_ns != nullptr) asleep_ns->Add(NanosecondsSince(now));
    idle_since = Clock::now();
  }
}

// ---- Serving other owners

bool RankGroup::HasRequest() const {
  const SharedWord* requests = segment_->requests(rank_);
  for (int owner = 0; owner < num_mailboxes_; ++owner) {
    if (requests[owner].load(std::memory_order_acquire) != num_served_[owner]) return true;
  }
  return false;
}

absl::StatusOr<bool> RankGroup::ServePending() {
  bool served = false;
  const SharedWord* requests = segment_->requests(rank_);
  for (int owner = 0; owner < num_mailboxes_; ++owner) {
    const uint64_t number = requests[owner].load(std::memory_order_acquire);
    if (number == num_served_[owner]) continue;
    const Clock::time_point start = Clock::now();
    if (absl::Status status = Serve(owner, number); !status.ok()) return status;
    counters_.serve_ns.Add(NanosecondsSince(start));
    served = true;
  }
  return served;
}

absl::Status RankGroup::Serve(int owner, uint64_t number) {
  if (number != num_served_[owner] + 1) {
    return absl::InternalError(absl::StrCat("the mailbox of ", RankName(owner),
                                            " is corrupt: request ", number, " after ",
                                            num_served_[owner]));
  }
  num_served_[owner] = number;
  Request request;
  std::memcpy(&request, &segment_->request(owner, rank_), sizeof(request));
  if (absl::Status status = CopyPairs(owner, request); !status.ok()) return status;
  if (request.step == kCanaryStep) {
    if (absl::Status status = ServeCanary(owner); !status.ok()) return status;
  } else {
    if (absl::Status status = CheckWork(owner, request); !status.ok()) return status;
    experts_->Run(request.layer, serving_pairs_, segment_->rows(owner), segment_->results(owner));
  }
  // Before the answer: after the last one the owner may set the order of its next layer.
  TurnsOf(owner).WakeNext();
  Answer(owner);
  return absl::OkStatus();
}

absl::Status RankGroup::CopyPairs(int owner, const Request& request) {
  if (request.num_pairs < 1 || request.first_pair < 0 ||
      int64_t{request.first_pair} + request.num_pairs > max_pairs()) {
    return absl::InternalError(absl::StrCat("the mailbox of ", RankName(owner), " is corrupt: ",
                                            request.num_pairs, " pairs at ", request.first_pair));
  }
  const RoutedRow* pairs = segment_->pairs(owner) + request.first_pair;
  serving_pairs_.assign(pairs, pairs + request.num_pairs);
  for (const RoutedRow& pair : serving_pairs_) {
    if (pair.out_row < 0 || pair.out_row >= max_pairs() ||
        pair.x_row != pair.out_row / shape_.top_k) {
      return absl::InternalError(absl::StrCat("the mailbox of ", RankName(owner),
                                              " is corrupt: row ", pair.x_row, " to ",
                                              pair.out_row));
    }
  }
  return absl::OkStatus();
}

absl::Status RankGroup::CheckWork(int owner, const Request& request) {
  // The leader sends a plan only when all owners have finished the step before, and owners start a
  // step only after its plan: so the plan's step is the only one that work can be of.
  const PlanHead& plan = segment_->plan_head();
  const bool has_plan = plan.number.load(std::memory_order_acquire) != 0;
  const uint64_t step = plan.step.load(std::memory_order_acquire);
  if (!has_plan || request.step != step) {
    return absl::InternalError(absl::StrCat("unexpected step: ", RankName(owner), " sent step ",
                                            request.step, " while ", has_plan ? "step " : "no step",
                                            has_plan ? absl::StrCat(step) : "", " is current"));
  }
  const int last_layer = served_step_[owner] == request.step ? served_layer_[owner] : -1;
  if (request.layer < 0 || request.layer >= shape_.num_layers || request.layer <= last_layer) {
    return absl::InternalError(absl::StrCat("unexpected step: ", RankName(owner), " sent layer ",
                                            request.layer, " of step ", request.step,
                                            " after layer ", last_layer));
  }
  served_step_[owner] = request.step;
  served_layer_[owner] = request.layer;
  for (size_t i = 0; i < serving_pairs_.size(); ++i) {
    const RoutedRow& pair = serving_pairs_[i];
    if (pair.expert < 0 || pair.expert >= shape_.num_experts ||
        shape_.rank_of_expert[pair.expert] != rank_) {
      return absl::InternalError(absl::StrCat("the mailbox of ", RankName(owner),
                                              " is corrupt: expert ", pair.expert,
                                              " is not held here"));
    }
    if (i > 0 && std::pair(serving_pairs_[i - 1].expert, serving_pairs_[i - 1].out_row) >=
                     std::pair(pair.expert, pair.out_row)) {
      return absl::InternalError(absl::StrCat("the mailbox of ", RankName(owner),
                                              " is corrupt: its rows are out of order"));
    }
  }
  return absl::OkStatus();
}

void RankGroup::Answer(int owner) {
  // Releases the result rows to the owner, which acquires the word. One atomic operation both
  // answers and learns whether others are missing, so that only the last rank rings. (Of each 64
  // ranks: the owner looks at all words.)
  const uint64_t before =
      segment_->unanswered(owner)[rank_ / 64].fetch_and(~BitOf(rank_), std::memory_order_acq_rel);
  if ((before & ~BitOf(rank_)) == 0) bells_.Ring(owner);
}

// ---- Asking other ranks

Turns RankGroup::TurnsOf(int owner) const {
  return {segment_->turn_head(owner), segment_->turn_order(owner), segment_->seats(),
          shape_.num_ranks, &bells_};
}

absl::Span<const int> RankGroup::FirstCores(bool has_own_work) {
  const int here = sched_getcpu();
  std::stable_partition(own_cores_.begin(), own_cores_.end(),
                        [here](int core) { return core != here; });
  return absl::MakeConstSpan(own_cores_).first(own_cores_.size() - (has_own_work ? 1 : 0));
}

void RankGroup::Post(uint64_t step, int layer, absl::Span<const Parcel> parcels,
                     bool has_own_work) {
  std::fill(asked_.begin(), asked_.end(), 0);
  for (const Parcel& parcel : parcels) {
    segment_->request(rank_, parcel.rank) = {step, layer, parcel.num_pairs, parcel.first_pair, 0};
    asked_[parcel.rank / 64] |= BitOf(parcel.rank);
  }
  // No rank answers before its request word below is advanced, which releases these.
  for (size_t i = 0; i < asked_.size(); ++i) {
    segment_->unanswered(rank_)[i].store(asked_[i], std::memory_order_relaxed);
  }
  const auto publish = [this, parcels] {
    for (const Parcel& parcel : parcels) {
      segment_->requests(parcel.rank)[rank_].store(++num_asked_[parcel.rank],
                                                   std::memory_order_release);
    }
  };
  if (!own_cores_.empty()) {
    // Long ones first, so that the cores finish together.
    parcels_by_size_.assign(parcels.begin(), parcels.end());
    std::stable_sort(parcels_by_size_.begin(), parcels_by_size_.end(),
                     [](const Parcel& a, const Parcel& b) { return a.num_pairs > b.num_pairs; });
    turns_.clear();
    for (const Parcel& parcel : parcels_by_size_) turns_.push_back(parcel.rank);
    TurnsOf(rank_).Start(turns_, FirstCores(has_own_work), publish);
    return;
  }
  publish();
  std::fill(ring_masks_.begin(), ring_masks_.end(), 0);
  for (const Parcel& parcel : parcels) {
    Doorbells::AddRank(parcel.rank, absl::MakeSpan(ring_masks_));
  }
  bells_.RingMany(ring_masks_);
}

bool RankGroup::AllAnswered() const {
  for (size_t i = 0; i < asked_.size(); ++i) {
    if ((segment_->unanswered(rank_)[i].load(std::memory_order_acquire) & asked_[i]) != 0) {
      return false;
    }
  }
  return true;
}

int RankGroup::FirstUnanswered() const {
  for (size_t i = 0; i < asked_.size(); ++i) {
    const uint64_t bits =
        segment_->unanswered(rank_)[i].load(std::memory_order_acquire) & asked_[i];
    if (bits != 0) return static_cast<int>(i) * 64 + std::countr_zero(bits);
  }
  return -1;
}

void RankGroup::NudgeUnanswered() const {
  for (int rank = 0; rank < shape_.num_ranks; ++rank) {
    const uint64_t bits = segment_->unanswered(rank_)[rank / 64].load(std::memory_order_acquire);
    if ((bits & asked_[rank / 64] & BitOf(rank)) != 0) bells_.RingAlways(rank);
  }
}

absl::Status RankGroup::Dispatch(uint64_t step, int layer, int num_rows,
                                 const int32_t* expert_ids) {
  const Clock::time_point start = Clock::now();
  if (absl::Status status = state_.CheckDispatch(step, layer, num_rows, expert_ids); !status.ok()) {
    return status;
  }
  // Acquire: the plan that allowed this step happens before what is posted below.
  const uint64_t current = segment_->plan_head().step.load(std::memory_order_acquire);
  if (shape_.num_ranks > 1 && current != step) {
    return absl::FailedPreconditionError(
        absl::StrCat("step ", step, " has no plan: the current plan is of step ", current));
  }
  router_.Sort(num_rows, expert_ids);
  state_.BeginLayer(step, layer, num_rows, expert_ids);
  if (shape_.replicated) {
    ++num_dispatches_;
  } else {
    const absl::Span<const RoutedRow> pairs = router_.pairs();
    std::memcpy(segment_->pairs(rank_), pairs.data(), pairs.size() * sizeof(RoutedRow));
    parcels_.clear();
    for (int rank = 0; rank < shape_.num_ranks; ++rank) {
      const int32_t first = router_.begin(rank);
      const int32_t count = router_.begin(rank + 1) - first;
      if (rank != rank_ && count > 0) parcels_.push_back({rank, first, count});
    }
    Post(step, layer, parcels_, !router_.pairs_of(rank_).empty());
    counters_.dispatch_bytes.Add(static_cast<uint64_t>(router_.num_rows_sent(rank_)) *
                                 shape_.hidden * sizeof(kernels::BFloat16));
  }
  counters_.dispatch_ns.Add(NanosecondsSince(start));
  return absl::OkStatus();
}

absl::StatusOr<const kernels::BFloat16*> RankGroup::Combine() {
  if (absl::Status status = state_.CheckCombine(); !status.ok()) return status;
  const absl::Span<const RoutedRow> own = router_.pairs_of(rank_);
  kernels::BFloat16* results = shape_.replicated
                                   ? segment_->shared_results(static_cast<int>(num_dispatches_ % 2))
                                   : segment_->results(rank_);
  if (!own.empty()) {
    experts_->Run(state_.dispatched().layer, own, rows_, results);
    if (!shape_.replicated) TurnsOf(rank_).WakeNext();
  }

  absl::Status status;
  if (shape_.replicated) {
    status = CombineReplicated();
  } else {
    // Counted from here: the others had the time that this rank's own rows took, too.
    status = WaitServing([this] { return AllAnswered(); }, After(options_.step_deadline),
                         [this] { NudgeUnanswered(); }, &counters_.combine_wait_ns);
    if (absl::IsDeadlineExceeded(status)) {
      status = state_.DeadlineMissed(
          FirstUnanswered(), absl::StrCat("did not answer ", LayerName(state_.dispatched())));
    }
  }
  if (!status.ok()) return state_.Fail(std::move(status));
  state_.EndLayer();
  const uint64_t num_foreign = router_.pairs().size() - own.size();
  counters_.combine_bytes.Add(num_foreign * shape_.hidden * sizeof(kernels::BFloat16));
  return results;
}

// Every rank writes the outputs of its experts into one of two buffers, chosen by the parity of the
// dispatch's number, and arrives at a barrier. Two buffers are enough: a rank writes into a buffer
// again in Combine n + 2, which it enters only after its Combine n + 1 returned, hence after every
// rank arrived at barrier n + 1, hence after every rank called Dispatch n + 1, with which it gave
// up the outputs of n. The same holds for the digests.
absl::Status RankGroup::CombineReplicated() {
  const int buffer = static_cast<int>(num_dispatches_ % 2);
  segment_->digest(buffer, rank_).store(state_.digest(), std::memory_order_relaxed);
  Arrive();
  absl::Status status = WaitForAll(After(options_.step_deadline),
                                   absl::StrCat("did not reach ", LayerName(state_.dispatched())),
                                   &counters_.combine_wait_ns);
  if (!status.ok()) return status;
  for (int rank = 0; rank < shape_.num_ranks; ++rank) {
    if (segment_->digest(buffer, rank).load(std::memory_order_relaxed) != state_.digest()) {
      return absl::InternalError(absl::StrCat("unexpected step: ", RankName(rank),
                                              " dispatched other rows than ", RankName(rank_),
                                              " in ", LayerName(state_.dispatched())));
    }
  }
  return absl::OkStatus();
}

}  // namespace moe::exchange
