// The two kinds of streams that the coordinator serves, as gRPC reactors: a worker's Session and a
// Watcher of the group's state.
//
// A reactor belongs to gRPC from its creation until OnDone; others hold it by shared_ptr and may
// call it at any time, also when the stream has ended.
//
// Tested by tests/controller/coordinator/server_test.cc.
#ifndef MOE_CONTROLLER_COORDINATOR_STREAMS_H_
#define MOE_CONTROLLER_COORDINATOR_STREAMS_H_

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "proto/coordinator.pb.h"

namespace moe::coordinator {

// Methods are thread-safe.
class SessionStream : public grpc::ServerBidiReactor<v1::WorkerMessage, v1::ControllerMessage> {
 public:
  // Called on gRPC's threads; must not block.
  struct Callbacks {
    std::function<void(uint64_t session, v1::WorkerMessage)> on_message;
    std::function<void(uint64_t session)> on_closed;  // the last call for this session
  };

  static std::shared_ptr<SessionStream> Create(uint64_t session, Callbacks callbacks);

  // Asks for the next message; called once by Create's user and once for each on_message.
  void ReadNext();
  // Queues a message. Nothing happens after Close or the end of the stream.
  void Send(v1::ControllerMessage message);
  // Ends the stream when all that was sent before has left.
  void Close();

 private:
  SessionStream(uint64_t session, Callbacks callbacks)
      : session_(session), callbacks_(std::move(callbacks)) {}

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void FinishOnce() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const uint64_t session_;
  const Callbacks callbacks_;
  std::shared_ptr<SessionStream> self_;  // until OnDone
  v1::WorkerMessage incoming_;           // gRPC writes it between StartRead and OnReadDone

  absl::Mutex mu_;
  std::deque<v1::ControllerMessage> outbox_ ABSL_GUARDED_BY(mu_);  // front is being written
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool closing_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
};

// Sends the newest state; states that come faster than the client reads are skipped.
// Methods are thread-safe.
class WatchStream : public grpc::ServerWriteReactor<v1::GroupState> {
 public:
  static std::shared_ptr<WatchStream> Create(std::function<void()> on_closed);

  void Show(std::shared_ptr<const v1::GroupState> state);
  void Close();

 private:
  explicit WatchStream(std::function<void()> on_closed) : on_closed_(std::move(on_closed)) {}

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;
  void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void FinishOnce() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  std::function<void()> on_closed_;
  std::shared_ptr<WatchStream> self_;  // until OnDone

  absl::Mutex mu_;
  std::shared_ptr<const v1::GroupState> next_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<const v1::GroupState> writing_ ABSL_GUARDED_BY(mu_);
  bool closing_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace moe::coordinator

#endif  // MOE_CONTROLLER_COORDINATOR_STREAMS_H_
