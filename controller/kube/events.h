// Events of events.k8s.io/v1: what people see in `kubectl describe`. For people only: nothing is
// decided from them, and losing one is no fault.
//
// The same event again (object, reason, action and note) becomes a series: one Event whose count
// goes up, written at most once in half a minute. New ones are limited for each object. Record
// never blocks: what does not fit the queue, or can't be written, is dropped and counted.
//
// EventAggregator decides; EventRecorder is the queue and the thread around it.
//
// Tested by tests/controller/kube/events_test.cc.
#ifndef MOE_CONTROLLER_KUBE_EVENTS_H_
#define MOE_CONTROLLER_KUBE_EVENTS_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "controller/kube/api.h"
#include "controller/kube/clock.h"
#include "controller/kube/rate_limiter.h"

namespace moe::kube {

struct Event {
  ResourceType type;  // of the object that it is about
  ObjectKey key;
  std::string uid = {};
  bool warning = false;
  std::string reason = {};  // CamelCase: why
  std::string action = {};  // CamelCase: what was done about it
  std::string note = {};    // a sentence; cut at 1 KiB
};

struct EventOptions {
  std::string controller = "moe-operator.dev/controller";
  std::string instance = {};  // this process, as a pod's name
  size_t max_queue = 1000;
  size_t max_series = 4096;  // remembered at once; more: the oldest is forgotten
  absl::Duration series_interval = absl::Seconds(30);  // between two writes of one count
  absl::Duration series_age = absl::Minutes(6);        // without a repeat; then it begins anew
  // New events about one object.
  double per_object_burst = 25;
  double per_object_per_second = 1.0 / 300;
  int max_tries = 4;  // of one write
  absl::Duration retry_pause = absl::Seconds(1);
};

// Not thread-safe.
class EventAggregator {
 public:
  struct Write {
    bool create = true;  // else the count of `name` goes up to `count`
    std::string id;      // of the series, for Forget
    std::string name;    // of the Event
    Event event;
    int count = 1;
  };

  explicit EventAggregator(EventOptions options) : options_(std::move(options)) {}

  // Counts an event. Returns what is to be written now, if anything. *limited: the event is one too
  // many for its object.
  std::optional<Write> Observe(const Event& event, absl::Time now, bool* limited);
  // The counts that are to be written now. Forgets old series.
  std::vector<Write> TakeDue(absl::Time now);
  // When TakeDue has something to do.
  absl::Time next_due() const;
  // Writing failed: the next event of this series begins a new one.
  void Forget(const std::string& id) { series_.erase(id); }

 private:
  struct Series {
    std::string name;
    Event event;
    int count = 1;
    int written = 1;
    absl::Time last;  // repeat
    absl::Time last_write;
  };

  bool Admit(const Event& event, absl::Time now);

  const EventOptions options_;
  uint64_t next_name_ = 0;
  std::map<std::string, Series> series_;
  std::map<std::string, RateLimiter> limiters_;  // by the object's uid and name
};

// The object of events.k8s.io/v1 to create; or the merge patch of its series.
Json EventObject(const EventAggregator::Write& write, const EventOptions& options,
                 absl::Time wall_now);
Json SeriesPatch(const EventAggregator::Write& write, absl::Time wall_now);
// The namespace that an event is written to: that of its object, or "default".
std::string EventNamespace(const Event& event);

// Thread-safe.
class EventRecorder {
 public:
  // `api` outlives it. Starts a thread.
  EventRecorder(Api& api, EventOptions options, std::function<absl::Time()> now = MonotonicNow);
  // Drops what waits.
  ~EventRecorder();
  EventRecorder(const EventRecorder&) = delete;
  EventRecorder& operator=(const EventRecorder&) = delete;

  void Record(Event event);

  int64_t num_written() const;
  // Because the queue was full, by the limit of one object, or because they could not be written.
  int64_t num_dropped() const;

 private:
  void Loop();
  void Perform(const EventAggregator::Write& write);
  absl::Status TryWrite(const EventAggregator::Write& write);

  Api& api_;
  const EventOptions options_;
  const std::function<absl::Time()> now_;
  EventAggregator aggregator_;  // the thread's
  mutable absl::Mutex mutex_;
  absl::CondVar changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::deque<Event> queue_ ABSL_GUARDED_BY(mutex_);
  int64_t num_written_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t num_dropped_ ABSL_GUARDED_BY(mutex_) = 0;
  std::thread thread_;  // last: it uses the rest
};

}  // namespace moe::kube

#endif  // MOE_CONTROLLER_KUBE_EVENTS_H_
