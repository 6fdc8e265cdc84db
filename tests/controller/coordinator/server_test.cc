// The coordinator and the workers' memberships together: one group of local processes.
#include "controller/coordinator/server.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "controller/coordinator/file_epoch_store.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/coordinator.grpc.pb.h"
#include "tests/controller/coordinator/server_fixture.h"

namespace moe::coordinator {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;

TEST_F(ServerTest, SixtyFourWorkersBecomeActiveAndSurviveDeaths) {
  Start(64, 64);
  ASSERT_TRUE(WaitActive());
  uint64_t epoch = server_->State("")->epoch();
  EXPECT_EQ(server_->State("")->leader_address(), "unix:engine-0");
  // Each first process has counted before any of them is killed.
  ASSERT_TRUE(WaitState([](const v1::GroupState& s) {
    return std::count(s.expert_tokens().begin(), s.expert_tokens().end(), 10U) == 64;
  }));
  for (const std::vector<int>& victims : {std::vector<int>{5}, {0}, {1, 2, 3, 40, 63}, {0, 63}}) {
    const int started = runtime_->num_started();
    for (int slot : victims) runtime_->KillSlot(slot);
    ASSERT_TRUE(WaitState([&](const v1::GroupState& s) { return s.epoch() != epoch; }));
    ASSERT_TRUE(WaitActive(epoch));
    EXPECT_EQ(runtime_->num_started(), started + static_cast<int>(victims.size()));
    EXPECT_GT(server_->State("")->epoch(), epoch);
    epoch = server_->State("")->epoch();
  }
  const v1::GroupState state = *server_->State("");
  EXPECT_EQ(state.workers(0).num_failures(), 2u);
  EXPECT_EQ(state.workers(7).num_failures(), 0u);
  EXPECT_EQ(state.load_bytes_done(), 6400u);
  // What the first process counted is in the total beside what its followers count.
  EXPECT_TRUE(WaitState([](const v1::GroupState& s) {
    return s.expert_tokens(7) == 10 && s.expert_tokens(0) >= 20;
  }));
}

TEST_F(ServerTest, AWatcherSeesTheStateAtOnceAndEachChange) {
  Start(2, 4);
  ASSERT_TRUE(WaitActive());
  const auto stub = Stub();
  grpc::ClientContext context;
  const auto reader = stub->WatchGroups(&context, v1::WatchGroupsRequest());
  v1::GroupStates states;
  ASSERT_TRUE(reader->Read(&states));
  ASSERT_EQ(states.groups_size(), 1);
  v1::GroupState state = states.groups(0);
  EXPECT_EQ(state.phase(), v1::GroupState::ACTIVE);
  const uint64_t epoch = state.epoch();
  runtime_->KillSlot(1);
  bool recovering = false;
  while (reader->Read(&states) && states.groups(0).epoch() <= epoch) {
    state = states.groups(0);
    if (state.phase() == v1::GroupState::RECOVERING) {
      recovering = true;
      EXPECT_EQ(state.leader_address(), "");
    }
  }
  state = states.groups(0);
  EXPECT_TRUE(recovering);
  EXPECT_GT(state.epoch(), epoch);
  EXPECT_EQ(state.leader_address(), "unix:engine-0");
  // It also ends with the server.
  std::thread shutdown([this] {
    server_->StopGroup("", absl::ZeroDuration());
    server_->Shutdown();
  });
  v1::GroupStates last;
  while (reader->Read(&states)) last = states;
  EXPECT_EQ(last.groups(0).phase(), v1::GroupState::STOPPING);
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  shutdown.join();
}

TEST_F(ServerTest, AWorkerThatCannotLoadEndsTheGroupWithItsWords) {
  runtime_->SetBehaviour(3, {.unable = "model.safetensors: tensor x is missing"});
  Start(4, 4);
  ASSERT_TRUE(
      WaitState([](const v1::GroupState& s) { return s.phase() == v1::GroupState::FAILED; }));
  EXPECT_EQ(server_->State("")->reason(), "worker 3: model.safetensors: tensor x is missing");
  server_->StopGroup("", absl::ZeroDuration());
  server_->Shutdown();
  EXPECT_EQ(server_->State("")->phase(), v1::GroupState::FAILED);
}

TEST_F(ServerTest, AMixedGroupIsRefusedAndSaysSo) {
  runtime_->SetBehaviour(1, {.numerics_id = "cpu-2"});
  GroupOptions group;
  group.max_slot_failures = 2;
  Start(3, 3, group);
  ASSERT_TRUE(
      WaitState([](const v1::GroupState& s) { return s.phase() == v1::GroupState::FAILED; }));
  EXPECT_THAT(server_->State("")->reason(), AllOf(HasSubstr("numerics id"), HasSubstr("cpu-1"),
                                                  HasSubstr("cpu-2"), HasSubstr("its last words")));
}

TEST_F(ServerTest, AReportedFailureLeadsToANewEpochWithTheSameProcesses) {
  Start(8, 8);
  ASSERT_TRUE(WaitActive());
  const uint64_t epoch = server_->State("")->epoch();
  runtime_->worker(2)->membership()->SendEpochFailed(epoch, "no rows", 5);
  ASSERT_TRUE(WaitActive(epoch));
  EXPECT_EQ(runtime_->num_started(), 8);
}

TEST_F(ServerTest, AWorkerThatCannotJoinEndsInAReason) {
  runtime_->SetBehaviour(1, {.joins = false});
  GroupOptions group;
  group.stage_deadline = absl::Milliseconds(100);
  group.max_failed_epochs = 1;
  Start(3, 3, group);
  ASSERT_TRUE(
      WaitState([](const v1::GroupState& s) { return s.phase() == v1::GroupState::FAILED; }));
  EXPECT_THAT(server_->State("")->reason(), HasSubstr("no Joined within 100ms from worker 1"));
}

TEST_F(ServerTest, StrangersAreDismissedAndDisturbNobody) {
  Start(2, 2);
  ASSERT_TRUE(WaitActive());
  const uint64_t epoch = server_->State("")->epoch();
  const auto stub = Stub();

  // A Hello of an unknown worker.
  grpc::ClientContext first_context;
  auto first = stub->Session(&first_context);
  v1::WorkerMessage message;
  message.mutable_hello()->set_worker_id("stranger");
  message.mutable_hello()->set_numerics_id("cpu-1");
  ASSERT_TRUE(first->Write(message));
  v1::ControllerMessage answer;
  ASSERT_TRUE(first->Read(&answer));
  EXPECT_THAT(answer.dismiss().reason(), HasSubstr("no process with this worker id"));
  EXPECT_FALSE(first->Read(&answer));
  EXPECT_TRUE(first->Finish().ok());

  // A session that never says Hello, but much else.
  grpc::ClientContext second_context;
  auto second = stub->Session(&second_context);
  for (int i = 0; i < 1000; ++i) {
    v1::WorkerMessage noise;
    noise.mutable_epoch_failed()->set_epoch(epoch);
    noise.mutable_epoch_failed()->set_suspect_slot(i);
    if (!second->Write(noise)) break;
  }
  second->WritesDone();
  EXPECT_FALSE(second->Read(&answer));
  EXPECT_EQ(second->Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);

  // One that breaks off in the middle.
  {
    grpc::ClientContext third_context;
    auto third = stub->Session(&third_context);
    third->Write(message);
    third_context.TryCancel();
    third->Finish();
  }
  EXPECT_EQ(server_->State("")->epoch(), epoch);
  EXPECT_THAT(runtime_->RunningEpochs(), Each(epoch));
}

TEST_F(ServerTest, TheNextControllerOverTheSameFileUsesAHigherTermAndEpoch) {
  Start(2, 2);
  ASSERT_TRUE(WaitActive());
  const v1::GroupState before = *server_->State("");
  server_.reset();
  runtime_ = std::make_unique<FakeRuntime>(address_);
  {
    absl::MutexLock lock(&mu_);
    states_.clear();
  }
  Start(2, 2);
  ASSERT_TRUE(WaitActive());
  EXPECT_EQ(server_->State("")->term(), before.term() + 1);
  EXPECT_GT(server_->State("")->epoch(), before.epoch());
}

// Fault 52: what is led stays as it is.
TEST_F(ServerTest, AGroupWhoseExpertsDoNotAddUpIsRefused) {
  Start(2, 4);
  ASSERT_TRUE(WaitActive());
  const uint64_t epoch = server_->State("")->epoch();
  struct Case {
    const char* what;
    std::function<void(GroupOptions*)> change;
    absl::StatusCode code;
    const char* says;
  };
  const std::vector<Case> cases = {
      {"an expert is missing", [](GroupOptions* o) { o->placement.slots_of_expert[1].clear(); },
       absl::StatusCode::kInvalidArgument, "expert 1 has no slot"},
      {"an expert is doubled in a slot",
       [](GroupOptions* o) { o->placement.slots_of_expert[1] = {0, 0}; },
       absl::StatusCode::kInvalidArgument, "expert 1"},
      {"a slot that is none", [](GroupOptions* o) { o->placement.slots_of_expert[1] = {2}; },
       absl::StatusCode::kInvalidArgument, "expert 1"},
      {"more attention ranks than workers", [](GroupOptions* o) { o->num_attention_ranks = 3; },
       absl::StatusCode::kInvalidArgument, "attention ranks"}};
  FakeRuntime other(address_, "other");
  for (const Case& c : cases) {
    GroupOptions options;
    options.placement = *PlaceInBlocks(4, 2);
    options.num_layers = 1;
    c.change(&options);
    auto store = FileEpochStore::Open(folder_ + "/other");
    ASSERT_TRUE(store.ok());
    const absl::Status status =
        server_->AddGroup("other", std::move(options), *std::move(store), &other, nullptr);
    EXPECT_EQ(status.code(), c.code) << c.what;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.says)) << c.what;
    EXPECT_EQ(server_->State("other"), nullptr);
  }
  EXPECT_EQ(other.num_started(), 0);
  // Nor does a second assignment replace the first one.
  auto store = FileEpochStore::Open(folder_ + "/other");
  ASSERT_TRUE(store.ok());
  GroupOptions again;
  again.placement = *PlaceInBlocks(4, 4);
  again.num_layers = 1;
  EXPECT_EQ(server_->AddGroup("", again, *std::move(store), &other, nullptr).code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(server_->State("")->epoch(), epoch);
  EXPECT_THAT(runtime_->RunningEpochs(), Each(epoch));
}

TEST_F(ServerTest, AnAddressThatCannotBeBoundIsAnError) {
  ServerOptions options;
  options.listen_address = "unix:" + folder_ + "/none/c.sock";
  EXPECT_EQ(CoordinatorServer::Start(std::move(options)).status().code(),
            absl::StatusCode::kUnavailable);
}

TEST_F(ServerTest, APortIsDrawnAndTold) {
  address_ = "127.0.0.1:0";
  Start(1, 1);
  EXPECT_THAT(server_->address(), ::testing::MatchesRegex("127\\.0\\.0\\.1:[1-9][0-9]*"));
}

}  // namespace
}  // namespace moe::coordinator
