// The loop's thread with sessions, a runtime and a store that the test holds in its hands.
#include "controller/coordinator/group_loop.h"

#include <atomic>
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
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::coordinator {
namespace {

using ::testing::ElementsAre;

constexpr absl::Duration kPatience = absl::Seconds(60);

class FakeStore : public EpochStore {
 public:
  uint64_t term() const override { return 3; }
  uint64_t last_epoch() const override { return 10; }
  absl::Status Claim(uint64_t epoch) override {
    absl::MutexLock lock(&mu_);
    claims_.push_back(epoch);
    mu_.Await(absl::Condition(&open_));
    return std::exchange(next_status_, absl::OkStatus());
  }

  void SetOpen(bool open) {
    absl::MutexLock lock(&mu_);
    open_ = open;
  }
  void FailNext() {
    absl::MutexLock lock(&mu_);
    next_status_ = absl::UnavailableError("no answer");
  }
  std::vector<uint64_t> WaitForClaims(size_t count) {
    absl::MutexLock lock(&mu_);
    const auto enough = [&]()
                            ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return claims_.size() >= count; };
    EXPECT_TRUE(mu_.AwaitWithTimeout(absl::Condition(&enough), kPatience));
    return claims_;
  }

 private:
  absl::Mutex mu_;
  bool open_ ABSL_GUARDED_BY(mu_) = true;
  absl::Status next_status_ ABSL_GUARDED_BY(mu_);
  std::vector<uint64_t> claims_ ABSL_GUARDED_BY(mu_);
};

// Processes are told by hand.
class FakeRuntime : public runtime::Runtime {
 public:
  void SetCallbacks(Callbacks callbacks) override {
    callbacks_ = std::move(callbacks);
    for (const auto& [slot, id] : found_) callbacks_.on_started(slot, id);
  }
  absl::StatusOr<std::optional<std::string>> StartWorker(int slot) override {
    absl::MutexLock lock(&mu_);
    asked_.insert(slot);
    return std::nullopt;
  }
  void Kill(std::string_view /*worker_id*/, std::string_view /*reason*/) override {}
  void StopAll(absl::Duration /*grace*/) override { stopped_ = true; }

  void WaitAsked(const std::set<int>& slots) {
    absl::MutexLock lock(&mu_);
    const auto all = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return asked_ == slots; };
    EXPECT_TRUE(mu_.AwaitWithTimeout(absl::Condition(&all), kPatience));
  }
  std::set<int> asked() {
    absl::MutexLock lock(&mu_);
    return asked_;
  }

  std::map<int, std::string> found_;  // before the group comes
  Callbacks callbacks_;
  std::atomic<bool> stopped_ = false;

 private:
  absl::Mutex mu_;
  std::set<int> asked_ ABSL_GUARDED_BY(mu_);
};

class FakeSession : public WorkerSession {
 public:
  void ReadNext() override {
    absl::MutexLock lock(&mu_);
    ++num_reads_;
  }
  void Send(v1::ControllerMessage message) override {
    absl::MutexLock lock(&mu_);
    if (message.has_assign()) said_.push_back("assign");
    if (message.has_prepare()) said_.push_back(absl::StrCat("prepare ", message.prepare().epoch()));
    if (message.has_dismiss()) said_.push_back("dismiss");
  }
  void Close(const absl::Status& status) override {
    absl::MutexLock lock(&mu_);
    said_.push_back(absl::StrCat("close ", absl::StatusCodeToString(status.code())));
  }

  std::vector<std::string> WaitSaid(size_t count) {
    absl::MutexLock lock(&mu_);
    const auto enough = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return said_.size() >= count; };
    EXPECT_TRUE(mu_.AwaitWithTimeout(absl::Condition(&enough), kPatience));
    return said_;
  }
  // How often the next message was asked for.
  void WaitReads(int count) {
    absl::MutexLock lock(&mu_);
    const auto enough = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return num_reads_ >= count; };
    EXPECT_TRUE(mu_.AwaitWithTimeout(absl::Condition(&enough), kPatience));
    EXPECT_EQ(num_reads_, count);
  }

 private:
  absl::Mutex mu_;
  std::vector<std::string> said_ ABSL_GUARDED_BY(mu_);
  int num_reads_ ABSL_GUARDED_BY(mu_) = 0;
};

class GroupLoopTest : public ::testing::Test {
 protected:
  ~GroupLoopTest() override {
    if (loop_ != nullptr) loop_->Stop(absl::UnavailableError("the test ends"));
  }
  void Start(int num_slots) {
    GroupLoopOptions options;
    options.group.name = "ns/a/0";
    options.group.placement = *PlaceInBlocks(num_slots, num_slots);
    options.group.num_layers = 1;
    options.group.first_epoch_delay = absl::ZeroDuration();
    options.tick = absl::Milliseconds(5);
    auto store = std::make_unique<FakeStore>();
    store_ = store.get();
    loop_ = *GroupLoop::Start(std::move(options), std::move(store), &runtime_);
  }
  static v1::WorkerMessage Hello(const std::string& id) {
    v1::WorkerMessage message;
    message.mutable_hello()->set_worker_id(id);
    message.mutable_hello()->set_nonce(1);
    message.mutable_hello()->set_numerics_id("cpu-1");
    message.mutable_hello()->set_slot_hint(-1);
    return message;
  }
  static v1::WorkerMessage Loaded() {
    v1::WorkerMessage message;
    message.mutable_loaded();
    return message;
  }

  FakeRuntime runtime_;
  FakeStore* store_ = nullptr;  // the loop's
  std::shared_ptr<GroupLoop> loop_;
  std::shared_ptr<FakeSession> session_ = std::make_shared<FakeSession>();
};

TEST_F(GroupLoopTest, ProcessesThatAreThereAlreadyAreNotAskedFor) {
  runtime_.found_ = {{0, "pod-a"}, {2, "pod-c"}};
  Start(3);
  runtime_.WaitAsked({1});
  runtime_.callbacks_.on_started(1, "pod-b");
  loop_->Connect(1, session_, Hello("pod-b"));
  EXPECT_THAT(session_->WaitSaid(1), ElementsAre("assign"));
  EXPECT_THAT(runtime_.asked(), ElementsAre(1));
}

TEST_F(GroupLoopTest, ASlowClaimHoldsUpItsEpochAndAFailedOneIsNotRepeated) {
  runtime_.found_ = {{0, "pod-a"}};
  Start(1);
  store_->SetOpen(false);
  store_->FailNext();
  loop_->Connect(1, session_, Hello("pod-a"));
  loop_->Receive(1, Loaded());
  EXPECT_THAT(store_->WaitForClaims(1), ElementsAre(11));
  EXPECT_THAT(session_->WaitSaid(1), ElementsAre("assign"));
  // What is shown can still be asked for.
  EXPECT_EQ(loop_->State()->group(), "ns/a/0");
  store_->SetOpen(true);
  EXPECT_THAT(store_->WaitForClaims(2), ElementsAre(11, 12));
  EXPECT_THAT(session_->WaitSaid(2), ElementsAre("assign", "prepare 12"));
}

TEST_F(GroupLoopTest, TheNextMessageIsReadWhenTheOneBeforeWasActedOn) {
  runtime_.found_ = {{0, "pod-a"}};
  Start(2);
  loop_->Connect(1, session_, Hello("pod-a"));
  session_->WaitReads(1);
  loop_->Receive(1, Loaded());
  session_->WaitReads(2);
  loop_->Disconnect(1);
}

TEST_F(GroupLoopTest, StopClosesSessionsAndLeavesWorkersAlone) {
  runtime_.found_ = {{0, "pod-a"}};
  Start(2);
  loop_->Connect(1, session_, Hello("pod-a"));
  session_->WaitSaid(1);
  loop_->Stop(absl::UnavailableError("not led here"));
  EXPECT_THAT(session_->WaitSaid(2), ElementsAre("assign", "close UNAVAILABLE"));
  EXPECT_FALSE(runtime_.stopped_);
  // Late comers.
  const auto late = std::make_shared<FakeSession>();
  loop_->Connect(2, late, Hello("pod-a"));
  EXPECT_THAT(late->WaitSaid(1), ElementsAre("close UNAVAILABLE"));
  runtime_.callbacks_.on_exit(
      {.slot = 0, .worker_id = "pod-a", .description = "", .last_lines = ""});
  loop_->Receive(1, Loaded());
  loop_->Disconnect(1);
  loop_->Stop(absl::OkStatus());
}

TEST_F(GroupLoopTest, StopWorkersTellsThemFirst) {
  runtime_.found_ = {{0, "pod-a"}};
  Start(2);
  loop_->Connect(1, session_, Hello("pod-a"));
  session_->WaitSaid(1);
  loop_->StopWorkers(absl::ZeroDuration());
  EXPECT_THAT(session_->WaitSaid(2), ElementsAre("assign", "dismiss"));
  EXPECT_TRUE(runtime_.stopped_);
  loop_->Stop(absl::UnavailableError("not led here"));
  EXPECT_EQ(loop_->State()->phase(), v1::GroupState::STOPPING);
  loop_->StopWorkers(absl::ZeroDuration());
}

TEST_F(GroupLoopTest, ManyThreadsMayTalkWhileItStops) {
  runtime_.found_ = {{0, "pod-a"}, {1, "pod-b"}};
  Start(2);
  std::vector<std::thread> threads;
  for (uint64_t i = 0; i < 4; ++i) {
    threads.emplace_back([this, i] {
      for (uint64_t n = 0; n < 200; ++n) {
        const uint64_t id = 1 + i * 1000 + n;
        loop_->Connect(id, std::make_shared<FakeSession>(), Hello(i % 2 == 0 ? "pod-a" : "x"));
        loop_->Receive(id, Loaded());
        runtime_.callbacks_.on_exit(
            {.slot = 1, .worker_id = "pod-z", .description = "", .last_lines = ""});
        loop_->Disconnect(id);
        (void)loop_->State();
      }
    });
  }
  loop_->Stop(absl::UnavailableError("not led here"));
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace moe::coordinator
