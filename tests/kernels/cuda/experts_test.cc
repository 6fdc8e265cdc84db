// Tests kernels/cuda/experts.h.
#include "kernels/cuda/experts.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <string>

#include "kernels/cuda/gemm_schedule.h"
#include "tests/kernels/cuda/gpu_test.h"

namespace moe::kernels::cuda {
namespace {

// A layer in which expert e has rows_of_expert[e] rows, taken from x in a scattered order.
struct Layer {
  int hidden = 0;
  int intermediate = 0;
  int num_x = 0;
  std::vector<int> rows_of_expert = {};
  std::vector<BFloat16> x = {};
  std::vector<std::vector<BFloat16>> gate = {};
  std::vector<std::vector<BFloat16>> up = {};
  std::vector<std::vector<BFloat16>> down = {};
  std::vector<ExpertRow> rows = {};
  std::vector<int32_t> offsets = {};
};

Layer Make(int hidden, int intermediate, const std::vector<int>& rows_of_expert) {
  std::mt19937 random(hidden * 1000 + intermediate);
  Layer layer = {.hidden = hidden, .intermediate = intermediate, .num_x = 11};
  layer.rows_of_expert = rows_of_expert;
  layer.x = RandomBf16(int64_t{layer.num_x} * hidden, random);
  const float gate_scale = 1.5f / std::sqrt(static_cast<float>(hidden));
  const float down_scale = 1.5f / std::sqrt(static_cast<float>(intermediate));
  const int num_rows = std::accumulate(rows_of_expert.begin(), rows_of_expert.end(), 0);
  std::vector<int32_t> out_rows(num_rows);
  std::iota(out_rows.begin(), out_rows.end(), 1);  // row 0 is named by nobody
  std::shuffle(out_rows.begin(), out_rows.end(), random);
  for (const int count : rows_of_expert) {
    layer.gate.push_back(RandomBf16(int64_t{intermediate} * hidden, random, gate_scale));
    layer.up.push_back(RandomBf16(int64_t{intermediate} * hidden, random, gate_scale));
    layer.down.push_back(RandomBf16(int64_t{hidden} * intermediate, random, down_scale));
    layer.offsets.push_back(static_cast<int32_t>(layer.rows.size()));
    for (int i = 0; i < count; ++i) {
      layer.rows.push_back(
          {static_cast<int32_t>(random() % layer.num_x), out_rows[layer.rows.size()]});
    }
  }
  layer.offsets.push_back(static_cast<int32_t>(layer.rows.size()));
  return layer;
}

class CudaExpertsTest : public GpuTest {
 protected:
  // [1 + rows, hidden]; 0: the tile that RunExperts chooses.
  std::vector<BFloat16> Run(const Layer& layer, int columns) {
    const int num_experts = static_cast<int>(layer.rows_of_expert.size());
    const int gate_stride = PaddedStride(layer.hidden);
    const int down_stride = PaddedStride(layer.intermediate);
    std::vector<device::DeviceBuffer<BFloat16>> matrices;
    std::vector<ExpertWeights> weights;
    for (int e = 0; e < num_experts; ++e) {
      ExpertWeights& expert = weights.emplace_back();
      matrices.push_back(UploadRows(layer.gate[e], layer.hidden, gate_stride));
      expert.gate = matrices.back().data();
      matrices.push_back(UploadRows(layer.up[e], layer.hidden, gate_stride));
      expert.up = matrices.back().data();
      matrices.push_back(UploadRows(layer.down[e], layer.intermediate, down_stride));
      expert.down = matrices.back().data();
    }
    const int num_pairs = static_cast<int>(layer.rows.size());
    const auto device_weights = Upload(weights);
    const auto offsets = Upload(layer.offsets);
    const auto rows = Upload(layer.rows);
    const auto x = UploadRows(layer.x, layer.hidden, gate_stride);
    const auto gated = Allocate<BFloat16>(int64_t{num_pairs} * down_stride);
    const auto out = Allocate<BFloat16>(int64_t{num_pairs + 1} * layer.hidden);
    const ExpertsArgs args = {.num_experts = num_experts,
                              .hidden = layer.hidden,
                              .intermediate = layer.intermediate,
                              .weights = device_weights.data(),
                              .gate_stride = gate_stride,
                              .down_stride = down_stride,
                              .offsets = offsets.data(),
                              .rows = rows.data(),
                              .num_pairs = num_pairs,
                              .num_tokens = num_pairs,
                              .x = x.data(),
                              .x_stride = gate_stride,
                              .gated = gated.data(),
                              .out = out.data()};
    Check(columns == 0 ? RunExperts(gpu(), args) : RunExpertsWithTile(gpu(), args, columns));
    return Download(out);
  }

  std::vector<BFloat16> OnCpu(const Layer& layer) {
    std::vector<BFloat16> out((layer.rows.size() + 1) * layer.hidden, ToBFloat16(kNan));
    std::vector<ExpertGroup> groups;
    for (size_t e = 0; e < layer.rows_of_expert.size(); ++e) {
      groups.push_back({.weights = {layer.gate[e].data(), layer.up[e].data(), layer.down[e].data()},
                        .rows = layer.rows.data() + layer.offsets[e],
                        .num_rows = layer.rows_of_expert[e]});
    }
    ExpertWorkspace workspace;
    kernels::RunExperts(cpu(), groups.data(), static_cast<int>(groups.size()), layer.hidden,
                        layer.intermediate, layer.x.data(), layer.hidden, out.data(), &workspace);
    return out;
  }

  // The errors that bf16 leaves: h has one rounding on each side, which a last bit of the products
  // before it may turn the other way, and the result has one on each side.
  void ExpectClose(const Layer& layer, const std::vector<BFloat16>& actual) {
    const std::vector<BFloat16> expected = OnCpu(layer);
    ASSERT_EQ(actual.size(), expected.size());
    for (size_t e = 0; e < layer.rows_of_expert.size(); ++e) {
      for (int32_t at = layer.offsets[e]; at < layer.offsets[e + 1]; ++at) {
        const ExpertRow& row = layer.rows[at];
        std::vector<double> h(layer.intermediate);
        for (int i = 0; i < layer.intermediate; ++i) {
          double g = 0.0;
          double u = 0.0;
          for (int j = 0; j < layer.hidden; ++j) {
            const double x = ToFloat(layer.x[int64_t{row.x_row} * layer.hidden + j]);
            g += x * ToFloat(layer.gate[e][int64_t{i} * layer.hidden + j]);
            u += x * ToFloat(layer.up[e][int64_t{i} * layer.hidden + j]);
          }
          h[i] = g / (1.0 + std::exp(-g)) * u;
        }
        for (int o = 0; o < layer.hidden; ++o) {
          double magnitude = 0.0;
          for (int i = 0; i < layer.intermediate; ++i) {
            magnitude +=
                std::abs(h[i] * ToFloat(layer.down[e][int64_t{o} * layer.intermediate + i]));
          }
          const int64_t to = int64_t{row.out_row} * layer.hidden + o;
          const double value = ToFloat(expected[to]);
          ASSERT_NEAR(ToFloat(actual[to]), value,
                      2.2 * kBf16Unit * (magnitude + std::abs(value)) + 2e-5)
              << "expert " << e << ", row " << at << ", output " << o;
        }
      }
    }
    for (int i = 0; i < layer.hidden; ++i) {
      ASSERT_EQ(actual[i].bits, 0xffffu) << "a row that nobody named was written";
    }
  }
};

TEST_F(CudaExpertsTest, IsCloseToTheCpuInEveryTile) {
  std::vector<Layer> layers;
  layers.push_back(Make(64, 32, {1, 0, 3, 9, 0, 17}));
  layers.push_back(Make(37, 90, {0, 2, 5, 0}));
  layers.push_back(Make(130, 65, {33, 1}));
  layers.push_back(Make(700, 48, {2, 0, 130, 1}));
  if (!kEmulated) {
    layers.push_back(Make(2048, 1024, {1, 0, 8, 3}));
    std::vector<int> many(64, 0);
    for (int e = 0; e < 64; ++e) many[e] = e * 7 % 20;
    layers.push_back(Make(128, 64, many));
  }
  for (const Layer& layer : layers) {
    for (const int columns : {0, 8, 16, 32, 64, 128}) {
      SCOPED_TRACE(std::to_string(layer.hidden) + ", tiles of " + std::to_string(columns));
      ExpectClose(layer, Run(layer, columns));
      if (HasFatalFailure()) return;
    }
  }
}

TEST_F(CudaExpertsTest, NoRowsAreNoWork) {
  const Layer layer = Make(64, 32, {0, 0, 0});
  const std::vector<BFloat16> out = Run(layer, 0);
  for (const BFloat16 value : out) EXPECT_EQ(value.bits, 0xffffu);
}

TEST_F(CudaExpertsTest, ARowHasTheSameBitsAloneInAnyBatchAndTile) {
  // All rows of expert 0 read the same x, among other rows of other experts.
  const auto make = [](int copies, const std::vector<int>& others) {
    std::vector<int> rows_of_expert = {copies};
    rows_of_expert.insert(rows_of_expert.end(), others.begin(), others.end());
    Layer layer = kEmulated ? Make(100, 40, rows_of_expert) : Make(2048, 1024, rows_of_expert);
    for (int i = 0; i < copies; ++i) layer.rows[i].x_row = 4;
    return layer;
  };
  const auto row_of = [](const Layer& layer, const std::vector<BFloat16>& out, int at) {
    const auto first = out.begin() + int64_t{layer.rows[at].out_row} * layer.hidden;
    return std::vector<BFloat16>(first, first + layer.hidden);
  };
  const Layer alone = make(1, {0, 0});
  const std::vector<BFloat16> expected = row_of(alone, Run(alone, 8), 0);
  const std::vector<int> batches =
      kEmulated ? std::vector<int>{1, 9, 70} : std::vector<int>{1, 64, 512};
  for (const int copies : batches) {
    Layer layer = make(copies, {5, 1});
    layer.x = alone.x;  // the experts are drawn first to last, so expert 0 is the same
    layer.gate[0] = alone.gate[0];
    layer.up[0] = alone.up[0];
    layer.down[0] = alone.down[0];
    for (const int columns : {0, 8, 16, 32, 64, 128}) {
      SCOPED_TRACE(std::to_string(copies) + " rows, tiles of " + std::to_string(columns));
      const std::vector<BFloat16> out = Run(layer, columns);
      for (int at = 0; at < copies; ++at) {
        ExpectSameBits(row_of(layer, out, at), expected);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_F(CudaExpertsTest, CombiningGivesTheBitsOfTheCpu) {
  std::mt19937 random(5);
  for (const auto& [num_rows, top_k, hidden] :
       std::vector<std::array<int, 3>>{{0, 8, 64}, {1, 8, 300}, {7, 3, 37}, {5, 1, 256}}) {
    const std::vector<BFloat16> y = RandomBf16(int64_t{num_rows} * top_k * hidden, random);
    const std::vector<float> weights = RandomFloats(int64_t{num_rows} * top_k, random, 0.2f);
    std::vector<float> residual = RandomFloats(int64_t{num_rows} * hidden, random);
    const auto device_y = Upload(y);
    const auto device_weights = Upload(weights);
    const auto device_residual = Upload(residual);
    Check(CombineExperts(gpu(), device_y.data(), device_weights.data(), num_rows, top_k, hidden,
                         device_residual.data()));
    kernels::CombineExperts(cpu(), y.data(), weights.data(), num_rows, top_k, hidden,
                            residual.data());
    ExpectSameBits(Download(device_residual), residual);
  }
}

}  // namespace
}  // namespace moe::kernels::cuda
