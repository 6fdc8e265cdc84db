// Tests worker/cuda/weight_layout.h and weight_loader.h on the emulator.
#include "worker/cuda/weight_loader.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "device/status.h"
#include "tests/kernels/emulator/memory.h"
#include "tests/worker/cuda/rank_test.h"

namespace moe::cuda {
namespace {

using kernels::BFloat16;
using kernels::cuda::Matrix;

class WeightLoaderTest : public CudaRankTest {
 protected:
  // Loads experts and, if wanted, the rest, and gives the layout. The device's memory is ours.
  WeightLayout LoadTensors(const std::vector<int>& experts, bool attention) {
    Bump counted;
    LayOutWeights(checkpoint_->config(), checkpoint_->weights(), experts, attention, &counted);
    EXPECT_EQ(counted.num_bytes(),
              WeightBytes(checkpoint_->config(), static_cast<int>(experts.size()), attention));
    auto memory =
        device::DeviceBuffer<std::byte>::Create(static_cast<int64_t>(counted.num_bytes()));
    EXPECT_TRUE(memory.ok());
    memory_ = *std::move(memory);
    Bump laid_out(memory_.data());
    WeightLayout layout =
        LayOutWeights(checkpoint_->config(), checkpoint_->weights(), experts, attention, &laid_out);
    auto stream = device::Stream::Create();
    EXPECT_TRUE(stream.ok());
    auto loader = WeightLoader::Create(layout.copies, &*stream);
    EXPECT_TRUE(loader.ok());
    const auto tensors = checkpoint_->SelectTensors(experts, attention);
    EXPECT_TRUE(tensors.ok());
    const auto report = checkpoint_->Load(*tensors, {}, [&](absl::Span<const BFloat16> values) {
      // In pieces of odd sizes, which end in the middle of rows.
      for (size_t at = 0; at < values.size(); at += 37) {
        absl::Status status = (*loader)->Add(values.subspan(at, 37));
        if (!status.ok()) return status;
      }
      return absl::OkStatus();
    });
    EXPECT_TRUE(report.ok()) << report.status();
    EXPECT_TRUE((*loader)->Finish().ok());
    return layout;
  }

  static void ExpectRows(const BFloat16* on_device, int stride, const BFloat16* source, int rows,
                         int cols) {
    const emulator::DeviceAccess access;  // the kernels would only tell that something is wrong
    for (int row = 0; row < rows; ++row) {
      ASSERT_EQ(std::memcmp(on_device + int64_t{row} * stride, source + int64_t{row} * cols,
                            cols * sizeof(BFloat16)),
                0)
          << "row " << row;
    }
  }
  static void ExpectMatrix(const Matrix& matrix, const BFloat16* source) {
    EXPECT_TRUE(kernels::cuda::IsAligned(matrix.data, matrix.stride));
    ExpectRows(matrix.data, matrix.stride, source, matrix.rows, matrix.cols);
  }

  device::DeviceBuffer<std::byte> memory_;
};

model::ModelConfig OddConfig() {
  model::ModelConfig config = model::TinyConfig();
  config.intermediate = 13;
  config.num_experts = 5;
  return config;
}

TEST_F(WeightLoaderTest, EveryTensorLiesWhereTheKernelsReadIt) {
  const model::Checkpoint& checkpoint = Write(OddConfig());
  const model::ModelConfig& config = checkpoint.config();
  const model::ModelWeights& source = checkpoint.weights();
  const WeightLayout layout = LoadTensors({0, 1, 2, 3, 4}, true);
  const DeviceWeights& weights = layout.weights;
  ExpectMatrix(weights.embed, source.embed);
  ExpectMatrix(weights.lm_head, source.lm_head);
  ExpectRows(weights.final_norm, 0, source.final_norm, 1, config.hidden);
  const int q_size = config.num_heads * config.head_dim;
  const int kv_size = config.num_kv_heads * config.head_dim;
  for (int layer = 0; layer < config.num_layers; ++layer) {
    const DeviceLayer& to = weights.layers[layer];
    const model::LayerWeights& from = source.layers[layer];
    ExpectRows(to.input_norm, 0, from.input_norm, 1, config.hidden);
    ExpectRows(to.post_attention_norm, 0, from.post_attention_norm, 1, config.hidden);
    ExpectRows(to.q_norm, 0, from.q_norm, 1, q_size);
    ExpectRows(to.k_norm, 0, from.k_norm, 1, kv_size);
    ExpectMatrix(to.o, from.o);
    ExpectMatrix(to.router, from.gate);
    EXPECT_EQ(to.qkv.rows, q_size + 2 * kv_size);
    const BFloat16* rows = to.qkv.data;
    ExpectRows(rows, to.qkv.stride, from.q, q_size, config.hidden);
    rows += int64_t{q_size} * to.qkv.stride;
    ExpectRows(rows, to.qkv.stride, from.k, kv_size, config.hidden);
    rows += int64_t{kv_size} * to.qkv.stride;
    ExpectRows(rows, to.qkv.stride, from.v, kv_size, config.hidden);
    for (int e = 0; e < 5; ++e) {
      const kernels::ExpertWeights& expert = layout.expert_table[layer * 5 + e];
      ExpectRows(expert.gate, weights.gate_stride, from.experts[e].gate, 13, config.hidden);
      ExpectRows(expert.up, weights.gate_stride, from.experts[e].up, 13, config.hidden);
      ExpectRows(expert.down, weights.down_stride, from.experts[e].down, config.hidden, 13);
    }
  }
}

TEST_F(WeightLoaderTest, ARankOfExpertsHasOnlyItsOwn) {
  const model::Checkpoint& checkpoint = Write(OddConfig());
  const WeightLayout layout = LoadTensors({1, 4}, false);
  EXPECT_EQ(layout.weights.embed.data, nullptr);
  EXPECT_TRUE(layout.weights.layers.empty());
  ASSERT_EQ(layout.expert_table.size(), 2u * checkpoint.config().num_layers);
  const model::LayerWeights& from = checkpoint.weights().layers[1];
  ExpectRows(layout.expert_table[3].down, layout.weights.down_stride, from.experts[4].down,
             checkpoint.config().hidden, 13);
}

TEST_F(WeightLoaderTest, ATiedHeadIsTheEmbedding) {
  model::ModelConfig config = OddConfig();
  config.tie_word_embeddings = true;
  Write(config);
  const WeightLayout layout = LoadTensors({0}, true);
  EXPECT_EQ(layout.weights.lm_head.data, layout.weights.embed.data);
}

TEST_F(WeightLoaderTest, AWeightThatNeverCameIsAnError) {
  const std::vector<BFloat16> source(10);
  auto memory = device::DeviceBuffer<BFloat16>::Create(10);
  ASSERT_TRUE(memory.ok());
  auto stream = device::Stream::Create();
  ASSERT_TRUE(stream.ok());
  auto loader = WeightLoader::Create({{source.data(), 1, 10, memory->data(), 10}}, &*stream);
  ASSERT_TRUE(loader.ok());
  ASSERT_TRUE((*loader)->Add({source.data(), 9}).ok());
  EXPECT_EQ((*loader)->Finish().code(), absl::StatusCode::kInternal);
  ASSERT_TRUE((*loader)->Add({source.data() + 9, 1}).ok());
  EXPECT_TRUE((*loader)->Finish().ok());
}

}  // namespace
}  // namespace moe::cuda
