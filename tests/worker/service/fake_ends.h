// Both ends of the Engine service: a gateway that reads by hand, and an engine thread without a
// model.
#ifndef MOE_TESTS_WORKER_SERVICE_FAKE_ENDS_H_
#define MOE_TESTS_WORKER_SERVICE_FAKE_ENDS_H_

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <map>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "proto/engine.grpc.pb.h"
#include "tests/worker/engine/fake_owners.h"
#include "worker/engine/leader.h"

namespace moe::engine {

inline constexpr int kVocab = 1000;

// The engine thread of a rank 0, with owners that have no model. It takes as many steps as it is
// allowed.
class FakeEngine {
 public:
  FakeEngine(Leader* leader, const SchedulerLimits& limits)
      : leader_(leader), owners_(limits, kVocab), thread_([this] { Loop(); }) {}
  ~FakeEngine() {
    {
      const absl::MutexLock lock(&mutex_);
      stop_ = true;
    }
    leader_->Wake();
    thread_.join();
  }

  void Allow(int num_steps) {
    const absl::MutexLock lock(&mutex_);
    num_allowed_ += num_steps;
  }
  // Ends the epoch between two steps and goes on in the next.
  void ChangeEpoch(uint64_t epoch) {
    const absl::MutexLock lock(&mutex_);
    new_epoch_ = epoch;
  }

 private:
  void Loop() {
    uint64_t num_steps = 0;
    while (true) {
      leader_->WaitForWork(absl::Milliseconds(5));
      uint64_t new_epoch = 0;
      {
        const absl::MutexLock lock(&mutex_);
        if (stop_) return;
        new_epoch = std::exchange(new_epoch_, 0);
      }
      if (new_epoch > 0) leader_->OnEpochChanged(new_epoch, {0});
      const auto plan = leader_->NextPlan(absl::Now());
      if (!plan.has_value()) continue;
      {
        // A plan that is not allowed yet waits as a long step would.
        const absl::MutexLock lock(&mutex_);
        const auto may_step = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
          return stop_ || new_epoch_ > 0 || num_allowed_ > num_steps;
        };
        mutex_.Await(absl::Condition(&may_step));
        if (stop_) return;
        if (new_epoch_ > 0) continue;
      }
      ++num_steps;
      const auto results = owners_.Run(*plan);
      ASSERT_TRUE(results.ok()) << results.status();
      const absl::Status status = leader_->Commit(*plan, *results, absl::Now());
      ASSERT_TRUE(status.ok()) << status;
    }
  }

  Leader* const leader_;
  FakeOwners owners_;
  absl::Mutex mutex_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t num_allowed_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t new_epoch_ ABSL_GUARDED_BY(mutex_) = 0;
  std::thread thread_;
};

inline std::vector<int32_t> Prompt(int num_tokens, int first = 1) {
  std::vector<int32_t> prompt;
  for (int i = 0; i < num_tokens; ++i) prompt.push_back((first + i) % kVocab);
  return prompt;
}

inline v1::GatewayMessage Request(uint64_t request, const std::vector<int32_t>& prompt,
                                  uint32_t max_tokens, const std::vector<int32_t>& generated = {}) {
  v1::GatewayMessage message;
  v1::Submit* submit = message.mutable_submit();
  submit->set_request(request);
  submit->mutable_prompt_tokens()->Assign(prompt.begin(), prompt.end());
  submit->mutable_generated_tokens()->Assign(generated.begin(), generated.end());
  v1::SamplingParams* sampling = submit->mutable_sampling();
  sampling->set_top_p(1);
  sampling->set_repetition_penalty(1);
  sampling->set_max_tokens(max_tokens);
  sampling->set_num_logprobs(-1);
  sampling->set_num_prompt_logprobs(-1);
  return message;
}

// A gateway's end of a stream.
class Gateway {
 public:
  explicit Gateway(const std::shared_ptr<grpc::Channel>& channel)
      : stub_(v1::Engine::NewStub(channel)), stream_(stub_->Generate(&context_)) {}
  ~Gateway() {
    if (stream_ == nullptr) return;
    context_.TryCancel();
    (void)End();
  }

  bool Write(const v1::GatewayMessage& message) { return stream_->Write(message); }
  void Greet() {
    v1::GatewayMessage message;
    message.mutable_greeting()->set_gateway_id("gateway");
    Write(message);
    v1::EngineMessage welcome;
    ASSERT_TRUE(stream_->Read(&welcome));
    ASSERT_TRUE(welcome.has_welcome());
    welcome_ = welcome.welcome();
  }
  void Cancel(uint64_t request) {
    v1::GatewayMessage message;
    message.mutable_cancel()->set_request(request);
    Write(message);
  }
  // The next message that is not stats; nothing set when the stream is over.
  v1::EngineMessage Read() {
    v1::EngineMessage message;
    while (stream_->Read(&message)) {
      if (!message.has_stats()) return message;
    }
    return v1::EngineMessage();
  }
  bool ReadAny(v1::EngineMessage* message) { return stream_->Read(message); }
  // All tokens until each of `num_requests` has ended, by request.
  std::map<uint64_t, std::vector<int32_t>> ReadToEnd(int num_requests) {
    std::map<uint64_t, std::vector<int32_t>> tokens;
    while (num_requests > 0) {
      const v1::EngineMessage message = Read();
      if (!message.has_events()) {
        ADD_FAILURE() << "the stream ended, or: " << message.ShortDebugString();
        break;
      }
      for (const v1::TokenEvent& event : message.events().events()) {
        tokens[event.request()].push_back(event.token());
        if (event.finish() != v1::TokenEvent::NONE) --num_requests;
      }
    }
    return tokens;
  }
  // Reads what is left and returns the status.
  grpc::Status End() {
    v1::EngineMessage message;
    while (stream_->Read(&message)) {
    }
    const grpc::Status status = stream_->Finish();
    stream_ = nullptr;
    return status;
  }
  grpc::Status Close() {
    stream_->WritesDone();
    return End();
  }
  void TryCancel() { context_.TryCancel(); }
  const v1::Welcome& welcome() const { return welcome_; }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<v1::Engine::Stub> stub_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::GatewayMessage, v1::EngineMessage>> stream_;
  v1::Welcome welcome_;
};

}  // namespace moe::engine

#endif  // MOE_TESTS_WORKER_SERVICE_FAKE_ENDS_H_
