// The two kinds of streams that the coordinator serves, as gRPC reactors: a worker's Session and a
// watcher of the groups of a deployment.
//
// A reactor belongs to gRPC from its creation until OnDone; others hold it by shared_ptr and may
// call it at any time, also when the stream has ended.
//
// Tested by tests/controller/coordinator/server_test.cc and server_groups_test.cc.
#ifndef MOE_CONTROLLER_COORDINATOR_STREAMS_H_
#define MOE_CONTROLLER_COORDINATOR_STREAMS_H_

#include <grpcpp/grpcpp.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "controller/coordinator/group_loop.h"
#include "proto/coordinator.pb.h"

namespace moe::coordinator {

grpc::Status ToGrpc(const absl::Status& status);

// Methods are thread-safe.
class SessionStream : public grpc::ServerBidiReactor<v1::WorkerMessage, v1::ControllerMessage>,
                      public WorkerSession {
 public:
  // Called on gRPC's threads; must not block.
  struct Callbacks {
    std::function<void(uint64_t session, v1::WorkerMessage)> on_message;
    std::function<void(uint64_t session)> on_closed;  // the last call for this session
  };

  // A worker that leaves more than `max_unread` messages unread is cut off.
  static std::shared_ptr<SessionStream> Create(grpc::CallbackServerContext* context,
                                               uint64_t session, size_t max_unread,
                                               Callbacks callbacks);

  // Called once by Create's user and once for each on_message.
  void ReadNext() override;
  void Send(v1::ControllerMessage message) override;
  void Close(const absl::Status& status) override;
  // Close with UNAVAILABLE that names the coordinator that leads, if `leader` is not empty.
  void Redirect(const std::string& leader);

 private:
  SessionStream(grpc::CallbackServerContext* context, uint64_t session, size_t max_unread,
                Callbacks callbacks)
      : context_(context),
        session_(session),
        max_unread_(max_unread),
        callbacks_(std::move(callbacks)) {}

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  void CloseLocked(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void FinishOnce() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  grpc::CallbackServerContext* const context_;  // lives until OnDone
  const uint64_t session_;
  const size_t max_unread_;
  const Callbacks callbacks_;
  std::shared_ptr<SessionStream> self_;  // until OnDone
  v1::WorkerMessage incoming_;           // gRPC writes it between StartRead and OnReadDone

  absl::Mutex mu_;
  std::deque<v1::ControllerMessage> outbox_ ABSL_GUARDED_BY(mu_);  // front is being written
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool closing_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  grpc::Status end_status_ ABSL_GUARDED_BY(mu_);
};

// Sends the newest states; states that come faster than the client reads are skipped.
// Methods are thread-safe.
class WatchStream : public grpc::ServerWriteReactor<v1::GroupStates> {
 public:
  static std::shared_ptr<WatchStream> Create(grpc::CallbackServerContext* context,
                                             std::function<void()> on_closed);

  void Show(std::shared_ptr<const v1::GroupStates> states);
  // As SessionStream's; what was shown before still goes out.
  void Close(const absl::Status& status);
  void Redirect(const std::string& leader);

 private:
  WatchStream(grpc::CallbackServerContext* context, std::function<void()> on_closed)
      : context_(context), on_closed_(std::move(on_closed)) {}

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;
  void CloseLocked(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void FinishOnce() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  grpc::CallbackServerContext* const context_;  // lives until OnDone
  std::function<void()> on_closed_;
  std::shared_ptr<WatchStream> self_;  // until OnDone

  absl::Mutex mu_;
  std::shared_ptr<const v1::GroupStates> next_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<const v1::GroupStates> writing_ ABSL_GUARDED_BY(mu_);
  bool closing_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  grpc::Status end_status_ ABSL_GUARDED_BY(mu_);
};

// A call of `context` that was refused because this coordinator does not lead.
grpc::Status RedirectStatus(const std::string& leader, grpc::CallbackServerContext* context);

}  // namespace moe::coordinator

#endif  // MOE_CONTROLLER_COORDINATOR_STREAMS_H_
