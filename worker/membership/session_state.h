// What a worker remembers between two connections with its controller: which epoch it is in, what
// it has been told and what it has answered. Pure: no thread, clock or socket is here.
//
// Not thread-safe. Tested by tests/worker/membership/session_state_test.cc.
#ifndef MOE_WORKER_MEMBERSHIP_SESSION_STATE_H_
#define MOE_WORKER_MEMBERSHIP_SESSION_STATE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "proto/coordinator.pb.h"

namespace moe::membership {

class SessionState {
 public:
  // A callback that is now due. `message` is what the controller sent, for kAssign to kDismiss.
  struct Delivery {
    enum Kind { kAssign, kPrepare, kJoin, kActivate, kAbort, kDismiss };
    Kind kind = kAssign;
    coordinator::v1::ControllerMessage message;
  };
  struct Received {
    std::vector<Delivery> deliveries;  // in order
    // To be sent back at once, e.g. Unable.
    std::vector<coordinator::v1::WorkerMessage> answers;
    std::string refusal;  // why the message was not acted on; empty for repeated messages
  };

  // Takes a message of the controller; see membership.h for what is delivered, when.
  Received Receive(const coordinator::v1::ControllerMessage& message);

  // Fills in what Hello says of this state: term, epoch and, once assigned, the slot.
  void FillHello(coordinator::v1::Hello* hello) const;
  // What the controller may have missed, in order; sent behind each Hello.
  std::vector<coordinator::v1::WorkerMessage> Replay() const;

  // Each remembers what is said, for Replay, and returns whether it is to be sent: answers for
  // another than the current epoch, or for one that failed, are not.
  bool SayLoaded(const coordinator::v1::Loaded& loaded);
  bool SayPrepared(const coordinator::v1::Prepared& prepared);
  bool SayJoined(uint64_t epoch);
  bool SayEpochFailed(const coordinator::v1::EpochFailed& failed);
  void SayUnable(std::string_view reason);

  // The active epoch, or 0.
  uint64_t running_epoch() const;
  bool unable() const { return unable_.has_value(); }

 private:
  enum class Stage { kNone, kPreparing, kJoining, kActive };

  // Whether (term, epoch) is not below the highest seen, which it then becomes.
  bool Admit(uint64_t term, uint64_t epoch, std::string* refusal);
  void EndEpoch();

  uint64_t term_ = 0;        // highest seen
  uint64_t seen_epoch_ = 0;  // highest seen
  std::optional<coordinator::v1::Assign> assign_;
  std::optional<coordinator::v1::Loaded> loaded_;
  std::optional<std::string> unable_;

  Stage stage_ = Stage::kNone;
  uint64_t epoch_ = 0;                                 // current if stage_ != kNone
  std::optional<coordinator::v1::Prepared> prepared_;  // may hold the bootstrap
  bool joined_ = false;
  std::optional<coordinator::v1::EpochFailed> failed_;
};

}  // namespace moe::membership

#endif  // MOE_WORKER_MEMBERSHIP_SESSION_STATE_H_
