// What the tests of the GPU kernels share. The same tests run on a GPU and on the emulator
// (tests/kernels/emulator), which has smaller shapes.
#ifndef MOE_TESTS_KERNELS_CUDA_GPU_TEST_H_
#define MOE_TESTS_KERNELS_CUDA_GPU_TEST_H_

#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "device/buffer.h"
#include "device/stream.h"
#include "gtest/gtest.h"
#include "kernels/context.h"
#include "kernels/cuda/gpu.h"
#include "kernels/cuda/matrix.h"
#include "kernels/thread_pool.h"
#include "tests/kernels/kernel_test.h"

namespace moe::kernels::cuda {

#if defined(MOE_EMULATED)
inline constexpr bool kEmulated = true;
#else
inline constexpr bool kEmulated = false;
#endif

// The unit of a tensor core's sums: it aligns its terms to the largest and cuts them to 24 bits or
// more (Fasi et al. 2021, https://doi.org/10.7717/peerj-cs.330), where an addition rounds to half
// of that.
inline constexpr double kMmaUnit = 0x1p-23;

// A bound for the error of one output of gemm.cuh, relative to the sum of its terms' magnitudes: in
// a segment each of length / 16 MMAs cuts 16 products and the sum so far; then up to 8 segments are
// added.
inline double ProductBound(int length) {
  const double segment_mmas = (length / 8 + 64) / 16.0 + 1;
  return kMmaUnit * (17 * segment_mmas + 8);
}

class GpuTest : public testing::Test {
 protected:
  void SetUp() override {
    auto stream = device::Stream::Create();
    ASSERT_TRUE(stream.ok()) << stream.status();
    stream_.push_back(*std::move(stream));
    const auto may_overlap = KernelsMayOverlap();
    ASSERT_TRUE(may_overlap.ok()) << may_overlap.status();
    overlaps_kernels_ = *may_overlap;
  }
  // What a kernel left undone on the device shows here at the latest.
  void TearDown() override { Check(stream_.front().Synchronize()); }

  Gpu gpu() const {
    return {.stream = stream_.front().get(), .num_sms = 132, .overlaps_kernels = overlaps_kernels_};
  }
  Context cpu() { return {.level = CpuLevel::kPlain, .pool = &pool_}; }

  static void Check(const absl::Status& status) { ASSERT_TRUE(status.ok()) << status; }

  template <typename T>
  device::DeviceBuffer<T> Upload(const std::vector<T>& values) {
    device::DeviceBuffer<T> buffer = Allocate<T>(static_cast<int64_t>(values.size()));
    Check(device::CopyToDevice<T>(values, buffer.data(), stream_.front()));
    return buffer;
  }
  // Filled with bytes of ones: NaN as bf16 and fp32, -1 as an integer.
  template <typename T>
  device::DeviceBuffer<T> Allocate(int64_t size) {
    auto buffer = device::DeviceBuffer<T>::Create(size);
    Check(buffer.status());
    Check(device::FillBytes(*buffer, 0xff, stream_.front()));
    return *std::move(buffer);
  }
  template <typename T>
  std::vector<T> Download(const device::DeviceBuffer<T>& buffer) {
    std::vector<T> values(buffer.size());
    Check(device::CopyToHost<T>(buffer.data(), absl::MakeSpan(values), stream_.front()));
    Check(stream_.front().Synchronize());
    return values;
  }

  // Rows of `cols` elements, laid out with `stride`; between them is NaN.
  device::DeviceBuffer<BFloat16> UploadRows(const std::vector<BFloat16>& rows, int cols,
                                            int stride) {
    const size_t num_rows = cols == 0 ? 0 : rows.size() / cols;
    std::vector<BFloat16> padded(num_rows * stride, ToBFloat16(kNan));
    for (size_t row = 0; row < num_rows; ++row) {
      std::memcpy(padded.data() + row * stride, rows.data() + row * cols, cols * sizeof(BFloat16));
    }
    return Upload(padded);
  }

 private:
  std::vector<device::Stream> stream_;  // one
  bool overlaps_kernels_ = false;
  ThreadPool pool_{{.num_threads = 2, .spin_microseconds = 0}};
};

inline std::vector<BFloat16> RandomBf16(int64_t size, std::mt19937& random, float scale = 1.0f) {
  std::vector<BFloat16> values(size);
  for (BFloat16& value : values) value = ToBFloat16(Random(random, scale));
  return values;
}
inline std::vector<float> RandomFloats(int64_t size, std::mt19937& random, float scale = 1.0f) {
  std::vector<float> values(size);
  for (float& value : values) value = Random(random, scale);
  return values;
}
// Small integers: their products and sums are exact in any order, so results have to be equal.
inline std::vector<BFloat16> RandomIntegers(int64_t size, std::mt19937& random) {
  std::vector<BFloat16> values(size);
  for (BFloat16& value : values) value = ToBFloat16(static_cast<float>(random() % 7) - 3.0f);
  return values;
}

template <typename T>
void ExpectSameBits(const std::vector<T>& actual, const std::vector<T>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_EQ(std::memcmp(&actual[i], &expected[i], sizeof(T)), 0) << "element " << i;
  }
}
// As ExpectSameBits, but any NaN equals any NaN.
template <typename T>
void ExpectSameValues(const std::vector<T>& actual, const std::vector<T>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_TRUE(Same(actual[i], expected[i])) << "element " << i;
  }
}

}  // namespace moe::kernels::cuda

#endif  // MOE_TESTS_KERNELS_CUDA_GPU_TEST_H_
