#include "tests/gateway/testing/fake_engine.h"

#include <chrono>
#include <map>
#include <thread>
#include <utility>

#include "absl/time/clock.h"
#include "tests/gateway/testing/scripted_events.h"
#include "tests/gateway/testing/tiny_model.h"

namespace moe::gateway::testing {

using coordinator::v1::GroupState;
using coordinator::v1::GroupStates;
using engine::v1::EngineMessage;
using engine::v1::GatewayMessage;
using engine::v1::TokenEvent;

namespace {

// Replaces the port of `address` by the one that was taken.
std::unique_ptr<grpc::Server> Serve(std::shared_ptr<grpc::ServerCredentials> credentials,
                                    grpc::Service* service, std::string* address) {
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(
      *address, credentials == nullptr ? grpc::InsecureServerCredentials() : credentials, &port);
  builder.RegisterService(service);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (*address == "127.0.0.1:0") {
    *address = "127.0.0.1:" + std::to_string(port);
  }
  return server;
}

}  // namespace

// What one gateway has submitted. The reading thread adds, the sending thread takes.
struct FakeLeader::Stream {
  struct Sequence {
    std::vector<TokenEvent> events;
    size_t next = 0;
  };
  grpc::ServerContext* context = nullptr;
  grpc::ServerReaderWriter<EngineMessage, GatewayMessage>* stream = nullptr;
  absl::Mutex mutex;
  std::map<uint64_t, Sequence> sequences ABSL_GUARDED_BY(mutex);
  std::vector<EngineMessage> answers ABSL_GUARDED_BY(mutex);
  bool ended ABSL_GUARDED_BY(mutex) = false;
};

FakeLeader::FakeLeader(FakeLeaderOptions options)
    : options_(std::move(options)), address_(options_.address) {
  server_ = Serve(options_.credentials, this, &address_);
}

FakeLeader::~FakeLeader() { Kill(); }

void FakeLeader::Kill() {
  {
    absl::MutexLock lock(&mutex_);
    dead_ = true;
  }
  server_->Shutdown(std::chrono::system_clock::now());
}

std::vector<engine::v1::Submit> FakeLeader::submissions() const {
  absl::MutexLock lock(&mutex_);
  return submissions_;
}

int FakeLeader::num_cancels() const {
  absl::MutexLock lock(&mutex_);
  return num_cancels_;
}

int FakeLeader::num_streams() const {
  absl::MutexLock lock(&mutex_);
  return num_streams_;
}

void FakeLeader::Send(Stream& stream) {
  uint64_t step = 0;
  int num_sent = 0;
  absl::Time next_stats = absl::Now();
  for (;; absl::SleepFor(options_.token_interval)) {
    EngineMessage message;
    std::vector<EngineMessage> answers;
    {
      absl::MutexLock lock(&stream.mutex);
      absl::MutexLock leader_lock(&mutex_);
      if (stream.ended || dead_) {
        return;
      }
      answers.swap(stream.answers);
      message.mutable_events()->set_epoch(options_.epoch);
      message.mutable_events()->set_step(++step);
      for (auto& [request, sequence] : stream.sequences) {
        if (sequence.next < sequence.events.size()) {
          TokenEvent event = sequence.events[sequence.next++];
          event.set_request(request);
          const std::vector<TokenEvent> sent =
              options_.distort ? options_.distort(event) : std::vector<TokenEvent>{event};
          for (const TokenEvent& one : sent) {
            *message.mutable_events()->add_events() = one;
          }
          ++num_sent;
        }
      }
    }
    for (const EngineMessage& answer : answers) {
      stream.stream->Write(answer);
    }
    if (message.events().events_size() > 0) {
      stream.stream->Write(message);
    }
    if (options_.die_after >= 0 && num_sent >= options_.die_after) {
      stream.context->TryCancel();
      absl::MutexLock lock(&mutex_);
      dead_ = true;
      return;
    }
    if (absl::Now() >= next_stats) {
      next_stats = absl::Now() + absl::Milliseconds(500);
      EngineMessage stats;
      stats.mutable_stats()->set_epoch(options_.epoch);
      stats.mutable_stats()->set_num_running(1);
      stream.stream->Write(stats);
    }
  }
}

grpc::Status FakeLeader::Generate(
    grpc::ServerContext* context,
    grpc::ServerReaderWriter<EngineMessage, GatewayMessage>* reader_writer) {
  GatewayMessage message;
  {
    absl::MutexLock lock(&mutex_);
    ++num_streams_;
    if (dead_) {
      return {grpc::StatusCode::UNAVAILABLE, "dead"};
    }
  }
  if (!reader_writer->Read(&message) || !message.has_greeting()) {
    return {grpc::StatusCode::INVALID_ARGUMENT, "no greeting"};
  }
  EngineMessage welcome;
  welcome.mutable_welcome()->set_epoch(options_.epoch);
  welcome.mutable_welcome()->set_numerics_id(options_.numerics_id);
  welcome.mutable_welcome()->set_model_digest(options_.model_digest);
  welcome.mutable_welcome()->set_vocab_size(kTinyVocabSize);
  welcome.mutable_welcome()->set_max_context(512);
  welcome.mutable_welcome()->set_kv_capacity_tokens(4096);
  reader_writer->Write(welcome);

  Stream stream;
  stream.context = context;
  stream.stream = reader_writer;
  std::thread sender([this, &stream] { Send(stream); });
  while (reader_writer->Read(&message)) {
    absl::MutexLock lock(&stream.mutex);
    absl::MutexLock leader_lock(&mutex_);
    if (message.has_cancel()) {
      ++num_cancels_;
      stream.sequences.erase(message.cancel().request());
      continue;
    }
    const engine::v1::Submit& submit = message.submit();
    submissions_.push_back(submit);
    if (num_refused_ < options_.refuse_submissions) {
      ++num_refused_;
      EngineMessage answer;
      answer.mutable_rejected()->set_request(submit.request());
      answer.mutable_rejected()->set_reason(engine::v1::Rejected::QUEUE_FULL);
      stream.answers.push_back(answer);
      continue;
    }
    Stream::Sequence sequence;
    sequence.events = ScriptedEvents(options_.answer,
                                     {submit.prompt_tokens().begin(), submit.prompt_tokens().end()},
                                     submit.sampling());
    sequence.next = static_cast<size_t>(submit.generated_tokens_size());
    stream.sequences[submit.request()] = std::move(sequence);
  }
  {
    absl::MutexLock lock(&stream.mutex);
    stream.ended = true;
  }
  sender.join();
  return grpc::Status::OK;
}

FakeCoordinator::FakeCoordinator(const std::string& address,
                                 std::shared_ptr<grpc::ServerCredentials> credentials)
    : address_(address) {
  server_ = Serve(std::move(credentials), this, &address_);
}

FakeCoordinator::~FakeCoordinator() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  server_->Shutdown(std::chrono::system_clock::now());
}

GroupState ActiveGroup(const std::string& name, const std::string& leader, uint64_t epoch) {
  GroupState state;
  state.set_group(name);
  state.set_phase(GroupState::ACTIVE);
  state.set_epoch(epoch);
  state.set_leader_address(leader);
  state.set_layout("EP2_TP1_PP1_DP1");
  state.set_kv_capacity_tokens(4096);
  state.set_num_layers(2);
  state.set_num_experts(2);
  for (uint32_t slot = 0; slot < 2; ++slot) {
    auto* worker = state.add_workers();
    worker->set_slot(slot);
    worker->set_pid(4000 + slot);
    worker->add_experts(slot);
  }
  for (uint64_t i = 0; i < 4; ++i) {
    state.add_expert_tokens(10 * i);
  }
  return state;
}

void FakeCoordinator::Set(const GroupState& state) {
  absl::MutexLock lock(&mutex_);
  groups_[state.group()] = state;
  ++version_;
}

void FakeCoordinator::SetAll(const std::vector<GroupState>& groups) {
  absl::MutexLock lock(&mutex_);
  groups_.clear();
  for (const GroupState& group : groups) {
    groups_[group.group()] = group;
  }
  ++version_;
}

void FakeCoordinator::Remove(const std::string& name) {
  absl::MutexLock lock(&mutex_);
  groups_.erase(name);
  ++version_;
}

void FakeCoordinator::PointTo(const std::string& leader) {
  absl::MutexLock lock(&mutex_);
  leads_ = false;
  leader_ = leader;
}

void FakeCoordinator::Lead() {
  absl::MutexLock lock(&mutex_);
  leads_ = true;
}

std::string FakeCoordinator::asked_deployment() const {
  absl::MutexLock lock(&mutex_);
  return asked_deployment_;
}

int FakeCoordinator::num_watches() const {
  absl::MutexLock lock(&mutex_);
  return num_watches_;
}

grpc::Status FakeCoordinator::WatchGroups(grpc::ServerContext* context,
                                          const coordinator::v1::WatchGroupsRequest* request,
                                          grpc::ServerWriter<GroupStates>* writer) {
  {
    absl::MutexLock lock(&mutex_);
    asked_deployment_ = request->deployment();
    ++num_watches_;
  }
  uint64_t seen = 0;
  while (!context->IsCancelled()) {
    GroupStates groups;
    bool changed = false;
    {
      absl::MutexLock lock(&mutex_);
      if (!leads_) {
        if (!leader_.empty()) {
          context->AddTrailingMetadata("moe-leader", leader_);
        }
        return {grpc::StatusCode::UNAVAILABLE, "this coordinator does not lead"};
      }
      if (stopping_) {
        break;
      }
      changed = version_ != seen;
      seen = version_;
      for (const auto& [name, group] : groups_) {
        *groups.add_groups() = group;
      }
    }
    if (changed) {
      writer->Write(groups);
    }
    absl::SleepFor(absl::Milliseconds(5));
  }
  return grpc::Status::OK;
}

}  // namespace moe::gateway::testing
