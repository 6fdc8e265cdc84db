// One sequence's generation as the HTTP side sees it: tokens in order, each once, whatever happens
// to workers, leaders and groups underneath.
#ifndef MOE_GATEWAY_JOURNAL_GENERATION_H_
#define MOE_GATEWAY_JOURNAL_GENERATION_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/coordinator.pb.h"
#include "proto/engine.pb.h"

namespace moe::gateway {

struct GenerationRequest {
  std::vector<int32_t> prompt_tokens;
  engine::v1::SamplingParams sampling;
  // Called from another thread when Next has something new, so that one thread can wait for many
  // generations. It must only signal: it may not call the generator. Not called any more once the
  // generation is destroyed. May be empty.
  std::function<void()> on_ready;
};

// A running generation. Used by one thread. Destroying it before its end cancels it: the engine
// frees its KV cache at the next step.
class Generation {
 public:
  virtual ~Generation() = default;

  // Waits for the next tokens and returns them in order of position, each position exactly once;
  // empty after `timeout` without one. After an event whose finish is not NONE there are no more.
  // ResourceExhausted: the engine's queue is full, nothing was generated. InvalidArgument: the
  // engine refuses this request. Unavailable: given up after the failover deadline.
  virtual absl::StatusOr<std::vector<engine::v1::TokenEvent>> Next(absl::Duration timeout) = 0;
};

// What is known of one group.
struct GroupView {
  std::string name;  // "namespace/deployment/index"; empty in local mode
  // A leader is connected and spoke within the last 3 seconds, and its group is not between epochs.
  bool serving = false;
  // It loaded another model than this gateway, which sends it nothing.
  bool other_model = false;
  std::string reason;                 // why not, for people
  engine::v1::Welcome welcome;        // of the last leader; vocab_size 0 before there was one
  engine::v1::EngineStats stats;      // the last received
  coordinator::v1::GroupState state;  // the last received
  int64_t num_sequences = 0;          // of this gateway, that it has
  int64_t outstanding_tokens = 0;     // prompt and answer, that they still need at most
};

// What is known of the engine, which is all groups of a deployment. A copy, taken under a lock.
struct EngineView {
  // At least one group serves and takes new requests.
  bool serving = false;
  // A group of another model takes new requests, from other gateways: a roll-out is under way.
  bool other_model_serves = false;
  std::string reason;           // why not, for people
  engine::v1::Welcome welcome;  // what a new request has to fit: see Generator::welcome
  // Sums over all groups; the step and the epoch are those of `group`.
  engine::v1::EngineStats stats;
  // One group that stands for all: the first that takes new requests, else the first.
  coordinator::v1::GroupState group;
  std::vector<GroupView> groups;    // by index
  uint64_t num_ignored_groups = 0;  // more than this gateway connects to
  uint64_t num_failovers = 0;       // times that another leader, or the same one again, took over
  uint64_t num_moved = 0;           // sequences that went on in another group
  uint64_t num_dropped_events = 0;  // token events of an old epoch or a position already known
};

// Thread-safe.
class Generator {
 public:
  virtual ~Generator() = default;
  // Never blocks. Unavailable when the engine has never been up or is shutting down.
  virtual absl::StatusOr<std::unique_ptr<Generation>> Start(GenerationRequest request) = 0;
  // The limits of new requests: those of the group that takes the longest ones. vocab_size is 0
  // before an engine was there.
  virtual engine::v1::Welcome welcome() const = 0;
  virtual EngineView view() const = 0;
};

}  // namespace moe::gateway

#endif  // MOE_GATEWAY_JOURNAL_GENERATION_H_
