// Tests kernels/cuda/rms_norm.h.
#include "kernels/cuda/rms_norm.h"

#include <cmath>

#include "kernels/rms_norm.h"
#include "tests/kernels/cuda/gpu_test.h"

namespace moe::kernels::cuda {
namespace {

constexpr float kEpsilon = 1e-5f;

class CudaRmsNormTest : public GpuTest {
 protected:
  static std::vector<int> Widths() {
    return kEmulated ? std::vector<int>{1, 31, 256, 300} : std::vector<int>{1, 31, 256, 300, 2048};
  }
};

TEST_F(CudaRmsNormTest, RowsAreWithinOneRoundingOfTheCpus) {
  std::mt19937 random(3);
  for (const int hidden : Widths()) {
    for (const int num_rows : {0, 1, 5}) {
      const int out_stride = PaddedStride(hidden) + 8;
      const std::vector<float> x = RandomFloats(int64_t{num_rows} * hidden, random, 3.0f);
      const std::vector<BFloat16> weight = RandomBf16(hidden, random);
      const auto device_x = Upload(x);
      const auto device_weight = Upload(weight);
      const auto out = Allocate<BFloat16>(int64_t{num_rows} * out_stride);
      Check(RmsNorm(gpu(), device_x.data(), nullptr, device_weight.data(), kEpsilon, num_rows,
                    hidden, out.data(), out_stride));
      std::vector<BFloat16> expected(int64_t{num_rows} * hidden);
      kernels::RmsNorm(cpu(), x.data(), weight.data(), kEpsilon, num_rows, hidden, expected.data());
      const std::vector<BFloat16> actual = Download(out);
      for (int row = 0; row < num_rows; ++row) {
        for (int i = 0; i < out_stride; ++i) {
          const BFloat16 value = actual[int64_t{row} * out_stride + i];
          if (i >= hidden) {
            ASSERT_EQ(value.bits, 0xffffu) << "the padding was written";
            continue;
          }
          const float wanted = ToFloat(expected[int64_t{row} * hidden + i]);
          // The scales differ by some units of fp32, which can turn one rounding to bf16.
          ASSERT_NEAR(ToFloat(value), wanted, 2.01 * kBf16Unit * std::abs(wanted));
        }
      }
    }
  }
}

TEST_F(CudaRmsNormTest, InPlaceIsCloseToTheCpuAndLeavesTheRestOfARow) {
  std::mt19937 random(4);
  for (const int hidden : Widths()) {
    constexpr int kRows = 3;
    const int stride = hidden + 7;
    std::vector<float> x = RandomFloats(int64_t{kRows} * stride, random, 3.0f);
    const std::vector<float> before = x;
    const std::vector<BFloat16> weight = RandomBf16(hidden, random);
    const auto device_x = Upload(x);
    const auto device_weight = Upload(weight);
    Check(RmsNormInPlace(gpu(), device_x.data(), stride, device_weight.data(), kEpsilon, kRows,
                         hidden));
    kernels::RmsNormInPlace(cpu(), x.data(), stride, weight.data(), kEpsilon, kRows, hidden);
    const std::vector<float> actual = Download(device_x);
    for (size_t i = 0; i < x.size(); ++i) {
      if (static_cast<int>(i % stride) >= hidden) {
        ASSERT_EQ(actual[i], before[i]);
      } else {
        // The sums have at most hidden / 256 + 13 and hidden / 16 + 5 roundings, which count half
        // after the root; then a quotient, a root and two products on each side.
        const double bound = kUnit * (hidden / 32.0 + hidden / 512.0 + 9 + 10);
        ASSERT_NEAR(actual[i], x[i], bound * std::abs(x[i]));
      }
    }
  }
}

TEST_F(CudaRmsNormTest, AnIndexNamesTheRowsAndEachHasTheBitsItHasAlone) {
  std::mt19937 random(6);
  constexpr int kHidden = 300;
  const std::vector<float> x = RandomFloats(int64_t{9} * kHidden, random);
  const std::vector<int32_t> row_idxs = {8, 0, 3, 3};
  const auto device_x = Upload(x);
  const auto device_idxs = Upload(row_idxs);
  const auto weight = Upload(RandomBf16(kHidden, random));
  const auto all = Allocate<BFloat16>(int64_t{9} * kHidden);
  const auto some = Allocate<BFloat16>(int64_t{4} * kHidden);
  Check(RmsNorm(gpu(), device_x.data(), nullptr, weight.data(), kEpsilon, 9, kHidden, all.data(),
                kHidden));
  Check(RmsNorm(gpu(), device_x.data(), device_idxs.data(), weight.data(), kEpsilon, 4, kHidden,
                some.data(), kHidden));
  const std::vector<BFloat16> of_all = Download(all);
  const std::vector<BFloat16> of_some = Download(some);
  for (int row = 0; row < 4; ++row) {
    const auto from = of_all.begin() + int64_t{row_idxs[row]} * kHidden;
    ExpectSameBits(std::vector<BFloat16>(of_some.begin() + int64_t{row} * kHidden,
                                         of_some.begin() + int64_t{row + 1} * kHidden),
                   std::vector<BFloat16>(from, from + kHidden));
  }
}

}  // namespace
}  // namespace moe::kernels::cuda
