// A coordinator on a unix socket, with workers of this process that compute nothing: real streams,
// real threads.
#ifndef MOE_TESTS_CONTROLLER_COORDINATOR_SERVER_FIXTURE_H_
#define MOE_TESTS_CONTROLLER_COORDINATOR_SERVER_FIXTURE_H_

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "controller/coordinator/file_epoch_store.h"
#include "controller/coordinator/server.h"
#include "gtest/gtest.h"
#include "proto/coordinator.grpc.pb.h"
#include "worker/membership/membership.h"

namespace moe::coordinator {

inline constexpr absl::Duration kPatience = absl::Seconds(90);  // for a loaded machine

// A worker that answers everything at once.
class FakeWorker : public membership::MembershipHandler {
 public:
  struct Behaviour {
    std::string numerics_id = "cpu-1";
    std::string unable = {};  // said instead of Loaded
    bool joins = true;
  };

  FakeWorker(const std::string& address, const std::string& group, const std::string& id, int slot,
             Behaviour behaviour)
      : slot_(slot), behaviour_(std::move(behaviour)) {
    membership::MembershipOptions options;
    options.coordinator_address = address;
    options.worker_id = id;
    options.group = group;
    options.slot_hint = slot;
    options.numerics_id = behaviour_.numerics_id;
    options.engine_address = absl::StrCat("unix:engine-", slot);
    options.exchange_address = absl::StrCat("exchange-", slot, ":1");
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
    for (const membership::EpochMember& member : members) {
      EXPECT_EQ(member.exchange_address, absl::StrCat("exchange-", member.slot, ":1"));
    }
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
    heartbeat.set_num_running(slot_ == 0 ? 7 : 0);
    heartbeat.set_num_waiting(slot_ == 0 ? 2 : 0);
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
  std::string dismissed_ ABSL_GUARDED_BY(mu_);
};

// Runs FakeWorkers; one ends when it is killed, dismissed or unable, as a process would.
class FakeRuntime : public runtime::Runtime {
 public:
  explicit FakeRuntime(std::string address, std::string group = "")
      : address_(std::move(address)), group_(std::move(group)) {
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
  void SetCallbacks(Callbacks callbacks) override {
    absl::MutexLock lock(&mu_);
    callbacks_ = std::move(callbacks);
    for (const auto& [id, worker] : workers_) callbacks_.on_started(worker.slot, id);
  }
  absl::StatusOr<std::optional<std::string>> StartWorker(int slot) override {
    absl::MutexLock lock(&mu_);
    if (stopped_) return absl::FailedPreconditionError("stopped");
    const std::string id = absl::StrCat("fake-", slot, "-", ++num_started_);
    workers_[id] = {slot,
                    std::make_unique<FakeWorker>(address_, group_, id, slot, behaviours_[slot])};
    if (tells_later_) {
      callbacks_.on_started(slot, id);
      return std::nullopt;
    }
    return id;
  }
  void Kill(std::string_view worker_id, std::string_view /*reason*/) override {
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

  // Reports starts by on_started, as pods are.
  void TellLater() {
    absl::MutexLock lock(&mu_);
    tells_later_ = true;
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
      Callbacks callbacks;
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
        callbacks = callbacks_;
      }
      for (auto& [id, worker] : ended) {
        worker.fake.reset();
        callbacks.on_exit({worker.slot, id, "was killed by signal 9 (Killed)", "its last words"});
      }
      absl::MutexLock lock(&mu_);
      ending_ = false;
      const auto wake = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return done_; };
      mu_.AwaitWithTimeout(absl::Condition(&wake), absl::Milliseconds(5));
    }
  }

  const std::string address_;
  const std::string group_;
  std::thread reaper_;
  absl::Mutex mu_;
  std::map<std::string, Worker> workers_ ABSL_GUARDED_BY(mu_);
  std::map<int, FakeWorker::Behaviour> behaviours_ ABSL_GUARDED_BY(mu_);
  std::set<std::string> to_end_ ABSL_GUARDED_BY(mu_);
  Callbacks callbacks_ ABSL_GUARDED_BY(mu_);
  bool tells_later_ ABSL_GUARDED_BY(mu_) = false;
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
    ServerOptions options;
    options.listen_address = address_;
    StartServer(std::move(options));
    ASSERT_EQ(Add("", runtime_.get(), num_slots, num_experts, std::move(group)), absl::OkStatus());
    server_->ShowDeployment("");
  }
  void StartServer(ServerOptions options) {
    options.listen_address = address_;
    auto server = CoordinatorServer::Start(std::move(options));
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  absl::Status Add(const std::string& name, FakeRuntime* runtime, int num_slots, int num_experts,
                   GroupOptions group = {}) {
    group.placement = *PlaceInBlocks(num_experts, num_slots);
    group.num_layers = 1;
    std::string file = name;
    std::replace(file.begin(), file.end(), '/', '.');
    auto store = FileEpochStore::Open(absl::StrCat(folder_, "/term", file));
    if (!store.ok()) return store.status();
    return server_->AddGroup(name, std::move(group), *std::move(store), runtime,
                             [this](const v1::GroupState& state) {
                               absl::MutexLock lock(&mu_);
                               states_[state.group()] = state;
                             });
  }

  bool WaitState(const std::function<bool(const v1::GroupState&)>& condition,
                 const std::string& group = "") {
    absl::MutexLock lock(&mu_);
    const auto holds = [&]()
                           ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return condition(states_[group]); };
    return mu_.AwaitWithTimeout(absl::Condition(&holds), kPatience);
  }
  // Until an epoch above `epoch` is active and every worker runs it.
  bool WaitActive(uint64_t above = 0) {
    if (!WaitState([&](const v1::GroupState& s) {
          return s.phase() == v1::GroupState::ACTIVE && s.epoch() > above;
        })) {
      return false;
    }
    const uint64_t epoch = server_->State("")->epoch();
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
  std::map<std::string, v1::GroupState> states_ ABSL_GUARDED_BY(mu_);
  std::unique_ptr<FakeRuntime> runtime_;
  std::unique_ptr<CoordinatorServer> server_;
};

}  // namespace moe::coordinator

#endif  // MOE_TESTS_CONTROLLER_COORDINATOR_SERVER_FIXTURE_H_
