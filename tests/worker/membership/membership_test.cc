// Membership against a coordinator that the test plays by hand, over a unix socket.
#include "worker/membership/membership.h"

#include <grpcpp/grpcpp.h>
#include <grpcpp/server_builder.h>

#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/coordinator.grpc.pb.h"
#include "spdlog/sinks/ostream_sink.h"
#include "spdlog/spdlog.h"

namespace moe::membership {
namespace {

using coordinator::v1::ControllerMessage;
using coordinator::v1::Coordinator;
using coordinator::v1::WorkerMessage;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr absl::Duration kPatience = absl::Seconds(60);  // for a loaded machine

// Keeps what one worker says and sends what the test wants, over the newest session.
class HandCoordinator : public Coordinator::Service {
 public:
  using Stream = grpc::ServerReaderWriter<ControllerMessage, WorkerMessage>;

  grpc::Status Session(grpc::ServerContext* context, Stream* stream) override {
    {
      absl::MutexLock lock(&mu_);
      ++num_sessions_;
      stream_ = stream;
      context_ = context;
    }
    WorkerMessage message;
    while (stream->Read(&message)) {
      absl::MutexLock lock(&mu_);
      if (message.has_heartbeat()) {
        last_heartbeat_ = message.heartbeat();
        ++num_heartbeats_;
      } else {
        said_.push_back(message);
      }
    }
    absl::MutexLock lock(&mu_);
    if (stream_ == stream) {
      stream_ = nullptr;
      context_ = nullptr;
    }
    ++num_ended_;
    return grpc::Status::OK;
  }

  void Send(const ControllerMessage& message) {
    absl::MutexLock lock(&mu_);
    ASSERT_NE(stream_, nullptr);
    ASSERT_TRUE(stream_->Write(message));
  }
  // Breaks the session as a lost connection would.
  void Break() {
    absl::MutexLock lock(&mu_);
    if (context_ != nullptr) context_->TryCancel();
  }
  // Waits until the worker has said `count` messages other than heartbeats, and returns them.
  std::vector<WorkerMessage> WaitSaid(size_t count) {
    absl::MutexLock lock(&mu_);
    const auto enough = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return said_.size() >= count; };
    EXPECT_TRUE(mu_.AwaitWithTimeout(absl::Condition(&enough), kPatience));
    return said_;
  }
  bool Wait(const std::function<bool()>& condition) {
    absl::MutexLock lock(&mu_);
    return mu_.AwaitWithTimeout(absl::Condition(&condition), kPatience);
  }
  void Forget() {
    absl::MutexLock lock(&mu_);
    said_.clear();
  }

  absl::Mutex mu_;
  Stream* stream_ = nullptr;
  grpc::ServerContext* context_ = nullptr;
  std::vector<WorkerMessage> said_;
  coordinator::v1::Heartbeat last_heartbeat_;
  int num_heartbeats_ = 0;
  int num_sessions_ = 0;
  int num_ended_ = 0;
};

// Writes down each callback.
class Recorder : public MembershipHandler {
 public:
  void OnAssign(const coordinator::v1::GroupSpec& spec, int slot) override {
    Record(absl::StrCat("assign ", slot, " of ", spec.num_slots()));
  }
  void OnPrepare(uint64_t epoch, const std::vector<EpochMember>& members) override {
    std::string text = absl::StrCat("prepare ", epoch);
    for (const EpochMember& m : members) {
      absl::StrAppend(&text, " ", m.slot, "=", m.worker_id, "/", m.nonce);
    }
    Record(text);
  }
  void OnJoin(uint64_t epoch, const std::string& bootstrap) override {
    Record(absl::StrCat("join ", epoch, " with ", bootstrap));
  }
  void OnActivate(uint64_t epoch) override { Record(absl::StrCat("activate ", epoch)); }
  void OnAbort(uint64_t epoch, const std::string& reason) override {
    Record(absl::StrCat("abort ", epoch, ": ", reason));
  }
  void OnDismiss(const std::string& reason) override { Record(absl::StrCat("dismiss: ", reason)); }
  void OnConnectionState(bool connected) override { Record(connected ? "up" : "down"); }
  coordinator::v1::Heartbeat MakeHeartbeat() override {
    coordinator::v1::Heartbeat heartbeat;
    heartbeat.set_step(7);
    return heartbeat;
  }

  void Record(const std::string& what) {
    absl::MutexLock lock(&mu_);
    events_.push_back(what);
  }
  std::vector<std::string> WaitFor(size_t count) {
    absl::MutexLock lock(&mu_);
    const auto enough = [&]()
                            ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return events_.size() >= count; };
    EXPECT_TRUE(mu_.AwaitWithTimeout(absl::Condition(&enough), kPatience));
    return events_;
  }

 private:
  absl::Mutex mu_;
  std::vector<std::string> events_ ABSL_GUARDED_BY(mu_);
};

class MembershipTest : public ::testing::Test {
 protected:
  MembershipTest() {
    std::string form = ::testing::TempDir() + "/membership-XXXXXX";
    folder_ = mkdtemp(form.data());
    address_ = "unix:" + folder_ + "/c.sock";
    log_before_ = spdlog::default_logger();
    spdlog::set_default_logger(std::make_shared<spdlog::logger>(
        "test", std::make_shared<spdlog::sinks::ostream_sink_mt>(log_)));
    Listen();
  }
  ~MembershipTest() override {
    membership_.reset();
    StopListening();
    spdlog::set_default_logger(log_before_);
    std::filesystem::remove_all(folder_);
  }

  void Listen() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort(address_, grpc::InsecureServerCredentials());
    builder.RegisterService(&coordinator_);
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
  }
  void StopListening() {
    if (server_ == nullptr) return;
    server_->Shutdown(std::chrono::system_clock::now());
    server_->Wait();
    server_.reset();
  }

  MembershipOptions Options() const {
    MembershipOptions options;
    options.coordinator_address = address_;
    options.worker_id = "worker-3";
    options.slot_hint = 3;
    options.numerics_id = "cpu-1";
    options.engine_address = "unix:/run/engine-3";
    options.metrics_address = "127.0.0.1:9000";
    options.heartbeat_interval = absl::Milliseconds(20);
    options.first_retry = absl::Milliseconds(10);
    options.max_retry = absl::Milliseconds(50);
    options.progress_interval = absl::Milliseconds(1);
    return options;
  }
  void Start(const MembershipOptions& options) {
    auto membership = Membership::Start(options, &recorder_);
    ASSERT_TRUE(membership.ok()) << membership.status();
    membership_ = *std::move(membership);
  }

  void Assign() {
    ControllerMessage message;
    message.mutable_assign()->set_term(1);
    message.mutable_assign()->set_slot(3);
    message.mutable_assign()->mutable_spec()->set_num_slots(64);
    coordinator_.Send(message);
  }
  void Prepare(uint64_t epoch, uint64_t term = 1) {
    ControllerMessage message;
    message.mutable_prepare()->set_term(term);
    message.mutable_prepare()->set_epoch(epoch);
    for (uint32_t slot : {1U, 0U}) {
      coordinator::v1::Member* member = message.mutable_prepare()->add_members();
      member->set_slot(slot);
      member->set_worker_id(absl::StrCat("w", slot));
      member->set_nonce(slot + 10);
    }
    coordinator_.Send(message);
  }
  void Join(uint64_t epoch, const std::string& bootstrap) {
    ControllerMessage message;
    message.mutable_join()->set_term(1);
    message.mutable_join()->set_epoch(epoch);
    message.mutable_join()->set_bootstrap(bootstrap);
    coordinator_.Send(message);
  }
  void Activate(uint64_t epoch) {
    ControllerMessage message;
    message.mutable_activate()->set_term(1);
    message.mutable_activate()->set_epoch(epoch);
    coordinator_.Send(message);
  }

  std::string folder_;
  std::string address_;
  std::ostringstream log_;
  std::shared_ptr<spdlog::logger> log_before_;
  HandCoordinator coordinator_;
  std::unique_ptr<grpc::Server> server_;
  Recorder recorder_;
  std::unique_ptr<Membership> membership_;
};

TEST_F(MembershipTest, HelloSaysWhoThisIs) {
  MembershipOptions options = Options();
  options.group = "ns/a/0";
  options.exchange_address = "10.0.0.1:7711";
  Start(options);
  const auto said = coordinator_.WaitSaid(1);
  ASSERT_TRUE(said[0].has_hello());
  const coordinator::v1::Hello& hello = said[0].hello();
  EXPECT_EQ(hello.worker_id(), "worker-3");
  EXPECT_NE(hello.nonce(), 0u);
  EXPECT_EQ(hello.nonce(), membership_->nonce());
  EXPECT_EQ(hello.pid(), getpid());
  EXPECT_FALSE(hello.host().empty());
  EXPECT_EQ(hello.numerics_id(), "cpu-1");
  EXPECT_EQ(hello.engine_address(), "unix:/run/engine-3");
  EXPECT_EQ(hello.metrics_address(), "127.0.0.1:9000");
  EXPECT_EQ(hello.slot_hint(), 3);
  EXPECT_EQ(hello.epoch(), 0u);
  EXPECT_EQ(hello.group(), "ns/a/0");
  EXPECT_EQ(hello.exchange_address(), "10.0.0.1:7711");
}

TEST_F(MembershipTest, AWholeEpochGoesBothWays) {
  Start(Options());
  coordinator_.WaitSaid(1);
  Assign();
  EXPECT_THAT(recorder_.WaitFor(2), ElementsAre("up", "assign 3 of 64"));
  coordinator::v1::Loaded loaded;
  loaded.set_bytes(123);
  membership_->SendLoaded(loaded);
  EXPECT_EQ(coordinator_.WaitSaid(2)[1].loaded().bytes(), 123u);
  Prepare(5);
  EXPECT_EQ(recorder_.WaitFor(3)[2], "prepare 5 0=w0/10 1=w1/11");
  membership_->SendPrepared(5, "boot");
  EXPECT_EQ(coordinator_.WaitSaid(3)[2].prepared().bootstrap(), "boot");
  Join(5, "boot");
  EXPECT_EQ(recorder_.WaitFor(4)[3], "join 5 with boot");
  membership_->SendJoined(5);
  EXPECT_EQ(coordinator_.WaitSaid(4)[3].joined().epoch(), 5u);
  Activate(5);
  EXPECT_EQ(recorder_.WaitFor(5)[4], "activate 5");
  EXPECT_TRUE(coordinator_.Wait([this] { return coordinator_.last_heartbeat_.epoch() == 5; }));
  {
    absl::MutexLock lock(&coordinator_.mu_);
    EXPECT_EQ(coordinator_.last_heartbeat_.step(), 7u);
  }
  membership_->SendEpochFailed(5, "rank 9 is gone", 9);
  const auto said = coordinator_.WaitSaid(5);
  EXPECT_EQ(said[4].epoch_failed().reason(), "rank 9 is gone");
  EXPECT_EQ(said[4].epoch_failed().suspect_slot(), 9);
}

TEST_F(MembershipTest, AfterALostSessionHelloNamesTheRunningEpochAndLoadedIsRepeated) {
  Start(Options());
  coordinator_.WaitSaid(1);
  Assign();
  recorder_.WaitFor(2);
  membership_->SendLoaded({});
  Prepare(5);
  recorder_.WaitFor(3);
  membership_->SendPrepared(5, "boot");
  Join(5, "boot");
  recorder_.WaitFor(4);
  membership_->SendJoined(5);
  Activate(5);
  recorder_.WaitFor(5);
  coordinator_.WaitSaid(4);
  coordinator_.Forget();
  coordinator_.Break();
  const auto said = coordinator_.WaitSaid(2);
  ASSERT_TRUE(said[0].has_hello());
  EXPECT_EQ(said[0].hello().epoch(), 5u);
  EXPECT_EQ(said[0].hello().term(), 1u);
  EXPECT_EQ(said[0].hello().nonce(), membership_->nonce());
  EXPECT_TRUE(said[1].has_loaded());
  Assign();
  EXPECT_THAT(recorder_.WaitFor(7), ElementsAre("up", "assign 3 of 64", "prepare 5 0=w0/10 1=w1/11",
                                                "join 5 with boot", "activate 5", "down", "up"));
}

TEST_F(MembershipTest, WhatIsSaidWhileDisconnectedIsNotLost) {
  Start(Options());
  coordinator_.WaitSaid(1);
  Assign();
  recorder_.WaitFor(2);
  Prepare(5);
  recorder_.WaitFor(3);
  StopListening();
  recorder_.WaitFor(4);
  membership_->SendLoaded({});
  membership_->SendPrepared(5, "boot");
  membership_->SendEpochFailed(5, "while away", -1);
  coordinator_.Forget();
  Listen();
  const auto said = coordinator_.WaitSaid(3);
  EXPECT_TRUE(said[0].has_hello());
  EXPECT_TRUE(said[1].has_loaded());
  EXPECT_EQ(said[2].epoch_failed().reason(), "while away");
}

TEST_F(MembershipTest, AControllerThatIsNotThereYetIsWaitedFor) {
  StopListening();
  Start(Options());
  EXPECT_FALSE(membership_->connected());
  Listen();
  coordinator_.WaitSaid(1);
  Assign();
  recorder_.WaitFor(2);
  EXPECT_TRUE(membership_->connected());
}

TEST_F(MembershipTest, AnOldTermIsRefusedAndSaidSo) {
  Start(Options());
  coordinator_.WaitSaid(1);
  Assign();
  Prepare(5, /*term=*/4);
  recorder_.WaitFor(3);
  Prepare(6, /*term=*/3);
  Prepare(7, /*term=*/4);
  EXPECT_THAT(recorder_.WaitFor(5),
              ElementsAre("up", "assign 3 of 64", "prepare 5 0=w0/10 1=w1/11",
                          "abort 5: epoch 7 is being prepared", "prepare 7 0=w0/10 1=w1/11"));
  membership_->Stop(absl::ZeroDuration());
  EXPECT_THAT(log_.str(), HasSubstr("term 3, epoch 6 is below term 4, epoch 5"));
}

TEST_F(MembershipTest, DismissEndsTheSessionForGood) {
  Start(Options());
  coordinator_.WaitSaid(1);
  ControllerMessage message;
  message.mutable_dismiss()->set_reason("not wanted");
  coordinator_.Send(message);
  EXPECT_EQ(recorder_.WaitFor(2)[1], "dismiss: not wanted");
  coordinator_.Break();
  EXPECT_EQ(recorder_.WaitFor(3)[2], "down");
  membership_->Stop(absl::Seconds(10));
  absl::MutexLock lock(&coordinator_.mu_);
  EXPECT_EQ(coordinator_.num_sessions_, 1);
}

TEST_F(MembershipTest, UnableArrivesBeforeStopReturns) {
  Start(Options());
  coordinator_.WaitSaid(1);
  membership_->SendUnable("tensor x is missing");
  membership_->Stop(kPatience);
  absl::MutexLock lock(&coordinator_.mu_);
  ASSERT_EQ(coordinator_.said_.size(), 2u);
  EXPECT_EQ(coordinator_.said_[1].unable().reason(), "tensor x is missing");
}

TEST_F(MembershipTest, UnableArrivesAlsoIfTheSessionHasToBeOpenedFirst) {
  StopListening();
  Start(Options());
  membership_->SendUnable("tensor x is missing");
  std::thread listen([this] { Listen(); });
  membership_->Stop(kPatience);
  listen.join();
  absl::MutexLock lock(&coordinator_.mu_);
  ASSERT_EQ(coordinator_.said_.size(), 2u);
  EXPECT_EQ(coordinator_.said_[1].unable().reason(), "tensor x is missing");
}

TEST_F(MembershipTest, StopDoesNotWaitForAControllerThatDoesNotAnswer) {
  StopListening();
  Start(Options());
  membership_->SendUnable("x");
  membership_->Stop(absl::Milliseconds(50));
  membership_->Stop(absl::Milliseconds(50));  // again: nothing
}

TEST_F(MembershipTest, ProgressIsMergedAndTheLastOneArrives) {
  MembershipOptions options = Options();
  options.progress_interval = absl::Milliseconds(30);
  Start(options);
  coordinator_.WaitSaid(1);
  for (uint64_t i = 1; i <= 10'000; ++i) membership_->SendLoadProgress(i, 10'000);
  EXPECT_TRUE(coordinator_.Wait([this] {
    return coordinator_.said_.back().has_load_progress() &&
           coordinator_.said_.back().load_progress().bytes_done() == 10'000;
  }));
  absl::MutexLock lock(&coordinator_.mu_);
  EXPECT_LT(coordinator_.said_.size(), 1000u);
}

TEST_F(MembershipTest, TheBootstrapIsNeverLogged) {
  spdlog::default_logger()->set_level(spdlog::level::trace);
  Start(Options());
  coordinator_.WaitSaid(1);
  Assign();
  Prepare(5);
  recorder_.WaitFor(3);
  membership_->SendPrepared(5, "hush-hush");
  coordinator_.WaitSaid(2);
  Join(5, "hush-hush");
  recorder_.WaitFor(4);
  Prepare(9);
  recorder_.WaitFor(6);
  Join(5, "hush-hush");  // refused
  Prepare(10);
  recorder_.WaitFor(8);  // so the refusal has come, too
  coordinator_.Break();
  coordinator_.WaitSaid(3);
  membership_->Stop(absl::ZeroDuration());
  EXPECT_THAT(log_.str(), HasSubstr("refused"));
  EXPECT_THAT(log_.str(), Not(HasSubstr("hush-hush")));
}

TEST_F(MembershipTest, OptionsThatCannotWorkAreRefused) {
  for (const auto& clear : std::vector<std::function<void(MembershipOptions*)>>{
           [](MembershipOptions* o) { o->coordinator_address.clear(); },
           [](MembershipOptions* o) { o->worker_id.clear(); },
           [](MembershipOptions* o) { o->numerics_id.clear(); }}) {
    MembershipOptions options = Options();
    clear(&options);
    EXPECT_EQ(Membership::Start(options, &recorder_).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace moe::membership
