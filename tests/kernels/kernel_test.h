// What the tests of the kernels share: guarded buffers, random values, the levels of this CPU, and
// the order of numerics.h written as plainly as possible.
#ifndef MOE_TESTS_KERNELS_KERNEL_TEST_H_
#define MOE_TESTS_KERNELS_KERNEL_TEST_H_

#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/bf16.h"
#include "kernels/context.h"
#include "kernels/numerics.h"

namespace moe::kernels {

// `size` elements whose end touches a page that must not be read or written.
template <typename T>
class GuardedBuffer {
 public:
  explicit GuardedBuffer(int64_t size) : size_(size) {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t num_bytes = size * sizeof(T);
    mapped_bytes_ = (num_bytes + page - 1) / page * page + page;
    void* memory =
        mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) std::abort();
    mapped_ = static_cast<char*>(memory);
    if (mprotect(mapped_ + mapped_bytes_ - page, page, PROT_NONE) != 0) std::abort();
    data_ = reinterpret_cast<T*>(mapped_ + mapped_bytes_ - page - num_bytes);
  }
  ~GuardedBuffer() { munmap(mapped_, mapped_bytes_); }
  GuardedBuffer(const GuardedBuffer&) = delete;
  GuardedBuffer& operator=(const GuardedBuffer&) = delete;

  T* data() const { return data_; }
  int64_t size() const { return size_; }
  T& operator[](int64_t i) const { return data_[i]; }
  T* begin() const { return data_; }
  T* end() const { return data_ + size_; }
  void CopyFrom(const GuardedBuffer& other) { std::memcpy(data_, other.data_, size_ * sizeof(T)); }

 private:
  int64_t size_;
  size_t mapped_bytes_;
  char* mapped_;
  T* data_;
};

// The levels that this CPU has, lowest first. Says which it lacks.
inline std::vector<CpuLevel> SupportedLevels() {
  std::vector<CpuLevel> levels;
  for (const CpuLevel level :
       {CpuLevel::kPlain, CpuLevel::kAvx2, CpuLevel::kAvx512, CpuLevel::kAvx512Bf16}) {
    if (level <= DetectCpuLevel()) {
      levels.push_back(level);
    } else {
      const std::string name(CpuLevelName(level));
      std::printf("[  SKIPPED ] level %s: not on this CPU\n", name.c_str());
    }
  }
  return levels;
}

// Calls body(context) for each level and for 1, 2 and 3 threads.
template <typename Body>
void ForEachContext(const Body& body) {
  const std::vector<CpuLevel> levels = SupportedLevels();
  for (const int num_threads : {1, 2, 3}) {
    ThreadPool pool({.num_threads = num_threads, .spin_microseconds = 0});
    for (const CpuLevel level : levels) {
      SCOPED_TRACE(std::string(CpuLevelName(level)) + ", " + std::to_string(num_threads) +
                   " threads");
      body(Context{.level = level, .pool = &pool});
      if (testing::Test::HasFatalFailure()) return;
    }
  }
}

inline float Random(std::mt19937& random, float scale = 1.0f) {
  return std::normal_distribution<float>(0.0f, scale)(random);
}

inline void Fill(const GuardedBuffer<float>& buffer, std::mt19937& random, float scale = 1.0f) {
  for (float& value : buffer) value = Random(random, scale);
}
inline void Fill(const GuardedBuffer<BFloat16>& buffer, std::mt19937& random, float scale = 1.0f) {
  for (BFloat16& value : buffer) value = ToBFloat16(Random(random, scale));
}

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();
inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
inline constexpr float kSmallestNormal = std::numeric_limits<float>::min();

// Values at the edges of the format, as bf16.
inline constexpr std::array<float, 14> kEdgeValues = {0.0f,
                                                      -0.0f,
                                                      1.0f,
                                                      -1.0f,
                                                      kSmallestNormal,
                                                      -kSmallestNormal,
                                                      kSmallestNormal / 4,
                                                      kInfinity,
                                                      -kInfinity,
                                                      kNan,
                                                      3.0e38f,
                                                      -3.0e38f,
                                                      -kSmallestNormal / 8,
                                                      1.0e-20f};

// Equal bits; any NaN equals any NaN.
inline bool Same(float a, float b) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b);
}
inline bool Same(BFloat16 a, BFloat16 b) { return Same(ToFloat(a), ToFloat(b)); }
inline bool Same(int32_t a, int32_t b) { return a == b; }

template <typename T>
void ExpectSame(const GuardedBuffer<T>& actual, const GuardedBuffer<T>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (int64_t i = 0; i < actual.size(); ++i) {
    if constexpr (std::is_same_v<T, BFloat16>) {
      ASSERT_TRUE(Same(actual[i], expected[i]))
          << "element " << i << ": " << ToFloat(actual[i]) << ", expected " << ToFloat(expected[i]);
    } else {
      ASSERT_TRUE(Same(actual[i], expected[i]))
          << "element " << i << ": " << actual[i] << ", expected " << expected[i];
    }
  }
}

// The tree of numerics.h.
inline float ReferenceTree(std::array<float, 16> lanes) {
  for (int width = 8; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}

// Dot of numerics.h. The caller holds ScopedFlushDenormals.
inline float ReferenceDot(const BFloat16* x, const BFloat16* w, int length) {
  std::array<float, 16> lanes = {};
  for (int chunk = 0; chunk < length; chunk += 32) {
    for (int i = 0; i < 16; ++i) {
      const int even = chunk + 2 * i;
      const int odd = even + 1;
      const float x0 = even < length ? ToFloat(x[even]) : 0.0f;
      const float w0 = even < length ? ToFloat(w[even]) : 0.0f;
      const float x1 = odd < length ? ToFloat(x[odd]) : 0.0f;
      const float w1 = odd < length ? ToFloat(w[odd]) : 0.0f;
      lanes[i] = std::fma(x0, w0, std::fma(x1, w1, lanes[i]));
    }
  }
  return ReferenceTree(lanes);
}

// Half a unit in the last place of fp32, and of bf16, relative to the value.
inline constexpr double kUnit = 0x1p-24;
inline constexpr double kBf16Unit = 0x1p-8;

}  // namespace moe::kernels

#endif  // MOE_TESTS_KERNELS_KERNEL_TEST_H_
