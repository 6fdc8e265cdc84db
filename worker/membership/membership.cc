#include "worker/membership/membership.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/grpcpp.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <deque>
#include <optional>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "identity/coordinator_route.h"
#include "identity/credentials.h"
#include "proto/coordinator.grpc.pb.h"
#include "spdlog/spdlog.h"
#include "worker/membership/session_state.h"

namespace moe::membership {
namespace {

using coordinator::v1::ControllerMessage;
using coordinator::v1::Coordinator;
using coordinator::v1::WorkerMessage;

absl::StatusOr<uint64_t> DrawNonce() {
  uint64_t nonce = 0;
  while (nonce == 0) {
    const ssize_t n = getrandom(&nonce, sizeof(nonce), 0);
    if (n < 0 && errno != EINTR) return absl::ErrnoToStatus(errno, "getrandom");
    if (n != sizeof(nonce)) nonce = 0;
  }
  return nonce;
}

std::string HostName() {
  char name[256] = {};
  if (gethostname(name, sizeof(name) - 1) != 0) return "unknown";
  return name;
}

// A coordinator whose machine is gone is noticed by pings that nobody answers.
constexpr int kKeepaliveMilliseconds = 10000;
constexpr int kKeepaliveTimeoutMilliseconds = 5000;
// Many workers may come at once, after a controller has started.
constexpr int kConnectDeadlineMilliseconds = 5000;
constexpr absl::Duration kWriteGrace = absl::Seconds(1);

std::shared_ptr<grpc::Channel> MakeChannel(const MembershipOptions& options,
                                           const identity::CoordinatorRoute& route) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMilliseconds);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMilliseconds);
  if (options.credentials != nullptr) identity::SetTargetName(route.target_name(), &arguments);
  // gRPC's own pause between attempts must not be longer than ours.
  const int first_ms = static_cast<int>(absl::ToInt64Milliseconds(options.first_retry));
  const int max_ms = static_cast<int>(absl::ToInt64Milliseconds(options.max_retry));
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, std::max(first_ms, 1));
  // In spite of its name: how long one attempt may take, with the TLS handshake.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kConnectDeadlineMilliseconds);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, std::max(max_ms, 1));
  // One connection for each session, also where several run in one process.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // A proxy of the environment is for the web, not for this.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return grpc::CreateCustomChannel(
      route.address(),
      options.credentials != nullptr ? options.credentials : grpc::InsecureChannelCredentials(),
      arguments);
}

}  // namespace

class Membership::Impl {
 public:
  Impl(MembershipOptions options, MembershipHandler* handler)
      : options_(std::move(options)),
        handler_(handler),
        route_(options_.coordinator_address),
        stub_(Coordinator::NewStub(MakeChannel(options_, route_))) {}

  ~Impl() { Stop(absl::ZeroDuration()); }

  void StartThreads() {
    sender_ = std::thread([this] { SendLoop(); });
    receiver_ = std::thread([this] { ReceiveLoop(); });
  }

  void Stop(absl::Duration grace) {
    {
      absl::MutexLock lock(&mu_);
      if (!stopping_) {
        stopping_ = true;
        stop_at_ = absl::Now() + grace;
        wake_.SignalAll();
      }
      while (!receiver_done_) {
        if (wake_.WaitWithDeadline(&mu_, stop_at_) && !receiver_done_ && connection_ != nullptr) {
          connection_->context.TryCancel();
          wake_.WaitWithTimeout(&mu_, absl::Milliseconds(50));
        }
      }
    }
    if (receiver_.joinable()) receiver_.join();
    if (sender_.joinable()) sender_.join();
  }

  void SendLoadProgress(uint64_t bytes_done, uint64_t bytes_total) {
    absl::MutexLock lock(&mu_);
    coordinator::v1::LoadProgress progress;
    progress.set_bytes_done(bytes_done);
    progress.set_bytes_total(bytes_total);
    progress_ = progress;
    wake_.SignalAll();
  }

  void SendLoaded(const coordinator::v1::Loaded& loaded) {
    absl::MutexLock lock(&mu_);
    progress_.reset();
    WorkerMessage message;
    *message.mutable_loaded() = loaded;
    if (state_.SayLoaded(loaded)) Queue(std::move(message));
  }

  void SendPrepared(uint64_t epoch, std::string bootstrap) {
    absl::MutexLock lock(&mu_);
    WorkerMessage message;
    message.mutable_prepared()->set_epoch(epoch);
    message.mutable_prepared()->set_bootstrap(std::move(bootstrap));
    if (state_.SayPrepared(message.prepared())) Queue(std::move(message));
  }

  void SendJoined(uint64_t epoch) {
    absl::MutexLock lock(&mu_);
    WorkerMessage message;
    message.mutable_joined()->set_epoch(epoch);
    if (state_.SayJoined(epoch)) Queue(std::move(message));
  }

  void SendEpochFailed(uint64_t epoch, std::string_view reason, int suspect_slot) {
    absl::MutexLock lock(&mu_);
    WorkerMessage message;
    message.mutable_epoch_failed()->set_epoch(epoch);
    message.mutable_epoch_failed()->set_reason(std::string(reason));
    message.mutable_epoch_failed()->set_suspect_slot(suspect_slot);
    if (state_.SayEpochFailed(message.epoch_failed())) Queue(std::move(message));
  }

  void SendUnable(std::string_view reason) {
    absl::MutexLock lock(&mu_);
    state_.SayUnable(reason);
    WorkerMessage message;
    message.mutable_unable()->set_reason(std::string(reason));
    Queue(std::move(message));
  }

  bool connected() const {
    absl::MutexLock lock(&mu_);
    return connected_;
  }

  uint64_t nonce() const { return options_.nonce; }

 private:
  // One stream. The receiver reads and finishes it, the sender writes.
  struct Connection {
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientReaderWriter<WorkerMessage, ControllerMessage>> stream;
    bool ended = false;        // the receiver saw the end: no more writes
    bool writing = false;      // the sender is inside Write
    bool writes_done = false;  // half-closed by Stop
  };

  void Queue(WorkerMessage message) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (connection_ == nullptr) return;  // Replay says it behind the next Hello
    outbox_.push_back(std::move(message));
    wake_.SignalAll();
  }

  // Whether the receiver should open another connection.
  bool WantsConnection() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (dismissed_) return false;
    if (!stopping_) return true;
    // The last words of a process that can't serve should still get through.
    return state_.unable() && !said_goodbye_ && absl::Now() < stop_at_;
  }

  void ReceiveLoop() {
    absl::Duration pause = options_.first_retry;
    while (true) {
      {
        absl::MutexLock lock(&mu_);
        if (!WantsConnection()) break;
      }
      const bool was_open = RunConnection();
      absl::MutexLock lock(&mu_);
      if (was_open) pause = options_.first_retry;
      const absl::Time retry_at = absl::Now() + pause;
      while (!stopping_ && absl::Now() < retry_at) wake_.WaitWithDeadline(&mu_, retry_at);
      if (stopping_ && WantsConnection()) wake_.WaitWithDeadline(&mu_, retry_at);
      pause = std::min(2 * pause, options_.max_retry);
    }
    absl::MutexLock lock(&mu_);
    receiver_done_ = true;
    wake_.SignalAll();
  }

  // Returns whether the controller answered.
  bool RunConnection() {
    auto connection = std::make_shared<Connection>();
    connection->stream = stub_->Session(&connection->context);
    {
      absl::MutexLock lock(&mu_);
      outbox_.clear();
      outbox_.push_back(MakeHello());
      for (WorkerMessage& message : state_.Replay()) outbox_.push_back(std::move(message));
      connection_ = connection;
      wake_.SignalAll();
    }
    bool was_open = false;
    ControllerMessage message;
    while (connection->stream->Read(&message)) {
      if (!std::exchange(was_open, true)) {
        SetConnected(true);
        handler_->OnConnectionState(true);
      }
      HandleMessage(message);
    }
    {
      absl::MutexLock lock(&mu_);
      connection->ended = true;
      connection_.reset();
      outbox_.clear();
      // The end of the stream frees a sender that is inside Write. Cancelling is the last resort:
      // it would hide how the stream has ended.
      absl::Time cancel_at = absl::Now() + kWriteGrace;
      while (connection->writing) {
        if (!wake_.WaitWithDeadline(&mu_, cancel_at)) continue;
        connection->context.TryCancel();
        cancel_at = absl::InfiniteFuture();
      }
    }
    const grpc::Status status = connection->stream->Finish();
    if (route_.OnCallEnd(connection->context, status)) {
      stub_ = Coordinator::NewStub(MakeChannel(options_, route_));
    }
    if (!was_open) LogRefusal(status);
    if (was_open) {
      SetConnected(false);
      bool expected = false;
      {
        absl::MutexLock lock(&mu_);
        expected = stopping_ || dismissed_;
      }
      if (!expected) {
        spdlog::warn("lost the session with the controller ({}); connecting again",
                     status.ok() ? "it was closed" : status.error_message());
      }
      handler_->OnConnectionState(false);
    }
    return was_open;
  }

  // A refusal is repeated with every attempt; it is logged when it is a new one.
  void LogRefusal(const grpc::Status& status) {
    if (status.error_message() == last_refusal_) return;
    last_refusal_ = status.error_message();
    if (!last_refusal_.empty()) {
      spdlog::warn("no session with the controller yet: {}", last_refusal_);
    }
  }

  WorkerMessage MakeHello() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    WorkerMessage message;
    coordinator::v1::Hello* hello = message.mutable_hello();
    hello->set_worker_id(options_.worker_id);
    hello->set_nonce(options_.nonce);
    hello->set_pid(getpid());
    hello->set_host(options_.host);
    hello->set_numerics_id(options_.numerics_id);
    hello->set_engine_address(options_.engine_address);
    hello->set_metrics_address(options_.metrics_address);
    hello->set_slot_hint(options_.slot_hint);
    hello->set_group(options_.group);
    hello->set_exchange_address(options_.exchange_address);
    state_.FillHello(hello);
    return message;
  }

  void SetConnected(bool connected) {
    absl::MutexLock lock(&mu_);
    connected_ = connected;
  }

  void HandleMessage(const ControllerMessage& message) {
    SessionState::Received received;
    {
      absl::MutexLock lock(&mu_);
      received = state_.Receive(message);
      for (WorkerMessage& answer : received.answers) Queue(std::move(answer));
      if (message.has_dismiss()) dismissed_ = true;
    }
    if (!received.refusal.empty()) {
      spdlog::warn("refused a message of the controller: {}", received.refusal);
    }
    for (const SessionState::Delivery& delivery : received.deliveries) Deliver(delivery);
  }

  void Deliver(const SessionState::Delivery& delivery) {
    using Delivery = SessionState::Delivery;
    const ControllerMessage& message = delivery.message;
    switch (delivery.kind) {
      case Delivery::kAssign:
        handler_->OnAssign(message.assign().spec(), static_cast<int>(message.assign().slot()));
        break;
      case Delivery::kPrepare: {
        std::vector<EpochMember> members;
        for (const coordinator::v1::Member& member : message.prepare().members()) {
          members.push_back({static_cast<int>(member.slot()), member.worker_id(), member.nonce(),
                             member.exchange_address()});
        }
        std::sort(members.begin(), members.end(),
                  [](const EpochMember& a, const EpochMember& b) { return a.slot < b.slot; });
        handler_->OnPrepare(message.prepare().epoch(), members);
        break;
      }
      case Delivery::kJoin:
        handler_->OnJoin(message.join().epoch(), message.join().bootstrap());
        break;
      case Delivery::kActivate:
        handler_->OnActivate(message.activate().epoch());
        break;
      case Delivery::kAbort:
        handler_->OnAbort(message.abort().epoch(), message.abort().reason());
        break;
      case Delivery::kDismiss:
        handler_->OnDismiss(message.dismiss().reason());
        break;
    }
  }

  // What the sender does next.
  struct Work {
    std::shared_ptr<Connection> connection;
    std::optional<WorkerMessage> message;
    bool heartbeat = false;
    bool writes_done = false;
  };

  // Waits for work. No connection in the result: the thread ends.
  Work NextWork() {
    absl::MutexLock lock(&mu_);
    while (!receiver_done_) {
      Work work;
      work.connection = connection_;
      const absl::Time now = absl::Now();
      absl::Time wake_at = absl::InfiniteFuture();
      if (connection_ != nullptr && !connection_->writes_done) {
        if (!outbox_.empty()) {
          work.message = std::move(outbox_.front());
          outbox_.pop_front();
        } else if (stopping_) {
          work.writes_done = true;
          connection_->writes_done = true;
        } else if (now >= next_heartbeat_ || next_heartbeat_ > now + options_.heartbeat_interval) {
          // The second case: the clock was set back.
          work.heartbeat = true;
          next_heartbeat_ = now + options_.heartbeat_interval;
        } else if (progress_.has_value() &&
                   (now >= next_progress_ || next_progress_ > now + options_.progress_interval)) {
          work.message.emplace();
          *work.message->mutable_load_progress() = *std::exchange(progress_, std::nullopt);
          next_progress_ = now + options_.progress_interval;
        }
        if (work.message.has_value() || work.heartbeat || work.writes_done) {
          connection_->writing = true;
          return work;
        }
        wake_at =
            progress_.has_value() ? std::min(next_heartbeat_, next_progress_) : next_heartbeat_;
      }
      wake_.WaitWithDeadline(&mu_, wake_at);
    }
    return {};
  }

  void SendLoop() {
    while (true) {
      Work work = NextWork();
      if (work.connection == nullptr) return;
      if (work.heartbeat) {
        work.message.emplace();
        *work.message->mutable_heartbeat() = handler_->MakeHeartbeat();
        absl::MutexLock lock(&mu_);
        work.message->mutable_heartbeat()->set_epoch(state_.running_epoch());
      }
      bool ok = true;
      if (work.message.has_value()) ok = work.connection->stream->Write(*work.message);
      if (work.writes_done) ok = work.connection->stream->WritesDone();
      // A write fails when the stream has ended; the receiver sees that too.
      absl::MutexLock lock(&mu_);
      work.connection->writing = false;
      if (work.writes_done && ok) said_goodbye_ = true;
      wake_.SignalAll();
    }
  }

  const MembershipOptions options_;
  MembershipHandler* const handler_;
  // Of the receiver.
  identity::CoordinatorRoute route_;
  std::unique_ptr<Coordinator::Stub> stub_;
  std::string last_refusal_;
  std::thread sender_;
  std::thread receiver_;

  mutable absl::Mutex mu_;
  absl::CondVar wake_;  // anything below changed
  SessionState state_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<Connection> connection_ ABSL_GUARDED_BY(mu_);
  std::deque<WorkerMessage> outbox_ ABSL_GUARDED_BY(mu_);  // for connection_
  std::optional<coordinator::v1::LoadProgress> progress_ ABSL_GUARDED_BY(mu_);
  absl::Time next_heartbeat_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  absl::Time next_progress_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  absl::Time stop_at_ ABSL_GUARDED_BY(mu_) = absl::InfiniteFuture();
  bool connected_ ABSL_GUARDED_BY(mu_) = false;
  bool dismissed_ ABSL_GUARDED_BY(mu_) = false;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  bool said_goodbye_ ABSL_GUARDED_BY(mu_) = false;
  bool receiver_done_ ABSL_GUARDED_BY(mu_) = false;
};

absl::StatusOr<std::unique_ptr<Membership>> Membership::Start(const MembershipOptions& options,
                                                              MembershipHandler* handler) {
  if (options.coordinator_address.empty() || options.worker_id.empty() ||
      options.numerics_id.empty()) {
    return absl::InvalidArgumentError(
        "a membership needs the coordinator's address, a worker id and a numerics id");
  }
  MembershipOptions filled = options;
  if (filled.nonce == 0) {
    absl::StatusOr<uint64_t> nonce = DrawNonce();
    if (!nonce.ok()) return nonce.status();
    filled.nonce = *nonce;
  }
  if (filled.host.empty()) filled.host = HostName();
  auto impl = std::make_unique<Impl>(std::move(filled), handler);
  impl->StartThreads();
  return std::unique_ptr<Membership>(new Membership(std::move(impl)));
}

Membership::Membership(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Membership::~Membership() = default;

void Membership::Stop(absl::Duration grace) { impl_->Stop(grace); }
void Membership::SendLoadProgress(uint64_t bytes_done, uint64_t bytes_total) {
  impl_->SendLoadProgress(bytes_done, bytes_total);
}
void Membership::SendLoaded(const coordinator::v1::Loaded& loaded) { impl_->SendLoaded(loaded); }
void Membership::SendPrepared(uint64_t epoch, std::string bootstrap) {
  impl_->SendPrepared(epoch, std::move(bootstrap));
}
void Membership::SendJoined(uint64_t epoch) { impl_->SendJoined(epoch); }
void Membership::SendEpochFailed(uint64_t epoch, std::string_view reason, int suspect_slot) {
  impl_->SendEpochFailed(epoch, reason, suspect_slot);
}
void Membership::SendUnable(std::string_view reason) { impl_->SendUnable(reason); }
bool Membership::connected() const { return impl_->connected(); }
uint64_t Membership::nonce() const { return impl_->nonce(); }

}  // namespace moe::membership
