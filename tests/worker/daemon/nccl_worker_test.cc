// Groups of whole workers on emulated GPUs, led by the real coordinator over its real protocol,
// their rows over a fake NCCL: what `moe serve --backend cuda --expert-parallel N` is but for
// processes, GPUs and NCCL.
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/synchronization/mutex.h"
#include "controller/coordinator/file_epoch_store.h"
#include "controller/coordinator/server.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "spdlog/sinks/ostream_sink.h"
#include "spdlog/spdlog.h"
#include "tests/kernels/emulator/runtime.h"
#include "tests/system/in_process_group.h"
#include "tests/system/requests.h"
#include "tests/worker/daemon/workers_here.h"
#include "tests/worker/service/fake_ends.h"
#include "worker/model/forward.h"

namespace moe::worker {
namespace {

using coordinator::v1::GroupState;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kModel[] = "tests/data/checkpoints/gqa";
constexpr int kNumExperts = 8;
constexpr int kNumLayers = 2;
constexpr absl::Duration kPatience = absl::Minutes(4);  // for a loaded machine

class NcclWorkerTest : public ::testing::Test {
 protected:
  NcclWorkerTest() {
    std::string form = ::testing::TempDir() + "/nccl-worker-XXXXXX";
    folder_ = mkdtemp(form.data());
    log_before_ = spdlog::default_logger();
    spdlog::set_default_logger(std::make_shared<spdlog::logger>(
        "test", std::make_shared<spdlog::sinks::ostream_sink_mt>(log_)));
    emulator::SetDeviceMemory(size_t{1} << 30, size_t{1} << 30);
    nccl_options_ = [this](int slot) { return testing::FakeNcclOptions(&nccl_, slot); };
  }
  ~NcclWorkerTest() override {
    Stop();
    spdlog::set_default_logger(log_before_);
    std::filesystem::remove_all(folder_);
    EXPECT_EQ(nccl_.num_communicators(), 0);
    EXPECT_EQ(nccl_.num_registrations(), 0);
    EXPECT_THAT(nccl_.violations(), ::testing::IsEmpty());
    // Coordinator and workers have logged, and no id: the fake's are "unique id N" and zeros.
    EXPECT_NE(log_.str(), "");
    EXPECT_THAT(log_.str(), Not(HasSubstr("unique id")));
    EXPECT_THAT(log_.str(), Not(HasSubstr(absl::BytesToHexString("unique id"))));
    EXPECT_THAT(log_.str(), Not(HasSubstr(absl::Base64Escape("unique id"))));
  }

  void Start(int num_ranks, int num_attention_ranks, bool replicated = false) {
    coordinator::ServerOptions server;
    server.listen_address = "unix:" + folder_ + "/coordinator.sock";
    auto started = coordinator::CoordinatorServer::Start(std::move(server));
    ASSERT_TRUE(started.ok()) << started.status();
    server_ = *std::move(started);
    workers_ = std::make_unique<WorkersHere>(
        WorkersHere::Options{.folder = folder_, .model_dir = kModel, .nccl = nccl_options_});
    coordinator::GroupOptions group;
    group.placement = *coordinator::PlaceInBlocks(kNumExperts, num_ranks);
    group.num_layers = kNumLayers;
    group.num_attention_ranks = num_attention_ranks;
    group.replicated_attention = replicated;
    group.limits.set_max_sequences(16);
    group.limits.set_max_step_tokens(64);
    group.limits.set_max_queue(64);
    group.limits.set_kv_bytes(32 * model::KvBlockBytes(Config()));
    // None is expected to pass: the emulator is slow.
    group.limits.set_step_deadline_seconds(120);
    coordinator::ExchangeBetweenGpus(&group);
    group.stage_deadline = kPatience;
    auto store = coordinator::FileEpochStore::Open(folder_ + "/term");
    ASSERT_TRUE(store.ok()) << store.status();
    const absl::Status added = server_->AddGroup("", std::move(group), *std::move(store),
                                                 workers_.get(), [this](const GroupState& state) {
                                                   const absl::MutexLock lock(&mutex_);
                                                   state_ = state;
                                                 });
    ASSERT_TRUE(added.ok()) << added;
    server_->ShowDeployment("");
  }
  void Stop() {
    if (server_ == nullptr) return;
    server_->StopGroup("", absl::Seconds(5));
    server_->Shutdown();
    workers_.reset();
    server_.reset();
  }
  // The state for which `condition` held; the last one where it never did.
  GroupState WaitFor(const std::function<bool(const GroupState&)>& condition) {
    const absl::MutexLock lock(&mutex_);
    const auto holds = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return condition(state_); };
    EXPECT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&holds), kPatience))
        << state_.ShortDebugString();
    return state_;
  }
  GroupState WaitActive(uint64_t above = 0) {
    return WaitFor([above](const GroupState& state) {
      return state.phase() == GroupState::ACTIVE && state.epoch() > above;
    });
  }
  GroupState WaitFailed() {
    return WaitFor([](const GroupState& state) { return state.phase() == GroupState::FAILED; });
  }

  static model::ModelConfig Config() { return (*model::Checkpoint::Open(kModel))->config(); }
  static std::vector<testing::Request> MakeRequests(int max_tokens) {
    std::mt19937 random(5);
    std::vector<testing::Request> requests;
    for (int i = 0; i < 4; ++i) {
      requests.push_back(testing::MakeRequest(Config(), 3 + 9 * i, max_tokens, random));
      requests.back().sampling.set_temperature(i % 2 == 1 ? 0.8F : 0.0F);
      requests.back().sampling.set_seed(77 + i);
    }
    return requests;
  }
  // Each request alone, on one GPU without an exchange.
  static std::vector<testing::Answer> Expected(const std::vector<testing::Request>& requests) {
    auto backend = cuda::CudaBackend::Create({});
    EXPECT_TRUE(backend.ok()) << backend.status();
    auto checkpoint = model::Checkpoint::Open(kModel);
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    testing::InProcessGroup group(checkpoint->get(), {.backend = backend->get()});
    EXPECT_TRUE(group.StartEpoch().ok());
    return testing::AnswerEachAlone(&group, requests);
  }

  exchange::FakeNccl nccl_;
  std::function<NcclGroupsOptions(int slot)> nccl_options_;
  std::unique_ptr<coordinator::CoordinatorServer> server_;
  std::unique_ptr<WorkersHere> workers_;

 private:
  std::string folder_;
  std::ostringstream log_;
  std::shared_ptr<spdlog::logger> log_before_;
  absl::Mutex mutex_;
  GroupState state_ ABSL_GUARDED_BY(mutex_);
};

// A gateway whose requests are numbered from 1.
class Client {
 public:
  explicit Client(const std::string& leader)
      : gateway_(grpc::CreateChannel(leader, grpc::InsecureChannelCredentials())) {
    gateway_.Greet();
  }
  void Submit(const std::vector<testing::Request>& requests) {
    for (const testing::Request& request : requests) {
      engine::v1::GatewayMessage message;
      engine::v1::Submit* submit = message.mutable_submit();
      submit->set_request(++num_requests_);
      submit->mutable_prompt_tokens()->Assign(request.prompt.begin(), request.prompt.end());
      *submit->mutable_sampling() = request.sampling;
      ASSERT_TRUE(gateway_.Write(message));
    }
  }
  // Takes tokens until `done` says so of their number, or all requests have ended.
  void Read(const std::function<bool(int num_tokens)>& done) {
    while (num_finished_ < num_requests_ && !done(num_tokens_)) {
      const engine::v1::EngineMessage message = gateway_.Read();
      ASSERT_TRUE(message.has_events()) << "the stream ended: " << message.ShortDebugString();
      for (const engine::v1::TokenEvent& event : message.events().events()) {
        testing::Answer& answer = answers_[event.request()];
        EXPECT_EQ(event.position(), answer.tokens.size());
        answer.tokens.push_back(event.token());
        answer.logprobs.push_back(event.logprob());
        answer.error = event.error();
        ++num_tokens_;
        if (event.finish() != engine::v1::TokenEvent::NONE) ++num_finished_;
      }
    }
  }
  std::vector<testing::Answer> ReadAll() {
    Read([](int) { return false; });
    std::vector<testing::Answer> answers;
    for (auto& [request, answer] : answers_) answers.push_back(answer);
    return answers;
  }

 private:
  engine::Gateway gateway_;
  uint64_t num_requests_ = 0;
  uint64_t num_finished_ = 0;
  int num_tokens_ = 0;
  std::map<uint64_t, testing::Answer> answers_;
};

TEST_F(NcclWorkerTest, AGroupOfTwoGpusAnswersAsOneGpuDoes) {
  const std::vector<testing::Request> requests = MakeRequests(/*max_tokens=*/4);
  Start(2, 2);
  const GroupState state = WaitActive();
  EXPECT_EQ(state.numerics_id(), "cuda-1-sm90");
  Client client(state.leader_address());
  client.Submit(requests);
  testing::ExpectSame(client.ReadAll(), Expected(requests), "over NCCL");
  EXPECT_GT(nccl_.num_bytes_received(), 0);
}

TEST_F(NcclWorkerTest, ALostRankCostsNoTokenAndTheNextEpochIsOverNcclAgain) {
  const std::vector<testing::Request> requests = MakeRequests(/*max_tokens=*/12);
  Start(3, 2);
  GroupState state = WaitActive();
  Client client(state.leader_address());
  client.Submit(requests);
  // An owner, then a holder of experts alone.
  for (const int lost : {1, 2}) {
    client.Read([lost](int num_tokens) { return num_tokens >= 6 * lost; });
    const int64_t num_bytes = nccl_.num_bytes_received();
    workers_->EndSlot(lost);
    state = WaitActive(state.epoch());
    EXPECT_GT(nccl_.num_bytes_received(), num_bytes);
    EXPECT_EQ(nccl_.num_communicators(), 3);
  }
  EXPECT_EQ(workers_->num_started(), 5);
  testing::ExpectSame(client.ReadAll(), Expected(requests), "after two losses");
}

TEST_F(NcclWorkerTest, AMissingLibraryEndsTheGroupWithItsWordsBeforeAnythingIsLoaded) {
  nccl_options_ = [](int) {
    return NcclGroupsOptions{.load = [] {
      return absl::FailedPreconditionError("NCCL can't be loaded (libnccl.so.2): install NCCL");
    }};
  };
  const int64_t allocations = emulator::Counts().num_device_allocations;
  Start(2, 1);
  EXPECT_THAT(WaitFailed().reason(),
              HasSubstr("NCCL can't be loaded (libnccl.so.2): install NCCL"));
  EXPECT_EQ(emulator::Counts().num_device_allocations, allocations);
}

TEST_F(NcclWorkerTest, ReplicatedAttentionAnswersAsOneGpuDoesAndAfterALossToo) {
  const std::vector<testing::Request> requests = MakeRequests(/*max_tokens=*/8);
  Start(2, 2, /*replicated=*/true);
  const GroupState state = WaitActive();
  Client client(state.leader_address());
  client.Submit(requests);
  client.Read([](int num_tokens) { return num_tokens >= 5; });
  workers_->EndSlot(1);
  WaitActive(state.epoch());
  testing::ExpectSame(client.ReadAll(), Expected(requests), "with replicated attention");
}

TEST_F(NcclWorkerTest, WorkersThatConnectForEverLeaveTheEpochWhenItIsAborted) {
  nccl_.never_ready = {0, 1};
  Start(2, 2);
  for (int lost = 0; lost < 2; ++lost) {
    // Both are inside NCCL's part of joining.
    while (nccl_.num_communicators() < 2) absl::SleepFor(absl::Milliseconds(5));
    workers_->EndSlot(1);
    // The one that stays has left it, or it would have no part in the next epoch.
    while (workers_->num_started() < 3 + lost) absl::SleepFor(absl::Milliseconds(5));
  }
  while (nccl_.num_communicators() < 2) absl::SleepFor(absl::Milliseconds(5));
}

TEST_F(NcclWorkerTest, AnErrorOfNcclEndsTheEpochAndNotTheGroup) {
  const std::vector<testing::Request> requests = MakeRequests(/*max_tokens=*/3);
  // Of rank 1's first communicator, in its third group: past the canary.
  nccl_.fail = [](int rank, exchange::NcclCall call, int nth) {
    const bool fails = rank == 1 && call == exchange::NcclCall::kGroupEnd && nth == 5;
    return fails ? absl::InternalError("NCCL: unhandled system error") : absl::OkStatus();
  };
  Start(2, 2);
  GroupState state = WaitActive();
  Client client(state.leader_address());
  client.Submit(requests);
  testing::ExpectSame(client.ReadAll(), Expected(requests), "after an error of NCCL");
  EXPECT_GT(WaitActive(state.epoch()).epoch(), state.epoch());
  EXPECT_EQ(workers_->num_started(), 2);
}

}  // namespace
}  // namespace moe::worker
