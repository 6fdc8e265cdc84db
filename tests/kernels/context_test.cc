// Tests kernels/context.h and kernels/bf16.h.
#include "kernels/context.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tests/kernels/kernel_test.h"

namespace moe::kernels {
namespace {

TEST(ContextTest, EveryLevelOfThisCpuCanBeNamed) {
  for (const CpuLevel level :
       {CpuLevel::kPlain, CpuLevel::kAvx2, CpuLevel::kAvx512, CpuLevel::kAvx512Bf16}) {
    const absl::StatusOr<CpuLevel> parsed = ParseCpuLevel(CpuLevelName(level));
    if (level <= DetectCpuLevel()) {
      ASSERT_TRUE(parsed.ok()) << parsed.status();
      EXPECT_EQ(*parsed, level);
    } else {
      EXPECT_EQ(parsed.status().code(), absl::StatusCode::kFailedPrecondition);
    }
  }
}

TEST(ContextTest, AnUnknownLevelIsAnInvalidArgument) {
  for (const char* name : {"", "sse", "AVX2", "avx512 "}) {
    const absl::Status status = ParseCpuLevel(name).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(status.message().find("avx512_bf16"), std::string::npos);
  }
}

TEST(BFloat16Test, EveryValueSurvivesTheWayThroughFloat) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const BFloat16 value = {static_cast<uint16_t>(bits)};
    const float wide = ToFloat(value);
    if (std::isnan(wide)) {
      EXPECT_TRUE(std::isnan(ToFloat(ToBFloat16(wide))));
    } else {
      EXPECT_EQ(ToBFloat16(wide).bits, value.bits);
    }
  }
}

TEST(BFloat16Test, RoundsToTheNearestAndTiesToEven) {
  EXPECT_EQ(ToBFloat16(std::bit_cast<float>(0x3f808000u)).bits, 0x3f80);  // a tie, even below
  EXPECT_EQ(ToBFloat16(std::bit_cast<float>(0x3f818000u)).bits, 0x3f82);  // a tie, even above
  EXPECT_EQ(ToBFloat16(std::bit_cast<float>(0x3f808001u)).bits, 0x3f81);
  EXPECT_EQ(ToBFloat16(std::bit_cast<float>(0x3f807fffu)).bits, 0x3f80);
  EXPECT_EQ(ToBFloat16(3.4e38f).bits, 0x7f80);  // overflows to infinity
  EXPECT_EQ(ToBFloat16(-3.4e38f).bits, 0xff80);
  EXPECT_TRUE(std::isnan(ToFloat(ToBFloat16(std::bit_cast<float>(0x7f800001u)))));
}

}  // namespace
}  // namespace moe::kernels
