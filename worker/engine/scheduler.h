// Which rows the next step computes: a pure function of the sequences and the limits.
//
// Continuous batching with chunked prefill (Sarathi-Serve, https://arxiv.org/abs/2403.02310) and
// preemption by recomputation (vLLM, https://arxiv.org/abs/2309.06180), over owners that each have
// a KV cache of their own.
//
// Tested by tests/worker/engine/scheduler_test.cc.
#ifndef MOE_WORKER_ENGINE_SCHEDULER_H_
#define MOE_WORKER_ENGINE_SCHEDULER_H_

#include <cstdint>
#include <vector>

namespace moe::engine {

struct SchedulerLimits {
  int num_owners = 1;
  int max_sequences = 64;       // that have rows in one step, over all owners
  int max_step_tokens = 512;    // rows in one step, over all owners
  int min_prefill_chunk = 128;  // a step is not cut into shorter chunks to serve more prompts
  int kv_blocks_per_owner = 0;
  int kv_block_tokens = 32;
};

// What the scheduler sees of a sequence. REQUIRES: 0 <= num_computed < num_tokens, and owner in
// [0, num_owners) if it runs.
struct SequenceView {
  uint64_t id = 0;
  int owner = -1;        // -1 while it waits
  int num_tokens = 0;    // prompt and generated tokens known so far; >= 1
  int num_computed = 0;  // of these, how many are in the owner's KV cache
  // Tokens that its blocks have room for, when that is more than num_computed: a step that did not
  // commit reserved them.
  int num_reserved = 0;
};

struct SchedulerState {
  std::vector<SequenceView> running{};  // have an owner; oldest first
  std::vector<SequenceView> waiting{};  // first come first; preempted ones at the front
};

struct ScheduledSlice {
  uint64_t id = 0;
  int owner = 0;
  int start = 0;
  int count = 0;
  bool sample = false;  // the slice ends at num_tokens
};

struct Admission {
  uint64_t id = 0;
  int owner = 0;
};

// Applied in this order: preempted sequences lose owner and KV and go to the front of the queue
// (oldest first); admitted ones (maybe just preempted) get their owner; then the slices are
// computed.
struct ScheduleDecision {
  std::vector<uint64_t> preempted{};     // oldest first
  std::vector<Admission> admitted{};     // in the order of the queue
  std::vector<ScheduledSlice> slices{};  // grouped by owner, oldest first, at most one per sequence
};

// Blocks that hold num_tokens tokens.
int NumKvBlocks(int num_tokens, int kv_block_tokens);

// Rules, in order:
// 1. Every running sequence that decodes (num_tokens - num_computed == 1) gets its row, oldest
//    first. When its owner has no block left, the newest sequence of that owner is preempted (it
//    may be the sequence itself).
// 2. Running sequences in prefill take part in what is left of the token budget, oldest first, as
//    long as each can have min_prefill_chunk tokens (or all that it needs); the oldest always takes
//    part. When the oldest sequence of an owner is in prefill and no block is left, the newest ones
//    of that owner are preempted until one is.
// 3. Waiting sequences are admitted first come first, each to the owner with the most unclaimed
//    blocks (ties: lowest rank), under the same condition and while max_sequences and blocks for
//    all its tokens (plus one) last; nothing overtakes the head of the queue. Unclaimed: what
//    remains when each running sequence has blocks for all its tokens (plus one in prefill). An
//    owner that preempted in this step admits nothing.
// 4. All that take part share the budget evenly, remainders to the oldest, so that a long prompt
//    does not hold up short ones; a chunk shrinks to the blocks that are free.
// Guarantees, for any state: limits hold; no owner's blocks are overdrawn; progress (a non-empty
// decision) whenever some sequence alone fits an empty owner. More than min(max_sequences,
// max_step_tokens) sequences never run, unless the state came with more: then the newest pause.
// Sequences that can never fit are refused before they get here (see leader.h).
ScheduleDecision Schedule(const SchedulerState& state, const SchedulerLimits& limits);

}  // namespace moe::engine

#endif  // MOE_WORKER_ENGINE_SCHEDULER_H_
