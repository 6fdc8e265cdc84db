// Tests worker/cuda/layer_loop.h and device/graph.h on the emulator: what is launched, waited for
// and kept.
#include "worker/cuda/layer_loop.h"

#include "tests/worker/cuda/rank_test.h"

namespace moe::cuda {
namespace {

using model::LogitRequest;
using Want = LogitRequest::Want;

class CudaLayerLoopTest : public CudaRankTest {
 protected:
  static constexpr int kSequences = 9;

  void Make(bool graphs) {
    Write(model::TinyConfig());
    backend_ = MakeBackend({.graphs = graphs});
    rank_ = Load(backend_.get(), *checkpoint_, Spec());
    ASSERT_NE(rank_, nullptr);
    auto layers = rank_->MakeLayers({});
    ASSERT_TRUE(layers.ok());
    layers_ = *std::move(layers);
    for (int i = 0; i < kSequences; ++i) {
      tokens_.push_back(std::vector<int32_t>(40, i));
      blocks_.push_back(BlocksFrom(50 - 2 * i, 2));
    }
  }
  // One row of each of the first sequences, drawn greedily.
  std::vector<int32_t> Decode(int num_sequences, int position) {
    std::vector<Rows> step;
    std::vector<LogitRequest> requests;
    for (int i = 0; i < num_sequences; ++i) {
      step.push_back({&tokens_[i], position, 1, &blocks_[i]});
      requests.push_back({.row = i, .want = Want::kDraw});
    }
    std::vector<std::vector<float>> logits;
    std::vector<int32_t> drawn;
    for (const auto& answer : RunStep(rank_->decoder(), layers_.get(), step, requests, &logits)) {
      drawn.push_back(answer.token);
    }
    return drawn;
  }
  int num_graphs() const { return static_cast<const CudaLayerLoop*>(layers_.get())->num_graphs(); }

  std::unique_ptr<CudaBackend> backend_;
  std::unique_ptr<model::RankModel> rank_;
  std::unique_ptr<model::LayerLoop> layers_;
  std::vector<std::vector<int32_t>> tokens_;
  std::vector<std::vector<int32_t>> blocks_;
};

TEST_F(CudaLayerLoopTest, ADecodeStepWaitsOnceAndAllocatesNothing) {
  for (const bool graphs : {false, true}) {
    ASSERT_NO_FATAL_FAILURE(Make(graphs));
    const emulator::RuntimeCounts loaded = emulator::Counts();
    for (int position = 0; position < 5; ++position) {
      const emulator::RuntimeCounts before = emulator::Counts();
      Decode(3, position);
      // It waits for an event.
      EXPECT_EQ(emulator::Counts().num_records, before.num_records + 1);
      EXPECT_EQ(emulator::Counts().num_waits, before.num_waits);
    }
    EXPECT_EQ(emulator::Counts().num_device_allocations, loaded.num_device_allocations);
    EXPECT_EQ(emulator::Counts().num_host_allocations, loaded.num_host_allocations);
  }
}

TEST_F(CudaLayerLoopTest, ARankAllocatesDeviceMemoryOnce) {
  const emulator::RuntimeCounts before = emulator::Counts();
  ASSERT_NO_FATAL_FAILURE(Make(true));
  EXPECT_EQ(emulator::Counts().num_device_allocations, before.num_device_allocations + 1);
}

TEST_F(CudaLayerLoopTest, DecodeStepsOfABucketShareAGraphAndItsBits) {
  ASSERT_NO_FATAL_FAILURE(Make(false));
  std::vector<std::vector<int32_t>> expected;
  for (int position = 0; position < 4; ++position) {
    for (const int batch : {5, 6, 1, 9}) expected.push_back(Decode(batch, position));
  }
  EXPECT_EQ(num_graphs(), 0);
  ASSERT_NO_FATAL_FAILURE(Make(true));
  const emulator::RuntimeCounts before = emulator::Counts();
  size_t i = 0;
  for (int position = 0; position < 4; ++position) {
    for (const int batch : {5, 6, 1, 9}) EXPECT_EQ(Decode(batch, position), expected[i++]);
  }
  EXPECT_EQ(num_graphs(), 3);  // 5 and 6; 1; 9
  // All but the first step of each shape.
  EXPECT_EQ(emulator::Counts().num_graph_launches, before.num_graph_launches + 16 - 3);
}

TEST_F(CudaLayerLoopTest, AGraphsStepHasNoLaunchesOfLayersBesideIt) {
  ASSERT_NO_FATAL_FAILURE(Make(true));
  Decode(3, 0);
  Decode(3, 1);
  const emulator::RuntimeCounts before = emulator::Counts();
  Decode(3, 2);
  // Norm, head, statistics and draw.
  EXPECT_EQ(emulator::Counts().num_launches, before.num_launches + 4);
}

TEST_F(CudaLayerLoopTest, PromptsAreLaunchedOneByOne) {
  ASSERT_NO_FATAL_FAILURE(Make(true));
  for (int i = 0; i < 3; ++i) {
    LogitsOf(rank_->decoder(), layers_.get(), {{&tokens_[0], 0, 2, &blocks_[0]}});
  }
  EXPECT_EQ(num_graphs(), 0);
}

TEST_F(CudaLayerLoopTest, TheShapeThatWasNotUsedForLongestGoesFirst) {
  ASSERT_NO_FATAL_FAILURE(Make(true));
  auto* const rank = static_cast<CudaRank*>(rank_.get());
  auto* const experts = static_cast<RankDeviceExperts*>(rank->device_experts());
  auto bounded = std::make_unique<CudaLayerLoop>(
      checkpoint_->config(), static_cast<CudaDecoder*>(rank_->decoder()), experts,
      rank->local_exchange(), &rank->stream(),
      CudaLayerLoop::Options{.sizes = rank->sizes(), .graphs = true, .max_graphs = 2});
  CudaLayerLoop* const loop = bounded.get();
  layers_ = std::move(bounded);
  const auto graph_launches = [] { return emulator::Counts().num_graph_launches; };
  int64_t before = graph_launches();
  for (const int batch : {1, 1, 2, 2}) Decode(batch, 0);
  EXPECT_EQ(loop->num_graphs(), 2);
  EXPECT_EQ(graph_launches(), before + 2);
  Decode(1, 0);  // now 2 is the one that goes
  Decode(3, 0);
  EXPECT_EQ(loop->num_graphs(), 1);
  before = graph_launches();
  Decode(1, 0);
  EXPECT_EQ(graph_launches(), before + 1);
  Decode(2, 0);
  EXPECT_EQ(graph_launches(), before + 1);
}

TEST_F(CudaLayerLoopTest, AStepWithoutThisRankIsRefused) {
  ASSERT_NO_FATAL_FAILURE(Make(true));
  EXPECT_EQ(layers_->Run({.step = 1}).code(), absl::StatusCode::kInternal);
}

TEST_F(CudaLayerLoopTest, AnOutlineOfASmallerStepIsRefused) {
  ASSERT_NO_FATAL_FAILURE(Make(true));
  const std::vector<kernels::AttentionSlice> slices = {
      {.first_row = 0, .start = 0, .count = 1, .block_table = blocks_[0].data()},
      {.first_row = 1, .start = 0, .count = 1, .block_table = blocks_[1].data()}};
  ASSERT_TRUE(rank_->decoder()->Begin(slices, std::vector<int32_t>{1, 2}).ok());
  EXPECT_EQ(layers_->Run(OutlineOfStep(1, {slices.data(), 1})).code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace moe::cuda
