// Tests kernels/experts.h.
#include "kernels/experts.h"

#include <array>
#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/linear.h"
#include "kernels/log_softmax.h"
#include "tests/kernels/kernel_test.h"

namespace moe::kernels {
namespace {

struct Matrices {
  Matrices(int hidden, int intermediate, std::mt19937& random)
      : gate(int64_t{intermediate} * hidden),
        up(int64_t{intermediate} * hidden),
        down(int64_t{hidden} * intermediate) {
    const float scale = 1.5f / std::sqrt(static_cast<float>(hidden));
    Fill(gate, random, scale);
    Fill(up, random, scale);
    Fill(down, random, 1.5f / std::sqrt(static_cast<float>(intermediate)));
  }
  ExpertWeights weights() const { return {gate.data(), up.data(), down.data()}; }

  GuardedBuffer<BFloat16> gate;
  GuardedBuffer<BFloat16> up;
  GuardedBuffer<BFloat16> down;
};

// A layer in which expert e has rows_of_expert[e] rows, taken from x in a scattered order.
struct Layer {
  Layer(int hidden_size, int intermediate_size, const std::vector<int>& rows_of_expert)
      : hidden(hidden_size),
        intermediate(intermediate_size),
        x(int64_t{kNumX} * (hidden + kXPadding)) {
    std::mt19937 random(hidden * 1000 + intermediate);
    Fill(x, random);
    int next_out = 1;  // row 0 is named by nobody
    for (const int num_rows : rows_of_expert) {
      matrices.push_back(std::make_unique<Matrices>(hidden, intermediate, random));
      auto& expert_rows = rows.emplace_back();
      for (int i = 0; i < num_rows; ++i) {
        expert_rows.push_back(
            {.x_row = static_cast<int32_t>(random() % kNumX), .out_row = next_out++});
      }
    }
    num_out = next_out;
  }

  std::vector<ExpertGroup> Groups() const {
    std::vector<ExpertGroup> groups;
    for (size_t e = 0; e < rows.size(); ++e) {
      groups.push_back({.weights = matrices[e]->weights(),
                        .rows = rows[e].data(),
                        .num_rows = static_cast<int>(rows[e].size())});
    }
    return groups;
  }

  void Run(const Context& context, const std::vector<ExpertGroup>& groups,
           const GuardedBuffer<BFloat16>& out) const {
    ExpertWorkspace workspace;
    RunExperts(context, groups.data(), static_cast<int>(groups.size()), hidden, intermediate,
               x.data(), hidden + kXPadding, out.data(), &workspace);
  }

  static constexpr int kNumX = 11;
  static constexpr int kXPadding = 3;
  int hidden;
  int intermediate;
  int num_out = 0;
  GuardedBuffer<BFloat16> x;
  std::vector<std::unique_ptr<Matrices>> matrices;
  std::vector<std::vector<ExpertRow>> rows;
};

// The formula in double with the two roundings of the contract; `tolerance` bounds what the fp32
// steps may add to it.
void Reference(const Layer& layer, const ExpertWeights& weights, const BFloat16* x,
               std::vector<double>* out, std::vector<double>* tolerance) {
  const int hidden = layer.hidden;
  const int intermediate = layer.intermediate;
  std::vector<double> h(intermediate);
  for (int i = 0; i < intermediate; ++i) {
    double g = 0.0;
    double u = 0.0;
    for (int j = 0; j < hidden; ++j) {
      g += static_cast<double>(ToFloat(weights.gate[int64_t{i} * hidden + j])) * ToFloat(x[j]);
      u += static_cast<double>(ToFloat(weights.up[int64_t{i} * hidden + j])) * ToFloat(x[j]);
    }
    h[i] = g / (1.0 + std::exp(-g)) * u;
  }
  for (int o = 0; o < hidden; ++o) {
    double sum = 0.0;
    double magnitude = 0.0;
    for (int i = 0; i < intermediate; ++i) {
      const double term = h[i] * ToFloat(weights.down[int64_t{o} * intermediate + i]);
      sum += term;
      magnitude += std::abs(term);
    }
    out->push_back(sum);
    // h is rounded to bf16, and so is the sum; fp32 errors are 2^-15 of that: 1.1 covers them,
    // together with h that lie next to zero.
    tolerance->push_back(1.1 * kBf16Unit * (magnitude + std::abs(sum)) + 1e-5);
  }
}

const std::vector<int> kRowsOfExpert = {1, 0, 3, 6, 7, 2, 13, 25, 4};

TEST(RunExpertsTest, IsCloseToTheFormulaInDouble) {
  ForEachContext([](const Context& context) {
    for (const auto& [hidden, intermediate] :
         std::vector<std::pair<int, int>>{{128, 64}, {37, 90}, {64, 200}, {33, 1}, {130, 65}}) {
      const Layer layer(hidden, intermediate, kRowsOfExpert);
      GuardedBuffer<BFloat16> out(int64_t{layer.num_out} * hidden);
      layer.Run(context, layer.Groups(), out);
      for (size_t e = 0; e < layer.rows.size(); ++e) {
        for (const ExpertRow& row : layer.rows[e]) {
          std::vector<double> expected;
          std::vector<double> tolerance;
          Reference(layer, layer.matrices[e]->weights(),
                    layer.x.data() + int64_t{row.x_row} * (hidden + Layer::kXPadding), &expected,
                    &tolerance);
          for (int i = 0; i < hidden; ++i) {
            ASSERT_NEAR(ToFloat(out[int64_t{row.out_row} * hidden + i]), expected[i], tolerance[i])
                << hidden << " x " << intermediate << ", expert " << e << ", element " << i;
          }
        }
      }
    }
  });
}

TEST(RunExpertsTest, EveryLevelAndThreadCountGivesTheBitsOfPlain) {
  for (const auto& [hidden, intermediate] :
       std::vector<std::pair<int, int>>{{128, 64}, {37, 90}, {96, 257}}) {
    const Layer layer(hidden, intermediate, kRowsOfExpert);
    GuardedBuffer<BFloat16> expected(int64_t{layer.num_out} * hidden);
    ThreadPool pool({.num_threads = 1});
    layer.Run({.level = CpuLevel::kPlain, .pool = &pool}, layer.Groups(), expected);
    ForEachContext([&](const Context& context) {
      GuardedBuffer<BFloat16> out(expected.size());
      layer.Run(context, layer.Groups(), out);
      ExpectSame(out, expected);
    });
  }
}

TEST(RunExpertsTest, EachStepHasTheBitsOfTheContract) {
  // h and out rebuilt from Linear (tested for itself) and Exp (through ExpMinusMax).
  ForEachContext([](const Context& context) {
    constexpr int kHidden = 70;
    constexpr int kIntermediate = 45;
    const Layer layer(kHidden, kIntermediate, {3});
    GuardedBuffer<BFloat16> out(int64_t{layer.num_out} * kHidden);
    layer.Run(context, layer.Groups(), out);
    const ExpertWeights weights = layer.matrices[0]->weights();
    for (const ExpertRow& row : layer.rows[0]) {
      const BFloat16* x = layer.x.data() + int64_t{row.x_row} * (kHidden + Layer::kXPadding);
      std::array<float, kIntermediate> g;
      std::array<float, kIntermediate> u;
      std::array<float, kIntermediate> e;
      Linear(context, x, weights.gate, 1, kHidden, kIntermediate, g.data(), kIntermediate);
      Linear(context, x, weights.up, 1, kHidden, kIntermediate, u.data(), kIntermediate);
      for (int i = 0; i < kIntermediate; ++i) e[i] = -g[i];
      ExpMinusMax(context, e.data(), 0.0f, kIntermediate, e.data());
      std::array<BFloat16, kIntermediate> h;
      for (int i = 0; i < kIntermediate; ++i) {
        h[i] = ToBFloat16(g[i] * (1.0f / (1.0f + e[i])) * u[i]);
      }
      std::array<float, kHidden> sums;
      Linear(context, h.data(), weights.down, 1, kIntermediate, kHidden, sums.data(), kHidden);
      for (int i = 0; i < kHidden; ++i) {
        ASSERT_TRUE(Same(out[int64_t{row.out_row} * kHidden + i], ToBFloat16(sums[i])));
      }
    }
  });
}

TEST(RunExpertsTest, ARowHasTheSameBitsAloneAndAmongOthers) {
  ForEachContext([](const Context& context) {
    const Layer layer(64, 96, kRowsOfExpert);
    GuardedBuffer<BFloat16> together(int64_t{layer.num_out} * layer.hidden);
    layer.Run(context, layer.Groups(), together);
    GuardedBuffer<BFloat16> alone(together.size());
    for (size_t e = 0; e < layer.rows.size(); ++e) {
      for (const ExpertRow& row : layer.rows[e]) {
        const std::vector<ExpertGroup> group = {
            {.weights = layer.matrices[e]->weights(), .rows = &row, .num_rows = 1}};
        layer.Run(context, group, alone);
      }
    }
    ExpectSame(alone, together);
  });
}

TEST(RunExpertsTest, LeavesOtherRowsAlone) {
  ForEachContext([](const Context& context) {
    const Layer layer(40, 24, {2, 0});
    GuardedBuffer<BFloat16> out(int64_t{layer.num_out + 1} * layer.hidden);
    const BFloat16 mark = ToBFloat16(42.0f);
    for (BFloat16& value : out) value = mark;
    layer.Run(context, layer.Groups(), out);
    for (int i = 0; i < layer.hidden; ++i) {
      ASSERT_TRUE(Same(out[i], mark));
      ASSERT_TRUE(Same(out[int64_t{layer.num_out} * layer.hidden + i], mark));
      ASSERT_FALSE(Same(out[layer.hidden + i], mark));
    }
    layer.Run(context, {}, out);  // no groups at all
  });
}

TEST(RunExpertsTest, NanAndInfinityStayInTheirOwnRow) {
  ForEachContext([](const Context& context) {
    Layer layer(64, 32, {8});
    for (int i = 0; i < 8; ++i) layer.rows[0][i].x_row = i;
    GuardedBuffer<BFloat16> clean(int64_t{layer.num_out} * layer.hidden);
    layer.Run(context, layer.Groups(), clean);
    layer.x[int64_t{2} * (layer.hidden + Layer::kXPadding) + 5] = ToBFloat16(kNan);
    layer.x[int64_t{6} * (layer.hidden + Layer::kXPadding) + 1] = ToBFloat16(kInfinity);
    GuardedBuffer<BFloat16> out(clean.size());
    layer.Run(context, layer.Groups(), out);
    for (int row = 0; row < 8; ++row) {
      for (int i = 0; i < layer.hidden; ++i) {
        const int64_t at = int64_t{row + 1} * layer.hidden + i;
        if (row == 2) {
          ASSERT_TRUE(std::isnan(ToFloat(out[at])));
        } else if (row == 6) {
          ASSERT_FALSE(std::isfinite(ToFloat(out[at])));
        } else {
          ASSERT_TRUE(Same(out[at], clean[at]));
        }
      }
    }
  });
}

TEST(CombineExpertsTest, AddsInAscendingOrderBitByBit) {
  ForEachContext([](const Context& context) {
    for (const int hidden : {1, 16, 37, 128, 3000}) {
      for (const int top_k : {1, 2, 8}) {
        constexpr int kRows = 9;
        std::mt19937 random(hidden);
        GuardedBuffer<BFloat16> y(int64_t{kRows} * top_k * hidden);
        GuardedBuffer<float> weights(int64_t{kRows} * top_k);
        GuardedBuffer<float> residual(int64_t{kRows} * hidden);
        Fill(y, random);
        Fill(weights, random);
        Fill(residual, random);
        GuardedBuffer<float> expected(residual.size());
        for (int64_t row = 0; row < kRows; ++row) {
          for (int i = 0; i < hidden; ++i) {
            float sum = 0.0f;
            for (int j = 0; j < top_k; ++j) {
              const int64_t pair = row * top_k + j;
              sum = std::fma(weights[pair], ToFloat(y[pair * hidden + i]), sum);
            }
            expected[row * hidden + i] = residual[row * hidden + i] + sum;
          }
        }
        CombineExperts(context, y.data(), weights.data(), kRows, top_k, hidden, residual.data());
        ExpectSame(residual, expected);
      }
    }
    CombineExperts(context, nullptr, nullptr, 0, 8, 16, nullptr);
  });
}

}  // namespace
}  // namespace moe::kernels
