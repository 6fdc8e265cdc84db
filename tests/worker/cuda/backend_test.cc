// Tests worker/cuda/backend.h and rank.h on the emulator: what is said where there is no GPU to use
// or too little of it, and that every failing call of the runtime is told.
#include "worker/cuda/backend.h"

#include "device/status.h"
#include "tests/worker/cuda/rank_test.h"

namespace moe::cuda {
namespace {

using testing::AllOf;
using testing::HasSubstr;

std::string Message(const absl::Status& status) { return std::string(status.message()); }

class CudaBackendTest : public CudaRankTest {
 protected:
  absl::Status LoadStatus(const model::RankSpec& spec, const CudaOptions& options = {}) {
    auto backend = CudaBackend::Create(options);
    if (!backend.ok()) return backend.status();
    return (*backend)->Load(*checkpoint_, spec, nullptr, {}).status();
  }
};

TEST_F(CudaBackendTest, TheNumericsIdHasBackendVersionAndArchitecture) {
  EXPECT_EQ(MakeBackend()->numerics_id(), "cuda-1-sm90");
  EXPECT_EQ(CudaNumericsId({.name = "A GPU", .compute_major = 10}), "cuda-1-sm100");
}

TEST_F(CudaBackendTest, AGpuThatIsNotThereIsNamed) {
  const absl::Status status = CudaBackend::Create({.ordinal = 3}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(status), HasSubstr("no GPU 3: this process sees 1"));
}

TEST_F(CudaBackendTest, ALoadedRankSaysWhatItHasAndWhere) {
  Write(model::TinyConfig());
  auto backend = MakeBackend();
  const auto rank = Load(backend.get(), *checkpoint_, Spec());
  ASSERT_NE(rank, nullptr);
  EXPECT_EQ(rank->num_kv_blocks(), 64);
  EXPECT_EQ(rank->report().num_bytes, checkpoint_->num_weight_bytes());
  EXPECT_THAT(rank->description(), AllOf(HasSubstr("GPU 0 (the emulator)"), HasSubstr("KV cache")));
  EXPECT_EQ(rank->host_experts(), nullptr);
  EXPECT_NE(rank->device_experts(), nullptr);
}

TEST_F(CudaBackendTest, KernelsOverlapWhereTheyWereCompiledForThatAndAreNotToldNotTo) {
  Write(model::TinyConfig());
  for (const int version : {80, 90}) {
    for (const bool overlap : {false, true}) {
      emulator::SetKernelsVersion(version);
      auto backend = MakeBackend({.overlap_kernels = overlap});
      const auto rank = Load(backend.get(), *checkpoint_, Spec());
      ASSERT_NE(rank, nullptr);
      EXPECT_EQ(static_cast<CudaRank&>(*rank).gpu().overlaps_kernels, version == 90 && overlap);
    }
  }
}

TEST_F(CudaBackendTest, TheCacheTakesWhatIsLeftOfTheShare) {
  Write(model::TinyConfig());
  model::RankSpec spec = Spec();
  spec.kv_bytes = 0;
  auto half = MakeBackend({.memory_share = 0.5});
  auto most = MakeBackend({.memory_share = 0.9});
  const auto small = Load(half.get(), *checkpoint_, spec);
  const auto large = Load(most.get(), *checkpoint_, spec);
  const uint64_t block = model::KvBlockBytes(checkpoint_->config());
  EXPECT_NEAR(static_cast<double>(large->num_kv_blocks() - small->num_kv_blocks()),
              0.4 * static_cast<double>(kEmulatedBytes) / static_cast<double>(block), 20);
}

TEST_F(CudaBackendTest, TooLittleMemoryIsSaidBeforeAnythingIsAllocated) {
  Write(model::TinyConfig());
  emulator::SetDeviceMemory(kEmulatedBytes, 1 << 16);
  const emulator::RuntimeCounts before = emulator::Counts();
  const absl::Status status = LoadStatus(Spec());
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Message(status), HasSubstr("has too little memory"));
  EXPECT_EQ(emulator::Counts().num_device_allocations, before.num_device_allocations);
}

TEST_F(CudaBackendTest, ModelsThatTheKernelsCantRunAreRefused) {
  model::ModelConfig config = model::TinyConfig();
  config.hidden = 48;
  config.head_dim = 12;
  Write(config);
  const absl::Status status = LoadStatus(Spec());
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(status), HasSubstr("head_dim is 12"));
}

TEST_F(CudaBackendTest, AGroupOfSeveralNeedsAnExchangeBetweenGpus) {
  Write(model::TinyConfig());
  model::RankSpec spec = Spec();
  spec.num_ranks = 2;
  spec.experts = {0, 1, 2, 3};
  auto backend = MakeBackend();
  const auto rank = Load(backend.get(), *checkpoint_, spec);
  ASSERT_NE(rank, nullptr);
  const absl::Status status = rank->MakeLayers({}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(status), HasSubstr("NCCL"));
}

TEST_F(CudaBackendTest, EveryCallThatFailsWhileLoadingIsToldAndLoadingAgainWorks) {
  Write(model::TinyConfig());
  const model::RankSpec spec = Spec();
  const int64_t before = emulator::Counts().num_calls;
  ASSERT_TRUE(LoadStatus(spec).ok());
  const int64_t num_calls = emulator::Counts().num_calls - before;
  ASSERT_GT(num_calls, 20);
  for (int64_t call = 0; call < num_calls - 1; ++call) {  // the last is of the destructor
    SCOPED_TRACE(call);
    emulator::FailAfter(call, cudaErrorMemoryAllocation, /*sticky=*/false);
    const absl::Status status = LoadStatus(spec);
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    emulator::Heal();
  }
  EXPECT_TRUE(LoadStatus(spec).ok());
}

class CudaFaultTest : public CudaBackendTest {
 protected:
  // A fresh rank; what a step gives, or its error.
  void Start(bool graphs) {
    backend_ = MakeBackend({.graphs = graphs});
    rank_ = Load(backend_.get(), *checkpoint_, Spec());
    ASSERT_NE(rank_, nullptr);
    StartEpoch();
  }
  // And one step in it: the next one captures a graph, where graphs are wanted.
  void StartEpoch() {
    auto layers = rank_->MakeLayers({});
    ASSERT_TRUE(layers.ok());
    layers_ = *std::move(layers);
    const auto step = Step();
    ASSERT_TRUE(step.ok()) << step.status();
  }
  absl::StatusOr<std::vector<float>> Step() {
    const std::vector<int32_t> tokens = {5};
    const std::vector<int32_t> blocks = {3};
    const kernels::AttentionSlice slice = {.count = 1, .block_table = blocks.data()};
    absl::Status status = rank_->decoder()->Begin({&slice, 1}, tokens);
    if (!status.ok()) return status;
    status = layers_->Run(OutlineOfStep(1, {&slice, 1}));
    if (!status.ok()) return status;
    std::vector<float> logits;
    const std::vector<model::LogitRequest> requests = {{.row = 0}};
    status = rank_->decoder()->Finish(requests, [&](size_t, const model::LogitResult& result) {
      logits.assign(result.logits.begin(), result.logits.end());
    });
    if (!status.ok()) return status;
    return logits;
  }
  // Calls that a step makes.
  int64_t CountCalls() {
    const int64_t before = emulator::Counts().num_calls;
    EXPECT_TRUE(Step().ok());
    return emulator::Counts().num_calls - before;
  }

  std::unique_ptr<CudaBackend> backend_;
  std::unique_ptr<model::RankModel> rank_;
  std::unique_ptr<model::LayerLoop> layers_;
};

TEST_F(CudaFaultTest, AGpuThatIsLostAtAnyCallOfAStepIsTold) {
  Write(model::TinyConfig());
  for (const bool graphs : {false, true}) {
    ASSERT_NO_FATAL_FAILURE(Start(graphs));
    const int64_t num_calls = CountCalls();
    for (int64_t call = 0; call < num_calls; ++call) {
      SCOPED_TRACE(call);
      StartEpoch();
      emulator::FailAfter(call, cudaErrorIllegalAddress, /*sticky=*/true);
      const auto step = Step();
      ASSERT_FALSE(step.ok());
      EXPECT_TRUE(backend_->IsLost(step.status())) << step.status();
      EXPECT_THAT(Message(step.status()), HasSubstr("has to be started again"));
      emulator::Heal();
    }
  }
  EXPECT_FALSE(backend_->IsLost(absl::OkStatus()));
  EXPECT_FALSE(backend_->IsLost(absl::DataLossError("a file was cut")));
}

TEST_F(CudaFaultTest, AGpuThatHangsIsLostWhenTheStepsDeadlineHasPassed) {
  Write(model::TinyConfig());
  backend_ = MakeBackend({});
  model::RankSpec spec = Spec();
  spec.step_deadline = absl::Milliseconds(50);
  rank_ = Load(backend_.get(), *checkpoint_, spec);
  ASSERT_NE(rank_, nullptr);
  ASSERT_NO_FATAL_FAILURE(StartEpoch());
  emulator::SetHanging(true);
  const auto step = Step();
  emulator::SetHanging(false);
  ASSERT_FALSE(step.ok());
  EXPECT_TRUE(backend_->IsLost(step.status())) << step.status();
  EXPECT_THAT(Message(step.status()), HasSubstr("waiting 50ms for the device: the GPU hangs"));
}

TEST_F(CudaFaultTest, AfterACallThatWasRefusedTheNextEpochHasTheSameBits) {
  Write(model::TinyConfig());
  for (const bool graphs : {false, true}) {
    ASSERT_NO_FATAL_FAILURE(Start(graphs));
    const auto expected = Step();
    ASSERT_TRUE(expected.ok());
    StartEpoch();
    const int64_t num_calls = CountCalls();
    for (int64_t call = 0; call < num_calls; ++call) {
      SCOPED_TRACE(call);
      StartEpoch();
      emulator::FailAfter(call, cudaErrorInvalidConfiguration, /*sticky=*/false);
      const auto step = Step();
      ASSERT_FALSE(step.ok());
      EXPECT_FALSE(backend_->IsLost(step.status()));
      emulator::Heal();
      StartEpoch();
      const auto again = Step();
      ASSERT_TRUE(again.ok()) << again.status();
      EXPECT_TRUE(*again == *expected);
    }
  }
}

}  // namespace
}  // namespace moe::cuda
