#include "worker/engine/scheduler.h"

#include <algorithm>
#include <cstddef>
#include <deque>

namespace moe::engine {
namespace {

// A running sequence while the decision is made.
struct Running {
  const SequenceView* view;
  int num_blocks;  // that it holds, those of its slice included
  int count = 0;   // rows in this step
  bool preempted = false;

  int need() const { return view->num_tokens - view->num_computed; }
};

// A sequence in prefill that gets a share of the step.
struct Share {
  const SequenceView* view;
  int owner;
  int start;
  int need;
  size_t running_idx;  // kNotRunning for one that is admitted
  int count = 0;
};
constexpr size_t kNotRunning = static_cast<size_t>(-1);

class Decider {
 public:
  Decider(const SchedulerState& state, const SchedulerLimits& limits)
      : state_(state),
        limits_(limits),
        free_(static_cast<size_t>(limits.num_owners), limits.kv_blocks_per_owner),
        has_preempted_(static_cast<size_t>(limits.num_owners), false),
        budget_(limits.max_step_tokens),
        num_sequences_left_(std::min(limits.max_sequences, limits.max_step_tokens)) {
    running_.reserve(state.running.size());
    for (const SequenceView& view : state.running) {
      running_.push_back(
          {.view = &view, .num_blocks = Blocks(std::max(view.num_computed, view.num_reserved))});
      free_[view.owner] -= running_.back().num_blocks;
    }
  }

  ScheduleDecision Decide() {
    Decode();
    MakeRoomForOldest();
    SelectRunningPrefills();
    Admit();
    DivideBudget();
    return Result();
  }

 private:
  int Blocks(int num_tokens) const { return NumKvBlocks(num_tokens, limits_.kv_block_tokens); }

  // Rule 1.
  void Decode() {
    for (size_t i = 0; i < running_.size(); ++i) {
      Running& sequence = running_[i];
      if (sequence.preempted || sequence.need() != 1) continue;
      if (budget_ == 0 || num_sequences_left_ == 0) return;
      const int num_new = std::max(0, Blocks(sequence.view->num_tokens) - sequence.num_blocks);
      const int owner = sequence.view->owner;
      while (num_new > free_[owner] && !sequence.preempted) PreemptNewest(owner);
      if (sequence.preempted) continue;
      free_[owner] -= num_new;
      sequence.num_blocks += num_new;
      sequence.count = 1;
      --budget_;
      --num_sequences_left_;
    }
  }

  // Takes the newest sequence that still runs from its owner. REQUIRES: there is one.
  void PreemptNewest(int owner) {
    for (size_t i = running_.size(); i-- > 0;) {
      Running& sequence = running_[i];
      if (sequence.preempted || sequence.view->owner != owner) continue;
      sequence.preempted = true;
      has_preempted_[owner] = true;
      free_[owner] += sequence.num_blocks;
      if (sequence.count > 0) {
        budget_ += sequence.count;
        ++num_sequences_left_;
        sequence.count = 0;
      }
      return;
    }
  }

  // Rule 2, the second sentence.
  void MakeRoomForOldest() {
    std::vector<bool> seen(static_cast<size_t>(limits_.num_owners), false);
    for (const Running& oldest : running_) {
      const int owner = oldest.view->owner;
      if (oldest.preempted || seen[owner]) continue;
      seen[owner] = true;
      if (oldest.need() == 1) continue;
      while (ChunkThatFits(owner, oldest.num_blocks, oldest.view->num_computed) <= 0) {
        if (NumRunningOn(owner) == 1) break;  // it has all blocks, and can never fit
        PreemptNewest(owner);
      }
    }
  }

  int NumRunningOn(int owner) const {
    return static_cast<int>(std::count_if(running_.begin(), running_.end(), [&](const Running& r) {
      return !r.preempted && r.view->owner == owner;
    }));
  }

  // Tokens from `start` on that fit the blocks held and those that are free.
  int ChunkThatFits(int owner, int num_blocks, int start) const {
    return (num_blocks + std::max(0, free_[owner])) * limits_.kv_block_tokens - start;
  }

  // Whether one more sequence can take part in the budget; if so, it does.
  bool Join(Share share) {
    if (num_sequences_left_ == 0 || budget_ == 0) return false;
    const int least = std::min(share.need, std::max(1, limits_.min_prefill_chunk));
    if (!shares_.empty() && num_promised_ + least > budget_) return false;
    num_promised_ += std::min(least, budget_);
    --num_sequences_left_;
    shares_.push_back(share);
    return true;
  }

  // Rule 2, the first sentence.
  void SelectRunningPrefills() {
    for (size_t i = 0; i < running_.size(); ++i) {
      const Running& sequence = running_[i];
      if (sequence.preempted || sequence.need() == 1) continue;
      if (ChunkThatFits(sequence.view->owner, sequence.num_blocks, sequence.view->num_computed) <=
          0) {
        continue;
      }
      if (!Join({.view = sequence.view,
                 .owner = sequence.view->owner,
                 .start = sequence.view->num_computed,
                 .need = sequence.need(),
                 .running_idx = i})) {
        return;
      }
    }
  }

  // Rule 3.
  void Admit() {
    std::vector<int> unclaimed(static_cast<size_t>(limits_.num_owners),
                               limits_.kv_blocks_per_owner);
    int num_running = 0;
    std::deque<const SequenceView*> queue;
    for (const Running& sequence : running_) {
      if (sequence.preempted) {
        queue.push_back(sequence.view);
        continue;
      }
      ++num_running;
      const int num_tokens = sequence.view->num_tokens + (sequence.need() > 1 ? 1 : 0);
      unclaimed[sequence.view->owner] -= std::max(sequence.num_blocks, Blocks(num_tokens));
    }
    for (const SequenceView& view : state_.waiting) queue.push_back(&view);
    const int max_running = std::min(limits_.max_sequences, limits_.max_step_tokens);
    for (const SequenceView* view : queue) {
      if (num_running >= max_running) return;
      int best = -1;
      for (int owner = 0; owner < limits_.num_owners; ++owner) {
        if (has_preempted_[owner]) continue;
        if (best < 0 || unclaimed[owner] > unclaimed[best]) best = owner;
      }
      const int num_blocks = Blocks(view->num_tokens + 1);
      if (best < 0 || unclaimed[best] < num_blocks) return;
      // What waits has nothing computed, whatever it had before it was preempted.
      if (!Join({.view = view,
                 .owner = best,
                 .start = 0,
                 .need = view->num_tokens,
                 .running_idx = kNotRunning})) {
        return;
      }
      unclaimed[best] -= num_blocks;
      ++num_running;
      admitted_.push_back({.id = view->id, .owner = best});
    }
  }

  // Rule 4.
  void DivideBudget() {
    // Water-filling: those that need less than an even share give the rest to the others.
    std::vector<size_t> by_need(shares_.size());
    for (size_t i = 0; i < by_need.size(); ++i) by_need[i] = i;
    std::stable_sort(by_need.begin(), by_need.end(),
                     [&](size_t a, size_t b) { return shares_[a].need < shares_[b].need; });
    std::vector<size_t> open;  // that could use more than an even share
    int left = budget_;
    for (size_t i = 0; i < by_need.size(); ++i) {
      Share& share = shares_[by_need[i]];
      if (share.need <= left / static_cast<int>(by_need.size() - i)) {
        share.count = share.need;
        left -= share.count;
      } else {
        open.assign(by_need.begin() + static_cast<std::ptrdiff_t>(i), by_need.end());
        break;
      }
    }
    std::sort(open.begin(), open.end());
    for (size_t i = 0; i < open.size(); ++i) {
      const int num_open = static_cast<int>(open.size());
      shares_[open[i]].count = left / num_open + (static_cast<int>(i) < left % num_open ? 1 : 0);
    }
    for (Share& share : shares_) {
      const bool is_running = share.running_idx != kNotRunning;
      const int num_held = is_running ? running_[share.running_idx].num_blocks : 0;
      share.count =
          std::max(0, std::min(share.count, ChunkThatFits(share.owner, num_held, share.start)));
      free_[share.owner] -= std::max(0, Blocks(share.start + share.count) - num_held);
      if (is_running) running_[share.running_idx].count = share.count;
    }
  }

  ScheduleDecision Result() const {
    ScheduleDecision decision;
    decision.admitted = admitted_;
    std::vector<std::vector<ScheduledSlice>> slices_of_owner(
        static_cast<size_t>(limits_.num_owners));
    const auto add = [&](const SequenceView& view, int owner, int start, int count) {
      if (count == 0) return;
      slices_of_owner[owner].push_back({.id = view.id,
                                        .owner = owner,
                                        .start = start,
                                        .count = count,
                                        .sample = start + count == view.num_tokens});
    };
    for (const Running& sequence : running_) {
      if (sequence.preempted) {
        decision.preempted.push_back(sequence.view->id);
      } else {
        add(*sequence.view, sequence.view->owner, sequence.view->num_computed, sequence.count);
      }
    }
    for (const Share& share : shares_) {
      if (share.running_idx == kNotRunning) add(*share.view, share.owner, share.start, share.count);
    }
    for (const std::vector<ScheduledSlice>& slices : slices_of_owner) {
      decision.slices.insert(decision.slices.end(), slices.begin(), slices.end());
    }
    return decision;
  }

  const SchedulerState& state_;
  const SchedulerLimits& limits_;
  std::vector<Running> running_;
  std::vector<int> free_;            // blocks of each owner
  std::vector<bool> has_preempted_;  // [num_owners]
  std::vector<Share> shares_;        // oldest first
  std::vector<Admission> admitted_;
  int budget_;              // rows that prefill may have, after the decode rows
  int num_promised_ = 0;    // of these, the least that the shares will get
  int num_sequences_left_;  // that may still get rows
};

}  // namespace

int NumKvBlocks(int num_tokens, int kv_block_tokens) {
  return num_tokens / kv_block_tokens + (num_tokens % kv_block_tokens != 0 ? 1 : 0);
}

ScheduleDecision Schedule(const SchedulerState& state, const SchedulerLimits& limits) {
  return Decider(state, limits).Decide();
}

}  // namespace moe::engine
