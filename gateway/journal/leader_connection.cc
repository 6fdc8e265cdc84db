// See leader_connection.h.
#include "gateway/journal/leader_connection.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "proto/engine.grpc.pb.h"

namespace moe::gateway {

using engine::v1::EngineMessage;
using engine::v1::GatewayMessage;

LeaderConnection::LeaderConnection(std::string group, LeaderConnectionOptions options,
                                   std::shared_ptr<Journal> journal)
    : group_(std::move(group)), options_(std::move(options)), journal_(std::move(journal)) {
  thread_ = std::thread([this] { Follow(); });
}

LeaderConnection::~LeaderConnection() {
  Retire();
  thread_.join();
}

void LeaderConnection::SetLeader(const std::string& address) {
  absl::MutexLock lock(&mutex_);
  leader_address_ = address;
  if (call_ != nullptr && !address.empty() && call_->address != address) {
    call_->context.TryCancel();
  }
}

void LeaderConnection::Retire() {
  absl::MutexLock lock(&mutex_);
  retired_ = true;
  if (call_ != nullptr) {
    call_->context.TryCancel();
  }
}

bool LeaderConnection::done() const {
  absl::MutexLock lock(&mutex_);
  return done_;
}

void LeaderConnection::CheckSilence() {
  const bool connected = journal_->connected(group_);
  const absl::Time last_heard = journal_->last_heard(group_);
  const absl::Time now = absl::Now();
  absl::MutexLock lock(&mutex_);
  if (call_ == nullptr) {
    return;
  }
  const bool too_late = !connected && now - call_->opened > options_.welcome_deadline;
  const bool silent = connected && now - last_heard > options_.leader_silence;
  if (too_late || silent) {
    call_->context.TryCancel();
  }
}

std::string LeaderConnection::WaitForLeader() {
  absl::MutexLock lock(&mutex_);
  const auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return retired_ || !leader_address_.empty();
  };
  mutex_.Await(absl::Condition(&ready));
  return retired_ ? "" : leader_address_;
}

bool LeaderConnection::SleepUntilOtherLeader(const std::string& tried, absl::Duration duration) {
  absl::MutexLock lock(&mutex_);
  const auto ready = [this, &tried]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return retired_ || (!leader_address_.empty() && leader_address_ != tried);
  };
  mutex_.AwaitWithTimeout(absl::Condition(&ready), duration);
  return !retired_;
}

void LeaderConnection::Follow() {
  absl::Duration backoff = options_.min_backoff;
  std::string address;
  do {
    address = WaitForLeader();
    if (address.empty()) {
      break;
    }
    const bool accepted = RunStream(address);
    backoff = accepted ? options_.min_backoff : std::min(backoff * 2, options_.max_backoff);
  } while (SleepUntilOtherLeader(address, backoff));
  absl::MutexLock lock(&mutex_);
  done_ = true;
}

bool LeaderConnection::RunStream(const std::string& address) {
  const auto call = std::make_shared<Call>();
  call->address = address;
  call->opened = absl::Now();
  {
    absl::MutexLock lock(&mutex_);
    if (retired_) {
      return false;
    }
    call_ = call;
  }
  const auto stub = engine::v1::Engine::NewStub(options_.connect(address));
  const auto stream = stub->Generate(&call->context);
  GatewayMessage greeting;
  greeting.mutable_greeting()->set_gateway_id(options_.gateway_id);
  EngineMessage message;
  const bool accepted = stream->Write(greeting) && stream->Read(&message) &&
                        message.has_welcome() &&
                        journal_->OnWelcome(group_, message.welcome()).ok();
  if (accepted) {
    std::thread writer([this, &stream] {
      std::vector<GatewayMessage> messages;
      while (journal_->TakeOutgoing(group_, absl::InfiniteDuration(), &messages)) {
        for (const GatewayMessage& outgoing : messages) {
          if (!stream->Write(outgoing)) {
            return;  // the reader sees the end too
          }
        }
      }
    });
    while (stream->Read(&message)) {
      journal_->OnMessage(group_, message);
    }
    journal_->OnDisconnect(group_);
    writer.join();
  }
  call->context.TryCancel();
  while (stream->Read(&message)) {
    // What a refused leader still says is not ours. Finish needs the stream read to its end.
  }
  stream->Finish();
  absl::MutexLock lock(&mutex_);
  call_ = nullptr;
  return accepted;
}

}  // namespace moe::gateway
