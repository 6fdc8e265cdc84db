// The thread of one group: it takes events in order, steps the Group and carries out its actions.
//
// Everybody else (the server's threads, the runtime's) only queues events. A session is read one
// message at a time, when the one before was acted on: a worker that floods fills its own pipe and
// nothing here.
//
// Tested by tests/controller/coordinator/group_loop_test.cc and server_test.cc.
#ifndef MOE_CONTROLLER_COORDINATOR_GROUP_LOOP_H_
#define MOE_CONTROLLER_COORDINATOR_GROUP_LOOP_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "controller/coordinator/epoch_store.h"
#include "controller/coordinator/group.h"
#include "proto/coordinator.pb.h"
#include "runtime/runtime.h"

namespace moe::coordinator {

// One connection of a worker, as the loop sees it. Methods are thread-safe, do not block and do not
// call the loop; they do nothing once the connection has ended.
class WorkerSession {
 public:
  virtual ~WorkerSession() = default;

  // Asks for the next message; it comes as GroupLoop::Receive.
  virtual void ReadNext() = 0;
  virtual void Send(v1::ControllerMessage message) = 0;
  // Ends the connection with `status`, after what was sent before.
  virtual void Close(const absl::Status& status) = 0;
};

struct GroupLoopOptions {
  GroupOptions group;
  absl::Duration tick = absl::Milliseconds(100);
  // Changes of counters and of loading progress are published this often.
  absl::Duration publish_interval = absl::Milliseconds(200);
  // Called on the loop's thread with each published state, and never after Stop. `urgent`: the
  // phase, the epoch or whether it drains has changed. Must not block nor call Stop.
  std::function<void(const std::shared_ptr<const v1::GroupState>&, bool urgent)> on_published;
};

// Methods are thread-safe.
class GroupLoop : public std::enable_shared_from_this<GroupLoop> {
 public:
  // Starts the thread, which finds or starts the workers. `runtime` must outlive Stop's return.
  // InvalidArgument for a placement with holes or doubles.
  static absl::StatusOr<std::shared_ptr<GroupLoop>> Start(GroupLoopOptions options,
                                                          std::unique_ptr<EpochStore> store,
                                                          runtime::Runtime* runtime);

  // Stop must have been called.
  ~GroupLoop();
  GroupLoop(const GroupLoop&) = delete;
  GroupLoop& operator=(const GroupLoop&) = delete;

  // A worker's session with its first message. `session` is never used again for another one.
  // After Stop it is closed at once.
  void Connect(uint64_t session, std::shared_ptr<WorkerSession> stream, v1::WorkerMessage hello);
  void Receive(uint64_t session, v1::WorkerMessage message);
  void Disconnect(uint64_t session);

  void SetDraining();
  // Tells the workers that the group ends, and stops them through the runtime. Returns when none is
  // left or the runtime has given up waiting. Idempotent.
  void StopWorkers(absl::Duration grace);

  // Ends the thread, lets go of the store and closes all sessions with `status`; workers are not
  // touched. Idempotent. Not from on_published.
  void Stop(const absl::Status& status);

  // The last published state.
  std::shared_ptr<const v1::GroupState> State() const;

 private:
  GroupLoop(GroupLoopOptions options, std::unique_ptr<EpochStore> store, runtime::Runtime* runtime);

  void Push(Event event);
  bool HasWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return !events_.empty() || loop_ends_; }
  std::shared_ptr<WorkerSession> FindSession(uint64_t session) const;

  void Loop();
  void Handle(const Event& event);
  void Do(SendMessage& action, std::deque<Event>* events);
  void Do(CloseSession& action, std::deque<Event>* events);
  void Do(StartWorker& action, std::deque<Event>* events);
  void Do(KillWorker& action, std::deque<Event>* events);
  void Do(ClaimEpoch& action, std::deque<Event>* events);
  void Do(GiveUp& action, std::deque<Event>* events);
  void Do(LogLine& action, std::deque<Event>* events);
  void Publish(absl::Time now);

  const GroupLoopOptions options_;
  std::unique_ptr<EpochStore> store_;  // of the loop's thread; gone after Stop
  runtime::Runtime* const runtime_;
  const std::string log_name_;  // "group ns/name/0: ", or empty
  std::thread loop_;

  // Of the loop's thread.
  Group group_;
  uint64_t published_version_ = 0;
  uint64_t published_epoch_ = 0;
  v1::GroupState::Phase published_phase_ = v1::GroupState::PHASE_UNSPECIFIED;
  bool published_draining_ = false;
  absl::Time published_at_ = absl::InfinitePast();

  mutable absl::Mutex mu_;
  std::deque<Event> events_ ABSL_GUARDED_BY(mu_);
  std::map<uint64_t, std::shared_ptr<WorkerSession>> sessions_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<const v1::GroupState> published_ ABSL_GUARDED_BY(mu_);
  bool stop_handled_ ABSL_GUARDED_BY(mu_) = false;
  bool loop_ends_ ABSL_GUARDED_BY(mu_) = false;
  bool loop_ended_ ABSL_GUARDED_BY(mu_) = false;
  absl::Status end_status_ ABSL_GUARDED_BY(mu_);
};

}  // namespace moe::coordinator

#endif  // MOE_CONTROLLER_COORDINATOR_GROUP_LOOP_H_
