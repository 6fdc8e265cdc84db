// The coordinator as several groups, a changing leader and strangers see it.
#include <grpcpp/grpcpp.h>

#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "controller/coordinator/file_epoch_store.h"
#include "controller/coordinator/server.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/coordinator.grpc.pb.h"
#include "tests/controller/coordinator/server_fixture.h"

namespace moe::coordinator {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;

TEST_F(ServerTest, GroupsOfOneServerDoNotDisturbEachOther) {
  StartServer({});
  FakeRuntime first(address_, "ns/a/0");
  FakeRuntime second(address_, "ns/a/1");
  FakeRuntime stranger(address_, "ns/b/0");
  second.TellLater();
  ASSERT_EQ(Add("ns/a/0", &first, 2, 4), absl::OkStatus());
  ASSERT_EQ(Add("ns/a/1", &second, 3, 3), absl::OkStatus());
  ASSERT_EQ(Add("ns/b/0", &stranger, 1, 1), absl::OkStatus());
  server_->ShowDeployment("ns/a");
  const auto active = [](const v1::GroupState& s) {
    return s.phase() == v1::GroupState::ACTIVE && s.num_running() == 7 && s.num_waiting() == 2;
  };
  for (const char* group : {"ns/a/0", "ns/a/1", "ns/b/0"}) {
    ASSERT_TRUE(WaitState(active, group)) << group;
  }
  const auto stub = Stub();
  grpc::ClientContext context;
  v1::WatchGroupsRequest request;
  request.set_deployment("ns/a");
  const auto reader = stub->WatchGroups(&context, request);
  v1::GroupStates states;
  ASSERT_TRUE(reader->Read(&states));
  ASSERT_EQ(states.groups_size(), 2);
  EXPECT_EQ(states.groups(0).group(), "ns/a/0");
  EXPECT_EQ(states.groups(0).workers_size(), 2);
  EXPECT_EQ(states.groups(1).group(), "ns/a/1");
  EXPECT_EQ(states.groups(1).workers_size(), 3);

  // A death in one group.
  const uint64_t epoch = server_->State("ns/a/0")->epoch();
  const uint64_t other_epoch = server_->State("ns/a/1")->epoch();
  first.KillSlot(1);
  while (reader->Read(&states) && states.groups(0).epoch() <= epoch) {
  }
  EXPECT_GT(states.groups(0).epoch(), epoch);
  EXPECT_EQ(states.groups(1).epoch(), other_epoch);

  // One drains and goes.
  server_->SetDraining("ns/a/1");
  while (reader->Read(&states) && !states.groups(1).draining()) {
  }
  EXPECT_TRUE(states.groups(1).draining());
  EXPECT_FALSE(states.groups(0).draining());
  server_->StopGroup("ns/a/1", absl::ZeroDuration());
  server_->RemoveGroup("ns/a/1");
  while (reader->Read(&states) && states.groups_size() > 1) {
  }
  ASSERT_EQ(states.groups_size(), 1);
  EXPECT_EQ(states.groups(0).group(), "ns/a/0");
  EXPECT_EQ(states.groups(0).phase(), v1::GroupState::ACTIVE);
  EXPECT_EQ(server_->State("ns/a/1"), nullptr);

  // The watchers of a deployment that is not led any more end.
  server_->HideDeployment("ns/a");
  while (reader->Read(&states)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  server_.reset();
}

TEST_F(ServerTest, AWatcherWaitsUntilAllGroupsOfItsDeploymentAreKnown) {
  StartServer({});
  FakeRuntime first(address_, "ns/a/0");
  FakeRuntime second(address_, "ns/a/1");
  ASSERT_EQ(Add("ns/a/0", &first, 1, 1), absl::OkStatus());
  const auto stub = Stub();
  grpc::ClientContext context;
  v1::WatchGroupsRequest request;
  request.set_deployment("ns/a");
  const auto reader = stub->WatchGroups(&context, request);
  ASSERT_TRUE(
      WaitState([](const auto& s) { return s.phase() == v1::GroupState::ACTIVE; }, "ns/a/0"));
  ASSERT_EQ(Add("ns/a/1", &second, 1, 1), absl::OkStatus());
  server_->ShowDeployment("ns/a");
  v1::GroupStates states;
  ASSERT_TRUE(reader->Read(&states));
  EXPECT_EQ(states.groups_size(), 2);
  context.TryCancel();
  server_.reset();
}

// What a session ends with when it begins with this Hello.
grpc::Status EndOf(v1::Coordinator::Stub* stub, const v1::WorkerMessage& first) {
  grpc::ClientContext context;
  const auto stream = stub->Session(&context);
  stream->Write(first);
  v1::ControllerMessage answer;
  while (stream->Read(&answer)) {
  }
  return stream->Finish();
}

TEST_F(ServerTest, AWorkerWhoseGroupOrPodIsNotKnownYetIsToldToTryAgain) {
  StartServer({});
  v1::WorkerMessage message;
  message.mutable_hello()->set_worker_id("pod-1");
  message.mutable_hello()->set_numerics_id("cpu-1");
  message.mutable_hello()->set_group("ns/a/0");
  const auto stub = Stub();
  const grpc::Status unknown_group = EndOf(stub.get(), message);
  EXPECT_EQ(unknown_group.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(unknown_group.error_message(), HasSubstr("ns/a/0"));

  FakeRuntime runtime(address_, "ns/a/0");
  GroupOptions options;
  options.retry_unknown_workers = true;
  ASSERT_EQ(Add("ns/a/0", &runtime, 1, 1, options), absl::OkStatus());
  const grpc::Status unknown_pod = EndOf(stub.get(), message);
  EXPECT_EQ(unknown_pod.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(unknown_pod.error_message(), HasSubstr("it has no rank yet"));
  EXPECT_TRUE(
      WaitState([](const auto& s) { return s.phase() == v1::GroupState::ACTIVE; }, "ns/a/0"));
  server_.reset();
}

TEST_F(ServerTest, AWorkerWhoseDeploymentIsGoneIsDismissed) {
  StartServer({});
  FakeRuntime runtime(address_, "ns/a/0");
  ASSERT_EQ(Add("ns/a/0", &runtime, 1, 1), absl::OkStatus());
  const auto stub = Stub();
  const struct {
    const char* sentence;
    std::string group;
    std::string worker;
    std::set<std::string> dismissed;  // of deployment ns/a
    bool leads = true;
    std::string answer;
  } kCases[] = {
      {"one whose group nobody leads", "ns/a/1", "pod-1", {"pod-1"}, true, "dismissed"},
      {"one whose group's name is another deployment's by now",
       "ns/a/0",
       "pod-1",
       {"pod-1"},
       true,
       "dismissed"},
      {"one that is not among them tries again", "ns/a/1", "pod-2", {"pod-1"}, true, "unavailable"},
      {"one of another deployment tries again", "ns/b/0", "pod-1", {"pod-1"}, true, "unavailable"},
      {"one that was forgotten tries again", "ns/a/1", "pod-1", {}, true, "unavailable"},
      {"who does not lead dismisses nobody", "ns/a/1", "pod-1", {"pod-1"}, false, "unavailable"},
  };
  for (const auto& c : kCases) {
    SCOPED_TRACE(c.sentence);
    server_->SetDismissed("ns/a", c.dismissed);
    if (!c.leads) server_->SetLeading(false, "");
    v1::WorkerMessage message;
    message.mutable_hello()->set_worker_id(c.worker);
    message.mutable_hello()->set_numerics_id("cpu-1");
    message.mutable_hello()->set_group(c.group);
    grpc::ClientContext context;
    const auto stream = stub->Session(&context);
    stream->Write(message);
    v1::ControllerMessage answer;
    std::string said;
    while (stream->Read(&answer)) {
      if (answer.has_dismiss()) said = "dismissed";
    }
    const grpc::Status end = stream->Finish();
    if (end.error_code() == grpc::StatusCode::UNAVAILABLE) said = "unavailable";
    EXPECT_EQ(said, c.answer) << end.error_message();
  }
  // Leading again it knows only what it is told anew.
  server_->SetLeading(true, "");
  v1::WorkerMessage message;
  message.mutable_hello()->set_worker_id("pod-1");
  message.mutable_hello()->set_group("ns/a/1");
  EXPECT_EQ(EndOf(stub.get(), message).error_code(), grpc::StatusCode::UNAVAILABLE);
  server_.reset();
}

TEST_F(ServerTest, AWorkerFollowsTheCoordinatorThatLeads) {
  // The Service's address answers for one that does not lead.
  ServerOptions follower_options;
  follower_options.listen_address = "127.0.0.1:0";
  follower_options.leading = false;
  auto follower = CoordinatorServer::Start(std::move(follower_options));
  ASSERT_TRUE(follower.ok()) << follower.status();
  address_ = "127.0.0.1:0";
  StartServer({});
  (*follower)->SetLeading(false, server_->address());

  FakeRuntime runtime((*follower)->address(), "ns/a/0");
  EXPECT_EQ((*follower)
                ->AddGroup("ns/a/0", {}, *FileEpochStore::Open(folder_ + "/f"), &runtime, nullptr)
                .code(),
            absl::StatusCode::kFailedPrecondition);
  ASSERT_EQ(Add("ns/a/0", &runtime, 2, 2), absl::OkStatus());
  ASSERT_TRUE(
      WaitState([](const auto& s) { return s.phase() == v1::GroupState::ACTIVE; }, "ns/a/0"));

  // It hands over; the workers find the new one with the epoch that they run.
  const v1::GroupState before = *server_->State("ns/a/0");
  (*follower)->SetLeading(true, "");
  server_->SetLeading(false, (*follower)->address());
  EXPECT_EQ(server_->State("ns/a/0"), nullptr);
  GroupOptions options;
  options.placement = *PlaceInBlocks(2, 2);
  options.num_layers = 1;
  {
    absl::MutexLock lock(&mu_);
    states_.clear();
  }
  auto store = FileEpochStore::Open(folder_ + "/termns.a.0");
  ASSERT_TRUE(store.ok()) << store.status();
  ASSERT_EQ((*follower)->AddGroup("ns/a/0", options, *std::move(store), &runtime,
                                  [this](const v1::GroupState& state) {
                                    absl::MutexLock lock(&mu_);
                                    states_[state.group()] = state;
                                  }),
            absl::OkStatus());
  ASSERT_TRUE(
      WaitState([](const auto& s) { return s.phase() == v1::GroupState::ACTIVE; }, "ns/a/0"));
  EXPECT_EQ((*follower)->State("ns/a/0")->epoch(), before.epoch());
  EXPECT_EQ((*follower)->State("ns/a/0")->term(), before.term() + 1);
  EXPECT_EQ(runtime.num_started(), 2);
  EXPECT_THAT(runtime.RunningEpochs(), Each(before.epoch()));
  follower->reset();
}

// Fault 51.
TEST_F(ServerTest, AFloodOfSessionsIsBoundedAndServedWorkersGoOn) {
  ServerOptions options;
  options.max_greeting_sessions = 8;
  options.max_watchers = 4;
  options.hello_deadline = absl::Seconds(1);
  StartServer(std::move(options));
  ASSERT_EQ(Add("", runtime_.get(), 2, 2), absl::OkStatus());
  server_->ShowDeployment("");
  ASSERT_TRUE(WaitActive());
  const uint64_t epoch = server_->State("")->epoch();

  const auto stub = Stub();
  struct Call {
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientReaderWriter<v1::WorkerMessage, v1::ControllerMessage>> stream;
  };
  std::vector<std::unique_ptr<Call>> calls;
  for (int i = 0; i < 40; ++i) {
    calls.push_back(std::make_unique<Call>());
    calls.back()->stream = stub->Session(&calls.back()->context);
  }
  int num_refused = 0;
  int num_ended_for_silence = 0;
  for (const auto& call : calls) {
    v1::ControllerMessage answer;
    EXPECT_FALSE(call->stream->Read(&answer));
    const grpc::StatusCode code = call->stream->Finish().error_code();
    num_refused += code == grpc::StatusCode::RESOURCE_EXHAUSTED;
    num_ended_for_silence += code == grpc::StatusCode::DEADLINE_EXCEEDED;
  }
  EXPECT_EQ(num_refused + num_ended_for_silence, 40);
  EXPECT_GE(num_ended_for_silence, 8);
  EXPECT_GE(num_refused, 1);

  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GroupStates>>> readers;
  int num_watching = 0;
  for (int i = 0; i < 10; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    readers.push_back(stub->WatchGroups(contexts.back().get(), v1::WatchGroupsRequest()));
    v1::GroupStates states;
    if (readers.back()->Read(&states)) {
      ++num_watching;
    } else {
      EXPECT_EQ(readers.back()->Finish().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
    }
  }
  EXPECT_EQ(num_watching, 4);
  for (const auto& context : contexts) context->TryCancel();

  // A message that is too large ends its own session.
  v1::WorkerMessage large;
  large.mutable_hello()->set_host(std::string(2 << 20, 'x'));
  EXPECT_EQ(EndOf(stub.get(), large).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);

  EXPECT_EQ(server_->State("")->epoch(), epoch);
  EXPECT_THAT(runtime_->RunningEpochs(), Each(epoch));
}

// Fault 50.
TEST_F(ServerTest, ASecondProcessForARankIsRefusedAndAnOldEpochIsAborted) {
  Start(2, 2);
  ASSERT_TRUE(WaitActive());
  const v1::GroupState state = *server_->State("");
  const auto stub = Stub();
  v1::WorkerMessage message;
  v1::Hello* hello = message.mutable_hello();
  hello->set_worker_id(state.workers(1).worker_id());
  hello->set_nonce(12345);
  hello->set_numerics_id("cpu-1");
  hello->set_slot_hint(1);
  hello->set_epoch(state.epoch());
  grpc::ClientContext context;
  const auto twin = stub->Session(&context);
  twin->Write(message);
  v1::ControllerMessage answer;
  ASSERT_TRUE(twin->Read(&answer));
  EXPECT_THAT(answer.dismiss().reason(), HasSubstr("another process with this worker id"));
  EXPECT_FALSE(twin->Read(&answer));
  EXPECT_EQ(server_->State("")->epoch(), state.epoch());
  EXPECT_THAT(runtime_->RunningEpochs(), Each(state.epoch()));
}

}  // namespace
}  // namespace moe::coordinator
