// What happens next: events by time, and those of one time in the order in which they were put in.
//
// Tested by tests/simulator/event_queue_test.cc.
#ifndef MOE_SIMULATOR_EVENT_QUEUE_H_
#define MOE_SIMULATOR_EVENT_QUEUE_H_

#include <algorithm>
#include <cstdint>
#include <queue>
#include <tuple>
#include <vector>

#include "absl/time/time.h"

namespace moe::simulator {

enum class EventKind {
  // Of a group's membership (membership.h). `number` is that of a process, or of an epoch.
  kTick,
  kHeartbeats,
  kHello,
  kLoaded,
  kClaimed,
  kPrepared,
  kJoined,
  kActivated,
  kSessionClosed,
  kPeersNotice,
  kStepDeadline,
  kExited,
  // Of a group's engine. `number` is that of a step.
  kStepEnd,
  kStats,
  // Of the gateway.
  kGroupsPublished,
  kLeaderAnswers,
  kLeaderGone,
  kJournalTick,
  kArrival,
  // Of the run.
  kFailure,
  kWindowEnd,
};

struct Event {
  EventKind kind = EventKind::kTick;
  int group = 0;
  int slot = 0;
  uint64_t number = 0;
};

// Not thread-safe.
class EventQueue {
 public:
  // The time of the event that was taken last; it never goes back.
  absl::Time now() const { return now_; }
  bool empty() const { return queue_.empty(); }

  // What was due before now is due now.
  void Push(absl::Time at, const Event& event) {
    queue_.push({std::max(at, now_), next_order_++, event});
  }
  void PushAfter(absl::Duration delay, const Event& event) { Push(now_ + delay, event); }

  // REQUIRES: !empty().
  Event Pop() {
    const Entry entry = queue_.top();
    queue_.pop();
    now_ = entry.at;
    return entry.event;
  }

 private:
  struct Entry {
    absl::Time at;
    uint64_t order;
    Event event;

    friend bool operator<(const Entry& a, const Entry& b) {
      return std::tie(a.at, a.order) > std::tie(b.at, b.order);  // the first is on top
    }
  };

  absl::Time now_ = absl::UnixEpoch();
  uint64_t next_order_ = 0;
  std::priority_queue<Entry> queue_;
};

}  // namespace moe::simulator

#endif  // MOE_SIMULATOR_EVENT_QUEUE_H_
