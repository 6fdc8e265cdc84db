// The CUDA C++ that the kernels use.
#ifndef MOE_TESTS_KERNELS_EMULATOR_CUDA_RUNTIME_H_
#define MOE_TESTS_KERNELS_EMULATOR_CUDA_RUNTIME_H_

#include <cuda_runtime_api.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "tests/kernels/emulator/emulator.h"

// The names are CUDA's.
// NOLINTBEGIN(readability-identifier-naming,bugprone-*)
#define __global__
#define __device__
#define __host__
#define __launch_bounds__(threads)
// Blocks run one after the other on one thread.
#define __shared__ static

struct dim3 {
  constexpr explicit dim3(unsigned int x_size = 1, unsigned int y_size = 1, unsigned int z_size = 1)
      : x(x_size), y(y_size), z(z_size) {}
  unsigned int x;
  unsigned int y;
  unsigned int z;
};

#define threadIdx (::moe::emulator::CurrentThread())
#define blockIdx (::moe::emulator::CurrentBlock())
#define gridDim (::moe::emulator::CurrentGrid())

inline void __syncthreads() { moe::emulator::WaitForBlock(); }
inline void __syncwarp() { moe::emulator::WaitForWarp(); }

// The value of lane `source` for each lane.
template <typename T>
MOE_EMULATORS_OWN T EmulatedShuffle(T value, int source) {
  static_assert(sizeof(T) <= sizeof(moe::emulator::LaneData));
  moe::emulator::LaneData mine = {};
  std::memcpy(&mine, &value, sizeof(T));
  const moe::emulator::LaneData* all = moe::emulator::ExchangeInWarp(mine);
  T result;
  std::memcpy(&result, &all[source], sizeof(T));
  return result;
}
template <typename T>
T __shfl_sync(unsigned int, T value, int source) {
  return EmulatedShuffle(value, source % 32);
}
template <typename T>
T __shfl_xor_sync(unsigned int, T value, int distance) {
  return EmulatedShuffle(value, moe::emulator::CurrentLane() ^ distance);
}
template <typename T>
T __shfl_up_sync(unsigned int, T value, int distance) {
  const int lane = moe::emulator::CurrentLane();
  return EmulatedShuffle(value, lane < distance ? lane : lane - distance);
}
inline unsigned int __ballot_sync(unsigned int, bool value) {
  moe::emulator::LaneData mine = {};
  mine.words[0] = value ? 1 : 0;
  const moe::emulator::LaneData* all = moe::emulator::ExchangeInWarp(mine);
  unsigned int result = 0;
  for (int lane = 0; lane < 32; ++lane) result |= all[lane].words[0] << lane;
  return result;
}
inline int __popc(unsigned int x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned int>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline float __uint_as_float(uint32_t x) { return std::bit_cast<float>(x); }

// NOLINTEND(readability-identifier-naming,bugprone-*)

#endif  // MOE_TESTS_KERNELS_EMULATOR_CUDA_RUNTIME_H_
