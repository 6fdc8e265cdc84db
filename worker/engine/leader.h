// The bookkeeping of requests on rank 0: requests come in, step plans go out, results come back,
// token events go to the clients.
//
// The engine thread repeats: WaitForWork, NextPlan, (all ranks compute), Commit. While they
// compute, PlanAhead may already give the step after, which then is committed in its turn. When an
// epoch ends in between, the plans are dropped, and after OnEpochChanged the sequences go on from
// the last committed step: those whose owner kept its KV cache at once, the others by
// recomputation. A sampled token depends on the sequence alone, so the repeated step draws the same
// tokens.
//
// Sequence ids on the wire name one stay of a sequence on one owner and are never reused: a
// sequence that was preempted or lost its owner gets a new one. So releases can't hit a later stay.
//
// Tested by leader_test.cc, leader_recovery_test.cc and leader_simulation_test.cc in
// tests/worker/engine.
#ifndef MOE_WORKER_ENGINE_LEADER_H_
#define MOE_WORKER_ENGINE_LEADER_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "proto/engine.pb.h"
#include "proto/step.pb.h"
#include "worker/engine/scheduler.h"

namespace moe::engine {

// Where token events go. Called on the engine thread without locks held; must not block.
class EventSink {
 public:
  virtual ~EventSink() = default;
  // All tokens of one committed step that belong to `client`, which may be gone.
  virtual void OnEvents(uint64_t client, v1::StepEvents events) = 0;
};

struct LeaderOptions {
  // num_owners = 1 (owner 0) when attention is replicated.
  SchedulerLimits limits;
  // Sequences that may wait besides the limits.max_sequences that may run. Sequences that continue
  // after a failover were accepted before and may exceed it, up to twice.
  int max_queue = 256;
  int max_context = 0;    // tokens of prompt and output together
  int vocab_size = 0;     // width of the logits
  int max_logprobs = 20;  // largest num_logprobs and num_prompt_logprobs
  // The model's end tokens: stop tokens of every request but those with ignore_eos.
  std::vector<int32_t> end_token_ids;
};

// Threads: Submit, Cancel, ClientGone, Wake, stats, num_engine_calls from any; the rest from the
// engine thread.
class Leader {
 public:
  // InvalidArgument for limits under which no sequence can run. `sink` is not owned. `epoch` is the
  // first that this leader leads.
  static absl::StatusOr<std::unique_ptr<Leader>> Create(LeaderOptions options, uint64_t epoch,
                                                        EventSink* sink);
  Leader(const Leader&) = delete;
  Leader& operator=(const Leader&) = delete;

  // --- any thread ---

  // Takes a request, or says why not; then nothing else comes of it. Checks everything, so that no
  // request can harm the engine. A request with generated tokens goes on after them; it is INVALID
  // when they end it already.
  std::optional<v1::Rejected> Submit(uint64_t client, v1::Submit submit, absl::Time now);
  // Forgets the request at the next step, without an event. Nothing for an unknown one.
  void Cancel(uint64_t client, uint64_t request);
  // Cancels all of a client's requests.
  void ClientGone(uint64_t client);
  // Ends a WaitForWork that runs, or the next one.
  void Wake();
  v1::EngineStats stats() const;
  // Rises with every call of the engine thread: one that stands still has lost its engine thread.
  uint64_t num_engine_calls() const;
  const LeaderOptions& options() const { return options_; }

  // --- engine thread ---

  bool HasWork() const;
  // Returns HasWork() as soon as that is true, Wake was called, or `timeout` is over.
  bool WaitForWork(absl::Duration timeout);

  // The next step, or nothing if there is nothing to compute. REQUIRES: all plans before it were
  // committed, or OnEpochChanged was called since.
  // In a plan:
  //   released       only of owners that have slices in it: their KV is needed no sooner
  //   new_sequences  each has a slice. Known ids come again when the plan that brought them did not
  //                  commit; they replace what the owner has
  std::optional<v1::StepPlan> NextPlan(absl::Time now);

  // The step after the only one that is not committed, before its results are there: a row for each
  // sequence that goes on whatever it draws, whose owner knows the token. Nothing where that step's
  // results or what waits may change what the next one should hold: prompts in chunks, KV blocks
  // that run out, a request that could join. A sequence that a token ends takes part once more for
  // nothing, which Commit leaves out. REQUIRES: attention is not replicated, since only the ranks
  // that draw know the tokens.
  std::optional<v1::StepPlan> PlanAhead();

  // Applies the results of the oldest plan that is not committed: tokens, ends, events. A slice has
  // exactly one result with a token or an error if it samples, and at most one otherwise.
  // Internal, with nothing applied, for results that can't be; the epoch must then end.
  absl::Status Commit(const v1::StepPlan& plan, absl::Span<const v1::StepResult> results,
                      absl::Time now);

  // Goes on in `epoch`, whose first step is 1. Sequences on the lost owners are computed again from
  // their tokens. With replicated attention, any lost rank means lost_owners = {0}.
  void OnEpochChanged(uint64_t epoch, absl::Span<const int> lost_owners);

 private:
  struct Sequence {
    uint64_t client = 0;
    uint64_t request = 0;
    std::vector<int32_t> prompt;
    std::vector<int32_t> generated;
    v1::SamplingParams sampling;   // stop_token_ids sorted, end tokens included where they stop
    int owner = -1;                // -1 while it waits
    uint64_t stay_id = 0;          // on the wire, while it has an owner
    bool announced = false;        // the NewSequence of this stay was in a committed plan
    int num_announced_tokens = 0;  // that the NewSequence carries
    int num_computed = 0;
    int num_reserved = 0;  // the end of the furthest slice planned in this stay
    std::vector<v1::PromptLogprob> prompt_logprobs;  // of positions 1, 2, ... until sent
    absl::Time submitted;
    absl::Time admitted = absl::InfiniteFuture();  // the first time

    int num_tokens() const { return static_cast<int>(prompt.size() + generated.size()); }
  };
  // Age decides who is served first and preempted last: sequences that continue after a failover
  // come before all others, then the order of arrival.
  using Age = std::pair<int, uint64_t>;

  struct SubmitEvent {
    uint64_t client;
    v1::Submit submit;
    absl::Time time;
  };
  struct CancelEvent {
    uint64_t client;
    uint64_t request;
  };
  struct ClientGoneEvent {
    uint64_t client;
  };
  using InboxEvent = std::variant<SubmitEvent, CancelEvent, ClientGoneEvent>;
  // A plan that was given out and is not committed.
  struct OpenPlan {
    v1::StepPlan plan;
    absl::flat_hash_map<uint64_t, Age> age_of_stay;  // of its slices
  };
  using RequestKey = std::pair<uint64_t, uint64_t>;  // client, request

  Leader(LeaderOptions options, uint64_t epoch, EventSink* sink);

  void DrainInbox();
  void Accept(SubmitEvent event);
  // Begins plans_.back(), the next step.
  OpenPlan& OpenNext();
  // Adds a slice to plans_.back(), with what its owner has to know before.
  void AddSlice(const ScheduledSlice& scheduled, const Age& age, Sequence& sequence);
  // What PlanAhead plans; empty for nothing.
  std::vector<std::pair<ScheduledSlice, Age>> SlicesAhead() const;
  absl::Status CheckResults(
      const OpenPlan& open, absl::Span<const v1::StepResult> results,
      absl::flat_hash_map<uint64_t, const v1::SequenceResult*>* result_of_stay) const;
  // `sequence` is null where it ended after the plan was made.
  absl::Status CheckResult(const v1::SequenceSlice& slice, const Sequence* sequence,
                           const v1::SequenceResult* result) const;
  // Applies one slice's result and returns the event that it gives, if any.
  std::optional<v1::TokenEvent> CommitSlice(Sequence& sequence, const v1::SequenceSlice& slice,
                                            const v1::SequenceResult* result, absl::Time now);
  // KV blocks that the sequence's owner keeps for it.
  int NumHeldBlocks(const Sequence& sequence) const;
  // Whether the token after these ends the sequence, whatever it is.
  bool EndsByLength(const Sequence& sequence, int num_more_tokens) const;
  // Takes the sequence from its owner; its KV cache is forgotten.
  void LeaveOwner(Sequence& sequence, bool owner_lost);
  void Remove(std::map<Age, Sequence>::iterator it);
  // Counts a call of the engine thread and brings stats_ up to date.
  void RecordCall();

  const LeaderOptions options_;
  EventSink* const sink_;

  // Engine thread only.
  uint64_t epoch_;
  uint64_t step_ = 0;  // of the last plan in this epoch
  // The low half of the next stay's id; the high half is the epoch, so that ids of a later leader
  // differ too.
  uint32_t next_stay_ = 0;
  uint64_t next_arrival_ = 0;
  std::map<Age, Sequence> sequences_;
  absl::flat_hash_map<RequestKey, Age> age_of_request_;
  // Stays that ended on each owner and whose release no committed plan carried. [num_owners]
  std::vector<std::vector<uint64_t>> pending_releases_;
  std::deque<OpenPlan> plans_;  // oldest first; at most two
  uint64_t num_preemptions_ = 0;
  uint64_t num_prompt_tokens_ = 0;
  uint64_t num_generated_tokens_ = 0;

  mutable absl::Mutex mutex_;
  std::deque<InboxEvent> inbox_ ABSL_GUARDED_BY(mutex_);
  // Every accepted request until it ends; true when its cancellation is in the inbox.
  absl::flat_hash_map<RequestKey, bool> live_ ABSL_GUARDED_BY(mutex_);
  bool wake_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t num_engine_calls_ ABSL_GUARDED_BY(mutex_) = 0;
  v1::EngineStats stats_ ABSL_GUARDED_BY(mutex_);  // without num_waiting
};

}  // namespace moe::engine

#endif  // MOE_WORKER_ENGINE_LEADER_H_
