// Tests kernels/cuda/linear.h and, through it, gemm.cuh.
#include "kernels/cuda/linear.h"

#include <cmath>
#include <string>

#include "kernels/cuda/gemm_schedule.h"
#include "tests/kernels/cuda/gpu_test.h"

namespace moe::kernels::cuda {
namespace {

struct Sizes {
  int num_rows;
  int in_features;
  int out_features;
};

// Around the tiles (16 to 128), the stage (64), the segments (8 of whole stages) and the chunk (8).
std::vector<Sizes> AllSizes() {
  std::vector<Sizes> sizes = {
      {0, 64, 16},  {1, 64, 0},    {1, 0, 5},    {1, 1, 1},     {1, 64, 16},  {2, 63, 15},
      {3, 65, 17},  {8, 72, 33},   {9, 130, 31}, {17, 200, 40}, {33, 70, 20}, {65, 67, 19},
      {5, 513, 18}, {4, 1024, 16}, {130, 37, 9}, {2, 1100, 8},  {1, 2048, 16}};
  if (!kEmulated) {
    for (const Sizes& larger : std::vector<Sizes>{{1, 2048, 2048},
                                                  {7, 2048, 6144},
                                                  {64, 2048, 2048},
                                                  {512, 2048, 2048},
                                                  {300, 1024, 2048},
                                                  {32, 2048, 50304},
                                                  {129, 2049, 131}}) {
      sizes.push_back(larger);
    }
  }
  return sizes;
}

class CudaLinearTest : public GpuTest {
 protected:
  struct Problem {
    Sizes sizes;
    std::vector<BFloat16> x;
    std::vector<BFloat16> weight;
    std::vector<float> residual = {};
  };

  static Problem Make(const Sizes& sizes, bool integers) {
    std::mt19937 random(sizes.num_rows * 31 + sizes.in_features);
    const auto values = [&](int64_t size) {
      return integers ? RandomIntegers(size, random) : RandomBf16(size, random);
    };
    Problem problem = {.sizes = sizes,
                       .x = values(int64_t{sizes.num_rows} * sizes.in_features),
                       .weight = values(int64_t{sizes.out_features} * sizes.in_features)};
    for (int64_t i = 0; i < int64_t{sizes.num_rows} * sizes.out_features; ++i) {
      problem.residual.push_back(static_cast<float>(random() % 100) - 50.0f);
    }
    return problem;
  }

  // Rows [first, first + count) in tiles of `columns`; 0: as Linear chooses.
  std::vector<float> Run(const Problem& problem, int first, int count, Accumulate accumulate,
                         int columns) {
    const auto [num_rows, in_features, out_features] = problem.sizes;
    const int stride = PaddedStride(in_features) + kRowAlignment;
    const std::vector<BFloat16> rows(problem.x.begin() + int64_t{first} * in_features,
                                     problem.x.begin() + int64_t{first + count} * in_features);
    const auto x = UploadRows(rows, in_features, stride);
    const auto weight = UploadRows(problem.weight, in_features, PaddedStride(in_features));
    const auto out = Upload(
        std::vector<float>(problem.residual.begin() + int64_t{first} * out_features,
                           problem.residual.begin() + int64_t{first + count} * out_features));
    const Matrix matrix = {.data = weight.data(),
                           .rows = out_features,
                           .cols = in_features,
                           .stride = PaddedStride(in_features)};
    if (columns == 0) {
      Check(Linear(gpu(), x.data(), stride, count, matrix, out.data(), out_features, accumulate));
    } else {
      Check(LinearWithTile(gpu(), x.data(), stride, count, matrix, out.data(), out_features,
                           accumulate, columns));
    }
    return Download(out);
  }

  std::vector<float> OnCpu(const Problem& problem, Accumulate accumulate) {
    std::vector<float> out = problem.residual;
    kernels::Linear(cpu(), problem.x.data(), problem.weight.data(), problem.sizes.num_rows,
                    problem.sizes.in_features, problem.sizes.out_features, out.data(),
                    problem.sizes.out_features, accumulate);
    return out;
  }
};

std::string Name(const Sizes& sizes, int columns) {
  return std::to_string(sizes.num_rows) + " x " + std::to_string(sizes.in_features) + " x " +
         std::to_string(sizes.out_features) + " in tiles of " + std::to_string(columns);
}

TEST_F(CudaLinearTest, SmallIntegersGiveExactlyWhatTheCpuGives) {
  for (const Sizes& sizes : AllSizes()) {
    const Problem problem = Make(sizes, true);
    for (const Accumulate accumulate : {Accumulate::kNo, Accumulate::kYes}) {
      const std::vector<float> expected = OnCpu(problem, accumulate);
      for (const int columns : {0, 8, 16, 32, 64, 128}) {
        SCOPED_TRACE(Name(sizes, columns));
        ExpectSameBits(Run(problem, 0, sizes.num_rows, accumulate, columns), expected);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_F(CudaLinearTest, IsCloseToTheCpu) {
  for (const Sizes& sizes : AllSizes()) {
    SCOPED_TRACE(Name(sizes, 0));
    const Problem problem = Make(sizes, false);
    const std::vector<float> expected = OnCpu(problem, Accumulate::kNo);
    const std::vector<float> actual = Run(problem, 0, sizes.num_rows, Accumulate::kNo, 0);
    for (int row = 0; row < sizes.num_rows; ++row) {
      for (int output = 0; output < sizes.out_features; ++output) {
        double magnitude = 0.0;
        for (int i = 0; i < sizes.in_features; ++i) {
          magnitude += std::abs(
              static_cast<double>(ToFloat(problem.x[int64_t{row} * sizes.in_features + i])) *
              ToFloat(problem.weight[int64_t{output} * sizes.in_features + i]));
        }
        // Both sides' errors.
        const double bound =
            (ProductBound(sizes.in_features) + kUnit * (sizes.in_features / 16 + 6)) * magnitude;
        const int64_t at = int64_t{row} * sizes.out_features + output;
        ASSERT_NEAR(actual[at], expected[at], bound) << "row " << row << ", output " << output;
      }
    }
  }
}

TEST_F(CudaLinearTest, ARowHasTheSameBitsAloneAndInAnyBatchAndTile) {
  const std::vector<Sizes> all =
      kEmulated ? std::vector<Sizes>{{70, 600, 24}}
                : std::vector<Sizes>{{64, 2048, 2048}, {512, 2048, 640}, {512, 1000, 130}};
  for (const Sizes& sizes : all) {
    const Problem problem = Make(sizes, false);
    const std::vector<float> batch = Run(problem, 0, sizes.num_rows, Accumulate::kNo, 128);
    for (const int columns : {8, 16, 32, 64, 0}) {
      SCOPED_TRACE(Name(sizes, columns));
      ExpectSameBits(Run(problem, 0, sizes.num_rows, Accumulate::kNo, columns), batch);
      if (HasFatalFailure()) return;
      for (const int first : {0, 1, 37, sizes.num_rows - 7}) {
        for (const int count : {1, 7}) {
          const std::vector<float> part = Run(problem, first, count, Accumulate::kNo, columns);
          ExpectSameBits(part, std::vector<float>(
                                   batch.begin() + int64_t{first} * sizes.out_features,
                                   batch.begin() + int64_t{first + count} * sizes.out_features));
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST_F(CudaLinearTest, ANonFiniteRowLeavesTheOthersAlone) {
  Problem problem = Make({.num_rows = 20, .in_features = 100, .out_features = 20}, true);
  const std::vector<float> clean = Run(problem, 0, 20, Accumulate::kNo, 32);
  problem.x[3 * 100 + 50] = ToBFloat16(kNan);
  problem.x[3 * 100 + 51] = ToBFloat16(kInfinity);
  std::vector<float> actual = Run(problem, 0, 20, Accumulate::kNo, 32);
  for (int output = 0; output < 20; ++output) {
    EXPECT_TRUE(std::isnan(actual[3 * 20 + output]));
    actual[3 * 20 + output] = clean[3 * 20 + output];
  }
  ExpectSameBits(actual, clean);
}

TEST_F(CudaLinearTest, RowsThatAreNotAlignedAreRefused) {
  const auto x = Allocate<BFloat16>(64);
  const auto weight = Allocate<BFloat16>(64);
  const auto out = Allocate<float>(64);
  const Matrix matrix = {.data = weight.data(), .rows = 1, .cols = 5, .stride = 5};
  EXPECT_EQ(Linear(gpu(), x.data(), 8, 1, matrix, out.data(), 1).code(),
            absl::StatusCode::kInvalidArgument);
  const Matrix good = {.data = weight.data(), .rows = 1, .cols = 5, .stride = 8};
  EXPECT_EQ(Linear(gpu(), x.data() + 1, 8, 1, good, out.data(), 1).code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace moe::kernels::cuda
