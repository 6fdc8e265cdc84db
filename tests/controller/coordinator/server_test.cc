// The coordinator and the worker's membership together, over a unix socket: real streams, real
// threads, workers that compute nothing.
#include "controller/coordinator/server.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/coordinator.grpc.pb.h"
#include "worker/membership/membership.h"

namespace moe::coordinator {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;

constexpr absl::Duration kPatience = absl::Seconds(90);  // for a loaded machine

// A worker that answers everything at once.
class FakeWorker : public membership::MembershipHandler {
 public:
  struct Behaviour {
    std::string numerics_id = "cpu-1";
    std::string unable = {};  // said instead of Loaded
    bool joins = true;
  };

  FakeWorker(const std::string& address, const std::string& id, int slot, Behaviour behaviour)
      : slot_(slot), behaviour_(std::move(behaviour)) {
    membership::MembershipOptions options;
    options.coordinator_address = address;
    options.worker_id = id;
    options.slot_hint = slot;
    options.numerics_id = behaviour_.numerics_id;
    options.engine_address = absl::StrCat("unix:engine-", slot);
    options.heartbeat_interval = absl::Milliseconds(200);
    absl::MutexLock lock(&mu_);
    auto membership = membership::Membership::Start(options, this);
    EXPECT_TRUE(membership.ok());
    membership_ = *std::move(membership);
  }
  ~FakeWorker() override { membership_->Stop(absl::ZeroDuration()); }

  // The handler may be called before membership_ is set.
  membership::Membership* membership() {
    absl::MutexLock lock(&mu_);
    return membership_.get();
  }

  void OnAssign(const v1::GroupSpec& spec, int slot) override {
    EXPECT_EQ(slot, slot_);
    if (!behaviour_.unable.empty()) {
      membership()->SendUnable(behaviour_.unable);
      return;
    }
    experts_ = 0;
    for (const v1::ExpertPlacement& entry : spec.placement()) {
      for (uint32_t holder : entry.slots()) experts_ += static_cast<int>(holder) == slot ? 1 : 0;
    }
    membership()->SendLoadProgress(50, 100);
    v1::Loaded loaded;
    loaded.set_bytes(100);
    membership()->SendLoaded(loaded);
  }
  void OnPrepare(uint64_t epoch, const std::vector<membership::EpochMember>& members) override {
    absl::MutexLock lock(&mu_);
    num_members_ = members.size();
    membership_->SendPrepared(epoch, slot_ == 0 ? absl::StrCat("secret", epoch) : "");
  }
  void OnJoin(uint64_t epoch, const std::string& bootstrap) override {
    EXPECT_EQ(bootstrap, absl::StrCat("secret", epoch));
    if (behaviour_.joins) membership()->SendJoined(epoch);
  }
  void OnActivate(uint64_t epoch) override {
    absl::MutexLock lock(&mu_);
    running_ = epoch;
  }
  void OnAbort(uint64_t /*epoch*/, const std::string& /*reason*/) override {
    absl::MutexLock lock(&mu_);
    running_ = 0;
  }
  void OnDismiss(const std::string& reason) override {
    absl::MutexLock lock(&mu_);
    dismissed_ = reason;
  }
  void OnConnectionState(bool /*connected*/) override {}
  v1::Heartbeat MakeHeartbeat() override {
    v1::Heartbeat heartbeat;
    for (int i = 0; i < experts_; ++i) heartbeat.add_expert_tokens(10);
    return heartbeat;
  }

  uint64_t running() {
    absl::MutexLock lock(&mu_);
    return running_;
  }
  std::string dismissed() {
    absl::MutexLock lock(&mu_);
    return dismissed_;
  }

 private:
  const int slot_;
  const Behaviour behaviour_;
  std::atomic<int> experts_ = 0;
  absl::Mutex mu_;
  std::unique_ptr<membership::Membership> membership_;
  uint64_t running_ ABSL_GUARDED_BY(mu_) = 0;
  size_t num_members_ ABSL_GUARDED_BY(mu_) = 0;
  std::string dismissed_ ABSL_GUARDED_BY(mu_);
};

// Runs FakeWorkers; one ends when it is killed, dismissed or unable, as a process would.
class FakeRuntime : public runtime::Runtime {
 public:
  explicit FakeRuntime(std::string address) : address_(std::move(address)) {
    reaper_ = std::thread([this] { Reap(); });
  }
  ~FakeRuntime() override {
    StopAll(absl::ZeroDuration());
    {
      absl::MutexLock lock(&mu_);
      done_ = true;
    }
    reaper_.join();
  }

  void SetBehaviour(int slot, FakeWorker::Behaviour behaviour) {
    absl::MutexLock lock(&mu_);
    behaviours_[slot] = std::move(behaviour);
  }
  void SetExitCallback(ExitCallback callback) override {
    absl::MutexLock lock(&mu_);
    callback_ = std::move(callback);
  }
  absl::StatusOr<std::string> StartWorker(int slot) override {
    absl::MutexLock lock(&mu_);
    if (stopped_) return absl::FailedPreconditionError("stopped");
    const std::string id = absl::StrCat("fake-", slot, "-", ++num_started_);
    workers_[id] = {slot, std::make_unique<FakeWorker>(address_, id, slot, behaviours_[slot])};
    return id;
  }
  void Kill(std::string_view worker_id) override {
    absl::MutexLock lock(&mu_);
    to_end_.insert(std::string(worker_id));
  }
  void StopAll(absl::Duration /*grace*/) override {
    absl::MutexLock lock(&mu_);
    stopped_ = true;
    const auto none_left = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
      return workers_.empty() && !ending_;
    };
    mu_.Await(absl::Condition(&none_left));
  }

  // Ends the worker of a slot as kill -9 would.
  void KillSlot(int slot) {
    absl::MutexLock lock(&mu_);
    for (const auto& [id, worker] : workers_) {
      if (worker.slot == slot) to_end_.insert(id);
    }
  }
  std::vector<uint64_t> RunningEpochs() {
    absl::MutexLock lock(&mu_);
    std::vector<uint64_t> epochs;
    for (const auto& [id, worker] : workers_) epochs.push_back(worker.fake->running());
    return epochs;
  }
  int num_started() {
    absl::MutexLock lock(&mu_);
    return num_started_;
  }
  FakeWorker* worker(int slot) {
    absl::MutexLock lock(&mu_);
    for (const auto& [id, worker] : workers_) {
      if (worker.slot == slot) return worker.fake.get();
    }
    return nullptr;
  }

 private:
  struct Worker {
    int slot = 0;
    std::unique_ptr<FakeWorker> fake;
  };

  void Reap() {
    while (true) {
      std::map<std::string, Worker> ended;
      ExitCallback callback;
      {
        absl::MutexLock lock(&mu_);
        if (done_) return;
        for (auto it = workers_.begin(); it != workers_.end();) {
          if (stopped_ || to_end_.contains(it->first) || !it->second.fake->dismissed().empty()) {
            ended[it->first] = std::move(it->second);
            it = workers_.erase(it);
          } else {
            ++it;
          }
        }
        ending_ = !ended.empty();
        callback = callback_;
      }
      for (auto& [id, worker] : ended) {
        worker.fake.reset();
        callback({worker.slot, id, "was killed by signal 9 (Killed)", "its last words"});
      }
      absl::MutexLock lock(&mu_);
      ending_ = false;
      const auto wake = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return done_; };
      mu_.AwaitWithTimeout(absl::Condition(&wake), absl::Milliseconds(5));
    }
  }

  const std::string address_;
  std::thread reaper_;
  absl::Mutex mu_;
  std::map<std::string, Worker> workers_ ABSL_GUARDED_BY(mu_);
  std::map<int, FakeWorker::Behaviour> behaviours_ ABSL_GUARDED_BY(mu_);
  std::set<std::string> to_end_ ABSL_GUARDED_BY(mu_);
  ExitCallback callback_ ABSL_GUARDED_BY(mu_);
  int num_started_ ABSL_GUARDED_BY(mu_) = 0;
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;
  bool ending_ ABSL_GUARDED_BY(mu_) = false;
  bool done_ ABSL_GUARDED_BY(mu_) = false;
};

class ServerTest : public ::testing::Test {
 protected:
  ServerTest() {
    std::string form = ::testing::TempDir() + "/coordinator-XXXXXX";
    folder_ = mkdtemp(form.data());
    address_ = "unix:" + folder_ + "/c.sock";
    runtime_ = std::make_unique<FakeRuntime>(address_);
  }
  ~ServerTest() override {
    server_.reset();
    runtime_.reset();
    std::filesystem::remove_all(folder_);
  }

  void Start(int num_slots, int num_experts, GroupOptions group = {}) {
    CoordinatorOptions options;
    options.listen_address = address_;
    options.group = std::move(group);
    options.group.placement = *PlaceInBlocks(num_experts, num_slots);
    options.group.num_layers = 1;
    options.on_state = [this](const v1::GroupState& state) {
      absl::MutexLock lock(&mu_);
      state_ = state;
    };
    auto store = EpochStore::Open(folder_ + "/term");
    ASSERT_TRUE(store.ok()) << store.status();
    auto server = CoordinatorServer::Start(std::move(options), *std::move(store), runtime_.get());
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  bool WaitState(const std::function<bool(const v1::GroupState&)>& condition) {
    absl::MutexLock lock(&mu_);
    const auto holds = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return condition(state_); };
    return mu_.AwaitWithTimeout(absl::Condition(&holds), kPatience);
  }
  // Until an epoch above `epoch` is active and every worker runs it.
  bool WaitActive(uint64_t above = 0) {
    if (!WaitState([&](const v1::GroupState& s) {
          return s.phase() == v1::GroupState::ACTIVE && s.epoch() > above;
        })) {
      return false;
    }
    const uint64_t epoch = server_->State().epoch();
    for (int i = 0; i < 6000; ++i) {
      const std::vector<uint64_t> running = runtime_->RunningEpochs();
      if (std::count(running.begin(), running.end(), epoch) ==
          static_cast<int64_t>(running.size())) {
        return true;
      }
      absl::SleepFor(absl::Milliseconds(10));
    }
    return false;
  }
  std::unique_ptr<v1::Coordinator::Stub> Stub() const {
    return v1::Coordinator::NewStub(
        grpc::CreateChannel(address_, grpc::InsecureChannelCredentials()));
  }

  std::string folder_;
  std::string address_;
  absl::Mutex mu_;
  v1::GroupState state_ ABSL_GUARDED_BY(mu_);
  std::unique_ptr<FakeRuntime> runtime_;
  std::unique_ptr<CoordinatorServer> server_;
};

TEST_F(ServerTest, SixtyFourWorkersBecomeActiveAndSurviveDeaths) {
  Start(64, 64);
  ASSERT_TRUE(WaitActive());
  uint64_t epoch = server_->State().epoch();
  EXPECT_EQ(server_->State().leader_address(), "unix:engine-0");
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
    EXPECT_GT(server_->State().epoch(), epoch);
    epoch = server_->State().epoch();
  }
  const v1::GroupState state = server_->State();
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
  const auto reader = stub->WatchGroup(&context, v1::WatchGroupRequest());
  v1::GroupState state;
  ASSERT_TRUE(reader->Read(&state));
  EXPECT_EQ(state.phase(), v1::GroupState::ACTIVE);
  const uint64_t epoch = state.epoch();
  runtime_->KillSlot(1);
  bool recovering = false;
  while (reader->Read(&state) && state.epoch() <= epoch) {
    if (state.phase() == v1::GroupState::RECOVERING) {
      recovering = true;
      EXPECT_EQ(state.leader_address(), "");
    }
  }
  EXPECT_TRUE(recovering);
  EXPECT_GT(state.epoch(), epoch);
  EXPECT_EQ(state.leader_address(), "unix:engine-0");
  // It also ends with the server.
  std::thread shutdown([this] { server_->Shutdown(absl::ZeroDuration()); });
  v1::GroupState last;
  while (reader->Read(&state)) last = state;
  EXPECT_EQ(last.phase(), v1::GroupState::STOPPING);
  EXPECT_TRUE(reader->Finish().ok());
  shutdown.join();
}

TEST_F(ServerTest, AWorkerThatCannotLoadEndsTheGroupWithItsWords) {
  runtime_->SetBehaviour(3, {.unable = "model.safetensors: tensor x is missing"});
  Start(4, 4);
  ASSERT_TRUE(
      WaitState([](const v1::GroupState& s) { return s.phase() == v1::GroupState::FAILED; }));
  EXPECT_EQ(server_->State().reason(), "worker 3: model.safetensors: tensor x is missing");
  server_->Shutdown(absl::ZeroDuration());
  EXPECT_EQ(server_->State().phase(), v1::GroupState::FAILED);
}

TEST_F(ServerTest, AMixedGroupIsRefusedAndSaysSo) {
  runtime_->SetBehaviour(1, {.numerics_id = "cpu-2"});
  GroupOptions group;
  group.max_slot_failures = 2;
  Start(3, 3, group);
  ASSERT_TRUE(
      WaitState([](const v1::GroupState& s) { return s.phase() == v1::GroupState::FAILED; }));
  EXPECT_THAT(server_->State().reason(), AllOf(HasSubstr("numerics id"), HasSubstr("cpu-1"),
                                               HasSubstr("cpu-2"), HasSubstr("its last words")));
}

TEST_F(ServerTest, AReportedFailureLeadsToANewEpochWithTheSameProcesses) {
  Start(8, 8);
  ASSERT_TRUE(WaitActive());
  const uint64_t epoch = server_->State().epoch();
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
  EXPECT_THAT(server_->State().reason(), HasSubstr("no Joined within 100ms from worker 1"));
}

TEST_F(ServerTest, StrangersAreDismissedAndDisturbNobody) {
  Start(2, 2);
  ASSERT_TRUE(WaitActive());
  const uint64_t epoch = server_->State().epoch();
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
  EXPECT_TRUE(second->Finish().ok());

  // One that breaks off in the middle.
  {
    grpc::ClientContext third_context;
    auto third = stub->Session(&third_context);
    third->Write(message);
    third_context.TryCancel();
    third->Finish();
  }
  EXPECT_EQ(server_->State().epoch(), epoch);
  EXPECT_THAT(runtime_->RunningEpochs(), Each(epoch));
}

TEST_F(ServerTest, TheNextControllerOverTheSameFileUsesAHigherTermAndEpoch) {
  Start(2, 2);
  ASSERT_TRUE(WaitActive());
  const v1::GroupState before = server_->State();
  server_.reset();
  runtime_ = std::make_unique<FakeRuntime>(address_);
  {
    absl::MutexLock lock(&mu_);
    state_.Clear();
  }
  Start(2, 2);
  ASSERT_TRUE(WaitActive());
  EXPECT_EQ(server_->State().term(), before.term() + 1);
  EXPECT_GT(server_->State().epoch(), before.epoch());
}

TEST_F(ServerTest, OptionsThatCannotWorkAreRefused) {
  const auto try_start = [this](const std::function<void(CoordinatorOptions*)>& change) {
    CoordinatorOptions options;
    options.listen_address = address_;
    options.group.placement = *PlaceInBlocks(4, 2);
    options.group.num_layers = 1;
    change(&options);
    auto store = EpochStore::Open(folder_ + "/term");
    return CoordinatorServer::Start(std::move(options), *std::move(store), runtime_.get()).status();
  };
  EXPECT_THAT(std::string(try_start([](CoordinatorOptions* o) {
                            o->group.placement.slots_of_expert[1].clear();
                          }).message()),
              HasSubstr("expert 1 has no slot"));
  EXPECT_EQ(try_start([](CoordinatorOptions* o) { o->group.num_attention_ranks = 3; }).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(try_start([this](CoordinatorOptions* o) {
              o->listen_address = "unix:" + folder_ + "/none/c.sock";
            }).code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(runtime_->num_started(), 0);
}

TEST_F(ServerTest, APortIsDrawnAndTold) {
  address_ = "127.0.0.1:0";
  Start(1, 1);
  EXPECT_THAT(server_->address(), ::testing::MatchesRegex("127\\.0\\.0\\.1:[1-9][0-9]*"));
}

}  // namespace
}  // namespace moe::coordinator
