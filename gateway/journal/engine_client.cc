// See engine_client.h.
#include "gateway/journal/engine_client.h"

#include <algorithm>
#include <utility>

#include "proto/coordinator.grpc.pb.h"
#include "proto/engine.grpc.pb.h"

namespace moe::gateway {
namespace {

using coordinator::v1::GroupState;
using engine::v1::EngineMessage;
using engine::v1::GatewayMessage;

// A step's events may carry the log-probabilities of a long prompt.
constexpr int kMaxMessageBytes = 64 << 20;

std::shared_ptr<grpc::Channel> Connect(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // Each connection starts afresh: the backoff is ours.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

}  // namespace

EngineClient::EngineClient(EngineClientOptions options)
    : options_(std::move(options)), journal_(std::make_shared<Journal>(options_.journal)) {
  threads_.emplace_back([this] { WatchGroup(); });
  threads_.emplace_back([this] { FollowLeader(); });
  threads_.emplace_back([this] { Supervise(); });
}

EngineClient::~EngineClient() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    for (const auto& call : {watch_call_, leader_call_}) {
      if (call != nullptr) {
        call->context.TryCancel();
      }
    }
  }
  journal_->Stop();
  for (std::thread& thread : threads_) {
    thread.join();
  }
}

absl::StatusOr<std::unique_ptr<Generation>> EngineClient::Start(GenerationRequest request) {
  return journal_->Start(std::move(request));
}

EngineView EngineClient::view() const { return journal_->view(); }

bool EngineClient::Sleep(absl::Duration duration) {
  absl::MutexLock lock(&mutex_);
  mutex_.AwaitWithTimeout(absl::Condition(&stopping_), duration);
  return !stopping_;
}

void EngineClient::WatchGroup() {
  absl::Duration backoff = options_.min_backoff;
  do {
    const auto call = std::make_shared<Call>();
    {
      absl::MutexLock lock(&mutex_);
      if (stopping_) {
        return;
      }
      watch_call_ = call;
      last_watch_ = absl::Now();
    }
    const auto stub = coordinator::v1::Coordinator::NewStub(Connect(options_.coordinator));
    const auto reader = stub->WatchGroup(&call->context, coordinator::v1::WatchGroupRequest());
    GroupState group;
    while (reader->Read(&group)) {
      backoff = options_.min_backoff;
      OnGroup(group);
    }
    // The last known state stays: losing only the coordinator disturbs nothing.
    reader->Finish();
    {
      absl::MutexLock lock(&mutex_);
      watch_call_ = nullptr;
    }
    backoff = std::min(backoff * 2, options_.max_backoff);
  } while (Sleep(backoff));
}

void EngineClient::OnGroup(const GroupState& group) {
  journal_->OnGroup(group);
  absl::MutexLock lock(&mutex_);
  last_watch_ = absl::Now();
  leader_address_ = group.leader_address();
  // While a group recovers there is no address; the present leader may well go on.
  if (leader_call_ != nullptr && !leader_address_.empty() &&
      leader_call_->address != leader_address_) {
    leader_call_->context.TryCancel();
  }
}

std::string EngineClient::WaitForLeader() {
  absl::MutexLock lock(&mutex_);
  const auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stopping_ || !leader_address_.empty();
  };
  mutex_.Await(absl::Condition(&ready));
  return stopping_ ? "" : leader_address_;
}

bool EngineClient::SleepUntilOtherLeader(const std::string& tried, absl::Duration duration) {
  absl::MutexLock lock(&mutex_);
  const auto ready = [this, &tried]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stopping_ || (!leader_address_.empty() && leader_address_ != tried);
  };
  mutex_.AwaitWithTimeout(absl::Condition(&ready), duration);
  return !stopping_;
}

void EngineClient::FollowLeader() {
  absl::Duration backoff = options_.min_backoff;
  std::string address;
  do {
    address = WaitForLeader();
    if (address.empty()) {
      return;
    }
    const bool accepted = RunConnection(address);
    backoff = accepted ? options_.min_backoff : std::min(backoff * 2, options_.max_backoff);
  } while (SleepUntilOtherLeader(address, backoff));
}

bool EngineClient::RunConnection(const std::string& address) {
  const auto call = std::make_shared<Call>();
  call->address = address;
  call->opened = absl::Now();
  {
    absl::MutexLock lock(&mutex_);
    if (stopping_) {
      return false;
    }
    leader_call_ = call;
  }
  const auto stub = engine::v1::Engine::NewStub(Connect(address));
  const auto stream = stub->Generate(&call->context);
  GatewayMessage greeting;
  greeting.mutable_greeting()->set_gateway_id(options_.gateway_id);
  EngineMessage message;
  const bool accepted = stream->Write(greeting) && stream->Read(&message) &&
                        message.has_welcome() && journal_->OnWelcome(message.welcome()).ok();
  if (accepted) {
    std::thread writer([this, &stream] {
      for (;;) {
        const std::vector<GatewayMessage> messages = journal_->TakeOutgoing();
        if (messages.empty()) {
          return;
        }
        for (const GatewayMessage& outgoing : messages) {
          if (!stream->Write(outgoing)) {
            return;  // the reader sees the end too
          }
        }
      }
    });
    while (stream->Read(&message)) {
      journal_->OnMessage(message);
    }
    journal_->OnDisconnect();
    writer.join();
  }
  call->context.TryCancel();
  while (stream->Read(&message)) {
    // What a refused leader still says is not ours. Finish needs the stream read to its end.
  }
  stream->Finish();
  absl::MutexLock lock(&mutex_);
  leader_call_ = nullptr;
  return accepted;
}

void EngineClient::Supervise() {
  while (Sleep(absl::Milliseconds(100))) {
    journal_->Tick();
    const bool connected = journal_->connected();
    const absl::Time now = absl::Now();
    absl::MutexLock lock(&mutex_);
    if (leader_call_ != nullptr) {
      const bool too_late = !connected && now - leader_call_->opened > options_.welcome_deadline;
      const bool silent = connected && now - journal_->last_heard() > options_.leader_silence;
      if (too_late || silent) {
        leader_call_->context.TryCancel();
      }
    }
    // Without a leader, a coordinator that says nothing is asked again: its connection may be dead.
    if (!connected && watch_call_ != nullptr && now - last_watch_ > absl::Seconds(10)) {
      watch_call_->context.TryCancel();
    }
  }
}

}  // namespace moe::gateway
