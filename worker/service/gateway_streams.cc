#include "worker/service/gateway_streams.h"

#include <deque>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "identity/peer_identity.h"

namespace moe::engine {
namespace {

using v1::EngineMessage;
using v1::GatewayMessage;
using v1::StepEvents;
using v1::TokenEvent;

// Events of a step are cut into messages of about this size.
constexpr size_t kMessageBytes = size_t{1} << 20;

}  // namespace

// One gateway. All state is guarded by the owner's mutex; gRPC's calls may be made under it,
// because gRPC never runs a reaction on the calling thread before the call returns.
class GatewayStreams::Stream final : public grpc::ServerBidiReactor<GatewayMessage, EngineMessage> {
 public:
  Stream(GatewayStreams* owner, grpc::CallbackServerContext* context, uint64_t client)
      : owner_(owner), context_(context), client_(client), started_(absl::Now()) {}

  // --- reactions: called by gRPC without the mutex ---

  void OnReadDone(bool ok) override {
    const absl::MutexLock lock(&owner_->mutex_);
    if (ended_) return;
    if (!ok) return End(grpc::Status::OK);
    Handle();
    if (!ended_) StartRead(&received_);
  }

  void OnWriteDone(bool ok) override {
    const absl::MutexLock lock(&owner_->mutex_);
    write_in_flight_ = false;
    num_queued_bytes_ -= outgoing_.front().ByteSizeLong();
    outgoing_.pop_front();
    if (ended_) return Finish(final_status_);
    if (!ok) return End(grpc::Status::OK);
    WriteNext();
  }

  void OnCancel() override {
    const absl::MutexLock lock(&owner_->mutex_);
    End(grpc::Status(grpc::StatusCode::CANCELLED, "the gateway cancelled the stream"));
  }

  void OnDone() override {
    {
      const absl::MutexLock lock(&owner_->mutex_);
      owner_->streams_.erase(client_);
    }
    delete this;
  }

  // --- called with the mutex held ---

  void Begin() { StartRead(&received_); }

  // Ends the stream; its requests are forgotten at the next step.
  void End(grpc::Status status) {
    owner_->mutex_.AssertHeld();
    if (ended_) return;
    ended_ = true;
    ended_at_ = absl::Now();
    if (greeted_ && owner_->leader_ != nullptr) owner_->leader_->ClientGone(client_);
    if (!write_in_flight_) {
      Finish(std::move(status));
      return;
    }
    // One operation at a time: the write in flight ends first.
    final_status_ = std::move(status);
    while (outgoing_.size() > 1) {
      num_queued_bytes_ -= outgoing_.back().ByteSizeLong();
      outgoing_.pop_back();
    }
  }

  void Send(EngineMessage message) {
    if (ended_) return;
    num_queued_bytes_ += message.ByteSizeLong();
    if (num_queued_bytes_ > owner_->options_.max_queued_bytes) {
      End(grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "the gateway does not read"));
      // The write in flight may never end.
      context_->TryCancel();
      return;
    }
    outgoing_.push_back(std::move(message));
    WriteNext();
  }

  // Closes what takes too long.
  void Tick(absl::Time now) {
    const EngineServiceOptions& options = owner_->options_;
    if (ended_) {
      if (now - ended_at_ > options.stats_interval) context_->TryCancel();
    } else if (!greeted_ && now - started_ > options.greeting_deadline) {
      End(grpc::Status(grpc::StatusCode::DEADLINE_EXCEEDED, "no greeting came"));
    }
  }

  bool greeted() const { return greeted_; }

 private:
  void WriteNext() {
    if (write_in_flight_ || outgoing_.empty()) return;
    write_in_flight_ = true;
    StartWrite(&outgoing_.front());
  }

  // Takes the message that was received.
  void Handle() {
    owner_->mutex_.AssertHeld();
    Leader* leader = owner_->leader_;
    switch (received_.message_case()) {
      case GatewayMessage::kGreeting:
        if (greeted_) return EndInvalid("a second greeting");
        greeted_ = true;
        Welcome(*leader);
        return;
      case GatewayMessage::kSubmit: {
        if (!greeted_) return EndInvalid("a request before the greeting");
        auto rejected =
            leader->Submit(client_, std::move(*received_.mutable_submit()), absl::Now());
        if (!rejected.has_value()) return;
        EngineMessage message;
        *message.mutable_rejected() = *std::move(rejected);
        return Send(std::move(message));
      }
      case GatewayMessage::kCancel:
        if (!greeted_) return EndInvalid("a cancellation before the greeting");
        return leader->Cancel(client_, received_.cancel().request());
      case GatewayMessage::MESSAGE_NOT_SET:
        return EndInvalid("an empty message");
    }
  }

  void EndInvalid(const char* what) {
    End(grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, absl::StrCat(what, " was received")));
  }

  void Welcome(const Leader& leader) {
    owner_->mutex_.AssertHeld();
    const LeaderOptions& options = leader.options();
    EngineMessage message;
    v1::Welcome* welcome = message.mutable_welcome();
    welcome->set_epoch(leader.stats().epoch());
    welcome->set_numerics_id(owner_->options_.numerics_id);
    welcome->set_model_digest(owner_->model_digest_);
    welcome->set_vocab_size(static_cast<uint32_t>(options.vocab_size));
    welcome->set_max_context(static_cast<uint32_t>(options.max_context));
    welcome->set_kv_capacity_tokens(static_cast<uint64_t>(options.limits.kv_blocks_per_owner) *
                                    static_cast<uint64_t>(options.limits.kv_block_tokens));
    welcome->set_max_queue(static_cast<uint32_t>(options.max_queue));
    Send(std::move(message));
  }

  GatewayStreams* const owner_;
  grpc::CallbackServerContext* const context_;
  const uint64_t client_;
  const absl::Time started_;
  GatewayMessage received_;
  bool greeted_ = false;
  std::deque<EngineMessage> outgoing_;  // the first is the one in flight
  size_t num_queued_bytes_ = 0;
  bool write_in_flight_ = false;
  bool ended_ = false;
  absl::Time ended_at_;
  grpc::Status final_status_;
};

namespace {

// A call that ends at once.
class Refusal final : public grpc::ServerBidiReactor<GatewayMessage, EngineMessage> {
 public:
  explicit Refusal(const grpc::Status& status) { Finish(status); }
  void OnDone() override { delete this; }
};

}  // namespace

GatewayStreams::GatewayStreams(EngineServiceOptions options)
    : options_(std::move(options)), ticker_([this] { TickLoop(); }) {}

GatewayStreams::~GatewayStreams() {
  Shutdown();
  ticker_.join();
  const absl::MutexLock lock(&mutex_);
  const auto all_done = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return streams_.empty(); };
  mutex_.Await(absl::Condition(&all_done));
}

void GatewayStreams::SetLeader(Leader* leader, absl::string_view model_digest) {
  const absl::MutexLock lock(&mutex_);
  if (shut_down_) return;
  if (leader_ != leader) EndStreams("another leader took over");
  leader_ = leader;
  model_digest_ = std::string(model_digest);
  last_engine_calls_ = leader->num_engine_calls();
  last_engine_call_ = absl::Now();
}

void GatewayStreams::ClearLeader() {
  const absl::MutexLock lock(&mutex_);
  EndStreams("this rank leads no more");
  leader_ = nullptr;
}

void GatewayStreams::SetEpochRunning(bool running) {
  const absl::MutexLock lock(&mutex_);
  epoch_running_ = running;
  last_engine_call_ = absl::Now();
}

void GatewayStreams::Shutdown() {
  const absl::MutexLock lock(&mutex_);
  shut_down_ = true;
  EndStreams("this worker shuts down");
  leader_ = nullptr;
}

void GatewayStreams::EndStreams(absl::string_view why) {
  for (const auto& [client, stream] : streams_) {
    stream->End(grpc::Status(grpc::StatusCode::UNAVAILABLE, std::string(why)));
  }
}

int GatewayStreams::num_streams() const {
  const absl::MutexLock lock(&mutex_);
  return static_cast<int>(streams_.size());
}

void GatewayStreams::OnEvents(uint64_t client, StepEvents events) {
  const absl::MutexLock lock(&mutex_);
  const auto it = streams_.find(client);
  if (it == streams_.end()) return;
  const auto message_like = [&events] {
    EngineMessage message;
    message.mutable_events()->set_epoch(events.epoch());
    message.mutable_events()->set_step(events.step());
    return message;
  };
  EngineMessage message = message_like();
  size_t num_bytes = 0;
  for (TokenEvent& event : *events.mutable_events()) {
    const size_t event_bytes = event.ByteSizeLong();
    if (num_bytes > 0 && num_bytes + event_bytes > kMessageBytes) {
      it->second->Send(std::exchange(message, message_like()));
      num_bytes = 0;
    }
    num_bytes += event_bytes;
    message.mutable_events()->add_events()->Swap(&event);
  }
  it->second->Send(std::move(message));
}

grpc::ServerBidiReactor<GatewayMessage, EngineMessage>* GatewayStreams::Generate(
    grpc::CallbackServerContext* context) {
  if (const grpc::Status status = Authorize(*context); !status.ok()) return new Refusal(status);
  const absl::MutexLock lock(&mutex_);
  if (shut_down_) {
    return new Refusal(grpc::Status(grpc::StatusCode::UNAVAILABLE, "this worker shuts down"));
  }
  if (leader_ == nullptr) {
    return new Refusal(
        grpc::Status(grpc::StatusCode::FAILED_PRECONDITION, "this rank does not lead"));
  }
  if (streams_.size() >= static_cast<size_t>(options_.max_streams)) {
    return new Refusal(grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED,
                                    absl::StrCat("there are ", streams_.size(), " streams")));
  }
  const uint64_t client = next_client_++;
  auto* stream = new Stream(this, context, client);
  streams_.emplace(client, stream);
  stream->Begin();
  return stream;
}

grpc::Status GatewayStreams::Authorize(const grpc::CallbackServerContext& context) const {
  if (options_.deployment.empty()) return grpc::Status::OK;
  const absl::StatusOr<identity::PeerIdentity> peer = identity::PeerOf(*context.auth_context());
  if (!peer.ok()) {
    return grpc::Status(grpc::StatusCode::UNAUTHENTICATED, std::string(peer.status().message()));
  }
  if (peer->role != identity::Role::kGateway || peer->DeploymentName() != options_.deployment) {
    return grpc::Status(grpc::StatusCode::PERMISSION_DENIED,
                        "only gateways of this deployment may come");
  }
  return grpc::Status::OK;
}

bool GatewayStreams::EngineIsAlive(absl::Time now) {
  const uint64_t num_calls = leader_->num_engine_calls();
  if (num_calls != last_engine_calls_) {
    last_engine_calls_ = num_calls;
    last_engine_call_ = now;
  }
  return !epoch_running_ || now - last_engine_call_ <= options_.engine_silence;
}

void GatewayStreams::TickLoop() {
  const absl::MutexLock lock(&mutex_);
  while (!shut_down_ || !streams_.empty()) {
    mutex_.AwaitWithTimeout(absl::Condition(&shut_down_), options_.stats_interval);
    // After the shutdown the wait above ends at once.
    if (shut_down_ && !streams_.empty()) {
      const auto all_done = [this]()
                                ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return streams_.empty(); };
      mutex_.AwaitWithTimeout(absl::Condition(&all_done), options_.stats_interval);
    }
    const absl::Time now = absl::Now();
    for (const auto& [client, stream] : streams_) stream->Tick(now);
    if (leader_ == nullptr || !EngineIsAlive(now)) continue;
    EngineMessage message;
    *message.mutable_stats() = leader_->stats();
    for (const auto& [client, stream] : streams_) {
      if (stream->greeted()) stream->Send(message);
    }
  }
}

}  // namespace moe::engine
