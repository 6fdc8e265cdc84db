// Keys of objects to look at. A key that is added while it waits is kept once; one that is added
// while a thread works on it waits until that thread is done. So no key is ever in two hands, and
// nothing that happened is forgotten.
//
// WorkQueueState is the queue at given times; WorkQueue adds the lock, the waiting and the clock.
//
// Tested by tests/controller/kube/work_queue_test.cc.
#ifndef MOE_CONTROLLER_KUBE_WORK_QUEUE_H_
#define MOE_CONTROLLER_KUBE_WORK_QUEUE_H_

#include <cstddef>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "controller/kube/api.h"
#include "controller/kube/clock.h"
#include "controller/kube/rate_limiter.h"

namespace moe::kube {

struct WorkQueueOptions {
  // Of one key that fails again and again: the pause before it is tried; doubles up to the maximum.
  absl::Duration first_backoff = absl::Milliseconds(5);
  absl::Duration max_backoff = absl::Seconds(1000);
  // Of all tries after failures together.
  double retries_per_second = 10;
  double retry_burst = 100;
};

// Not thread-safe.
class WorkQueueState {
 public:
  explicit WorkQueueState(WorkQueueOptions options)
      : options_(options), limiter_(options.retries_per_second, options.retry_burst) {}

  void Add(const ObjectKey& key);
  // Not before `due`. Of several times for one key the earliest counts.
  void AddAt(const ObjectKey& key, absl::Time due);
  // After the pause that this key's failures have earned.
  void AddFailed(const ObjectKey& key, absl::Time now);
  // It went well: its next failure is the first.
  void Forget(const ObjectKey& key) { failures_.erase(key); }
  int num_failures(const ObjectKey& key) const;

  // The next key to work on, if one is ready. Done must follow.
  std::optional<ObjectKey> Take(absl::Time now);
  void Done(const ObjectKey& key);
  // When the next key that waits for its time becomes ready.
  absl::Time next_due() const;
  size_t num_ready() const { return ready_.size(); }
  size_t num_delayed() const { return due_.size(); }

 private:
  void MoveDue(absl::Time now);

  const WorkQueueOptions options_;
  RateLimiter limiter_;
  std::deque<ObjectKey> ready_;
  std::set<ObjectKey> dirty_;    // in ready_, or to be put there when Done
  std::set<ObjectKey> working_;  // in somebody's hands
  std::map<ObjectKey, absl::Time> due_;
  std::set<std::pair<absl::Time, ObjectKey>> by_time_;  // due_, in order
  std::map<ObjectKey, int> failures_;
};

// Thread-safe.
class WorkQueue {
 public:
  explicit WorkQueue(WorkQueueOptions options = {}, std::function<absl::Time()> now = MonotonicNow)
      : now_(std::move(now)), state_(options) {}

  void Add(const ObjectKey& key);
  void AddAfter(const ObjectKey& key, absl::Duration delay);
  void AddFailed(const ObjectKey& key);
  void Forget(const ObjectKey& key);

  // Waits for a key. Nothing: the queue is shut down. Done must follow, by any thread.
  std::optional<ObjectKey> Get();
  void Done(const ObjectKey& key);
  // Get returns nothing from now on; what waits is dropped.
  void ShutDown();
  // Keys that are ready, for metrics.
  size_t depth() const;
  // An injected clock has moved.
  void ClockMoved();

 private:
  const std::function<absl::Time()> now_;
  mutable absl::Mutex mutex_;
  absl::CondVar changed_;
  WorkQueueState state_ ABSL_GUARDED_BY(mutex_);
  bool shut_down_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace moe::kube

#endif  // MOE_CONTROLLER_KUBE_WORK_QUEUE_H_
