// Keeps a handler up to date with all objects of one type: lists them once, then watches, and goes
// on from the last version it saw when the watch ends. What makes the stream untrustworthy (410, a
// bad or half line) makes it list again, so no change is ever missed, only late.
//
// ReflectorState decides; Reflector is the thread around it.
//
// Tested by tests/controller/kube/reflector_state_test.cc and reflector_test.cc.
#ifndef MOE_CONTROLLER_KUBE_REFLECTOR_H_
#define MOE_CONTROLLER_KUBE_REFLECTOR_H_

#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/random/random.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "controller/kube/api.h"
#include "controller/kube/backoff.h"
#include "controller/kube/client.h"
#include "controller/kube/watch_stream.h"

namespace moe::kube {

struct ReflectorOptions {
  ResourceType type;
  std::string ns = {};        // empty: all
  std::string selector = {};  // of labels
  // Of one watch; each is made up to half longer at random.
  absl::Duration watch_duration = absl::Minutes(5);
  // A watch without a byte for so long is begun anew.
  absl::Duration silence = absl::Minutes(3);
  absl::Duration first_backoff = absl::Milliseconds(800);
  absl::Duration max_backoff = absl::Seconds(30);
};

// Called by the reflector's thread, one at a time.
class ReflectorHandler {
 public:
  virtual ~ReflectorHandler() = default;
  // All objects there are; what the handler knows beyond them is gone.
  virtual void OnReplace(std::vector<Json> objects) = 0;
  virtual void OnUpsert(Json object) = 0;
  // The last state of an object that is gone; perhaps never seen before.
  virtual void OnRemove(Json object) = 0;
};

// What to do next, from what happened. Pure; not thread-safe.
class ReflectorState {
 public:
  struct Step {
    bool list = true;                   // else watch
    std::string resource_version = {};  // from which to watch
    absl::Duration pause;               // before it
    // Nobody asked for the pause: an eighth of it is enough once the server, which was not there,
    // answers any other request.
    bool may_be_shorter = false;
  };

  ReflectorState(absl::Duration first_backoff, absl::Duration max_backoff)
      : backoff_(first_backoff, max_backoff) {}

  const Step& next() const { return next_; }

  // `random` is drawn from [0, 1).
  void OnList(const absl::StatusOr<std::string>& resource_version, double random);
  // An event of the watch. False: it is an error, `error` says which, and the watch is over.
  bool OnEvent(const WatchEvent& event, absl::Status* error);
  // The watch is over. DataLoss and OutOfRange: its stream can't be trusted any more.
  void OnWatchEnd(const absl::Status& status, absl::Duration lasted, double random);

 private:
  // Of the next step, after one that ended with `status`.
  void BackOff(const absl::Status& status, double random);

  Step next_;
  Backoff backoff_;
  bool any_event_ = false;  // in this watch
};

struct ReflectorCounters {
  int64_t num_lists = 0;
  int64_t num_watches = 0;
  int64_t num_relists = 0;  // lists after the first that was answered
  int64_t num_errors = 0;   // lists and watches that failed
  int64_t num_events = 0;
};

class Reflector {
 public:
  // Client and handler outlive it.
  Reflector(Client& client, ReflectorOptions options, ReflectorHandler& handler);
  // Stops.
  ~Reflector();
  Reflector(const Reflector&) = delete;
  Reflector& operator=(const Reflector&) = delete;

  // Once.
  void Start();
  // Ends a watch at once. A list in progress is waited for, unless Client::Shutdown ends it. No
  // call of the handler runs after it returns. Thread-safe.
  void Stop();

  ReflectorCounters counters() const;

 private:
  void Loop();
  // What comes before `step`. `num_returns`: of the client, before what made it necessary. False:
  // the reflector stops.
  bool Pause(const ReflectorState::Step& step, int64_t num_returns);
  absl::StatusOr<std::string> List();
  absl::Status Watch(ReflectorState& state, const std::string& resource_version);
  // Passes an event on. False: the watch is over.
  bool Deliver(ReflectorState& state, WatchEvent event, absl::Status* error);
  void Report(const absl::Status& status);

  Client& client_;
  const ReflectorOptions options_;
  ReflectorHandler& handler_;
  std::thread thread_;
  absl::BitGen random_;   // the thread's
  bool failing_ = false;  // the thread's: the last list or watch failed
  mutable absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = true;
  WatchConnection* watch_ ABSL_GUARDED_BY(mutex_) = nullptr;
  ReflectorCounters counters_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace moe::kube

#endif  // MOE_CONTROLLER_KUBE_REFLECTOR_H_
