// Leader election over a Lease of coordination.k8s.io.
//
// The lease tells who should lead; it fences nothing. A leader that was stopped and wakes up late
// believes in itself until it looks at the clock: is_leader() does, at every call. What must not be
// done twice is written with a resourceVersion or a uid besides.
//
// Clocks of different machines are never compared: a lease has run out when it has not changed for
// its duration by the local clock, as in client-go.
//
// Tested by tests/controller/kube/lease_test.cc.
#ifndef MOE_CONTROLLER_KUBE_LEASE_H_
#define MOE_CONTROLLER_KUBE_LEASE_H_

#include <functional>
#include <optional>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/random/random.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "controller/kube/api.h"
#include "controller/kube/clock.h"

namespace moe::kube {

struct LeaseOptions {
  ObjectKey key;
  std::string identity;  // unique for each process
  absl::Duration duration = absl::Seconds(15);
  absl::Duration renew_deadline = absl::Seconds(10);  // < duration
  absl::Duration retry_period = absl::Seconds(2);     // < renew_deadline
};

// The parts of a Lease that count. Times are only ever compared for equality.
struct LeaseRecord {
  std::string holder;  // empty: released
  absl::Duration duration;
  std::string acquire_time;
  std::string renew_time;
  int transitions = 0;

  friend bool operator==(const LeaseRecord&, const LeaseRecord&) = default;
};

LeaseRecord ParseLease(const Json& lease);

// What a candidate does about the lease it has just read.
enum class LeaseAction {
  kWait,     // somebody else holds it
  kCreate,   // there is none
  kRenew,    // it is ours
  kAcquire,  // it is free, released or run out
};

// `observed`: when this record was first seen, by the clock of `now`. Pure.
LeaseAction DecideLease(const std::optional<LeaseRecord>& record, absl::Time observed,
                        const std::string& identity, absl::Time now);
// The spec to write for an action, from the record that was read. `wall_now`: the date.
Json LeaseSpec(LeaseAction action, const std::optional<LeaseRecord>& record,
               const LeaseOptions& options, absl::Time wall_now);

// Takes part in the election from Start to Stop, with two threads: one talks to the API server and
// may be held up there; the other keeps the deadline and calls the callbacks.
class LeaseElector {
 public:
  struct Callbacks {
    // Called in turns, by one thread. `stopped` may take its time: nobody is told that this process
    // leads again before it returns, and the lease is not released before.
    std::function<void()> started;
    std::function<void()> stopped;
    // Another one leads now; empty: nobody. From the talking thread; must not block.
    std::function<void(const std::string& identity)> leader;
  };

  // `api` outlives it.
  LeaseElector(Api& api, LeaseOptions options, Callbacks callbacks,
               std::function<absl::Time()> now = MonotonicNow);
  // Stops.
  ~LeaseElector();
  LeaseElector(const LeaseElector&) = delete;
  LeaseElector& operator=(const LeaseElector&) = delete;

  void Start();
  // Calls `stopped` if this process leads, then releases the lease so that another one need not
  // wait. Not from a callback.
  void Stop();

  // Whether this process leads at this moment.
  bool is_leader() const;
  // The holder that was seen last, or "".
  std::string leader() const;
  // For a test's clock, which has moved.
  void ClockMoved();

 private:
  void TalkLoop();
  void WatchLoop();
  // One round: reads the lease and acts.
  absl::Status Try();
  void SetObserved(const std::optional<LeaseRecord>& record);
  void Release();
  bool LeadsLocked(absl::Time now) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return leading_ && now < renewed_ + options_.renew_deadline;
  }

  Api& api_;
  const LeaseOptions options_;
  const Callbacks callbacks_;
  const std::function<absl::Time()> now_;
  std::thread talker_;
  std::thread watcher_;
  absl::BitGen random_;  // the talker's
  // The talker's: what it saw last, and since when.
  std::optional<LeaseRecord> record_;
  absl::Time observed_ = absl::InfinitePast();

  mutable absl::Mutex mutex_;
  absl::CondVar changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool leading_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time renewed_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  // Counts the times that leadership began.
  int stint_ ABSL_GUARDED_BY(mutex_) = 0;
  // The one that `started` was called for, and `stopped` not yet; else 0.
  int told_ ABSL_GUARDED_BY(mutex_) = 0;
  std::string leader_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace moe::kube

#endif  // MOE_CONTROLLER_KUBE_LEASE_H_
