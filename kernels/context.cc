// See context.h. Tested by tests/kernels/context_test.cc.
#include "kernels/context.h"

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "kernels/bf16.h"
#include "kernels/linear_cpu.h"
#include "kernels/numerics.h"
#include "kernels/packed_rows.h"

namespace moe::kernels {

namespace {

constexpr std::array<CpuLevel, 4> kLevels = {CpuLevel::kPlain, CpuLevel::kAvx2, CpuLevel::kAvx512,
                                             CpuLevel::kAvx512Bf16};

// Instruction manuals leave room in how vdpbf16ps rounds between its two products. A CPU whose
// vdpbf16ps is not the sequence of numerics.h must not use it, or its output would differ.
bool Bf16InstructionFollowsContract() {
  constexpr size_t kTokens = 2;
  constexpr size_t kRows = 16;
  constexpr size_t kLength = 256;
  std::array<BFloat16, kTokens * kLength> x;
  std::array<BFloat16, kRows * kLength> weight;
  uint64_t random = 1;
  const auto next = [&random](bool tiny) -> BFloat16 {
    random = random * 6364136223846793005u + 1442695040888963407u;
    const auto bits = static_cast<uint32_t>(random >> 33);
    const uint32_t exponent = (tiny ? 60 : 120) + (bits & 7);
    return {static_cast<uint16_t>(((bits >> 8) & 0x807fu) | (exponent << 7))};
  };
  // The second token is tiny, and so is the second half of the weights: their products lie around
  // the smallest normal number.
  for (size_t i = 0; i < kTokens * kLength; ++i) x[i] = next((i / kPackedChunk) % kTokens == 1);
  for (size_t i = 0; i < kRows * kLength; ++i) weight[i] = next(i >= kRows * kLength / 2);
  std::array<float, kTokens * kRows> expected;
  std::array<float, kTokens * kRows> actual;
  const ScopedFlushDenormals flush;
  DotTilesArgs args{.x = x.data(),
                    .num_tiles = 1,
                    .tile_rows = {kTokens},
                    .weight = weight.data(),
                    .num_outputs = kRows,
                    .in_features = kLength,
                    .out = expected.data(),
                    .out_stride = kRows,
                    .next_weight = weight.data()};
  avx512::DotTiles(args);
  args.out = actual.data();
  avx512_bf16::DotTiles(args);
  for (size_t i = 0; i < kTokens * kRows; ++i) {
    if (std::bit_cast<uint32_t>(expected[i]) != std::bit_cast<uint32_t>(actual[i])) return false;
  }
  return true;
}

CpuLevel Detect() {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return CpuLevel::kPlain;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq")) {
    return CpuLevel::kAvx2;
  }
  if (!__builtin_cpu_supports("avx512bf16") || !Bf16InstructionFollowsContract()) {
    return CpuLevel::kAvx512;
  }
  return CpuLevel::kAvx512Bf16;
}

}  // namespace

CpuLevel DetectCpuLevel() { return Detect(); }

std::string_view CpuLevelName(CpuLevel level) {
  switch (level) {
    case CpuLevel::kPlain:
      return "plain";
    case CpuLevel::kAvx2:
      return "avx2";
    case CpuLevel::kAvx512:
      return "avx512";
    case CpuLevel::kAvx512Bf16:
      return "avx512_bf16";
  }
  return "unknown";
}

absl::StatusOr<CpuLevel> ParseCpuLevel(std::string_view name) {
  for (const CpuLevel level : kLevels) {
    if (name != CpuLevelName(level)) continue;
    const CpuLevel highest = DetectCpuLevel();
    if (level > highest) {
      return absl::FailedPreconditionError(absl::StrFormat(
          "this CPU lacks the level %s, its highest is %s", name, CpuLevelName(highest)));
    }
    return level;
  }
  return absl::InvalidArgumentError(absl::StrFormat(
      "'%s' is not a CPU level; known are plain, avx2, avx512 and avx512_bf16", name));
}

}  // namespace moe::kernels
