#include "controller/api/quantity.h"

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace moe::api {
namespace {

TEST(Quantity, ReadsWhatKubernetesWrites) {
  const struct {
    const char* text;
    int64_t whole;
    int64_t milli;
  } cases[] = {
      {"0", 0, 0},
      {"1", 1, 1000},
      {"40Gi", int64_t{40} << 30, (int64_t{40} << 30) * 1000},
      {"1Ki", 1024, 1024000},
      {"1k", 1000, 1000000},
      {"500m", 1, 500},
      {"1500m", 2, 1500},
      {"0.1", 1, 100},
      {".5", 1, 500},
      {"5.", 5, 5000},
      {"1.5Gi", 1610612736, 1610612736000},
      {"1e3", 1000, 1000000},
      {"1E3", 1000, 1000000},
      {"1.5e-1", 1, 150},
      {"2E", 2000000000000000000, -1},
      {"1n", 1, 1},
      {"100u", 1, 1},
      {"+3", 3, 3000},
      {"-1500m", -2, -1500},
      {"7Ei", 8070450532247928832, -1},
      {"0.000000000000000000001", 1, 1},
      {"0e99", 0, 0},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.text);
    const auto whole = ParseQuantity(c.text);
    ASSERT_TRUE(whole.ok()) << whole.status();
    EXPECT_EQ(*whole, c.whole);
    const auto milli = ParseMilliQuantity(c.text);
    if (c.milli >= 0 || c.whole < 0) {
      ASSERT_TRUE(milli.ok()) << milli.status();
      EXPECT_EQ(*milli, c.milli);
    } else {
      EXPECT_FALSE(milli.ok());
    }
  }
}

TEST(Quantity, RefusesWhatIsNone) {
  for (const char* text :
       {"",    "Gi",   "40 Gi", " 40Gi", "40gi", "40GB", "1e", "1e 3", "e3",    "1..5", "1.5.",
        "--1", "0x10", "1e+",   "NaN",   "inf",  "1,5",  ".",  "+",    "10Mi5", "1e1.5"}) {
    EXPECT_FALSE(ParseQuantity(text).ok()) << text;
  }
  EXPECT_FALSE(ParseQuantity(std::string(65, '1')).ok());
  EXPECT_FALSE(ParseQuantity(absl::string_view("1\0", 2)).ok());
}

TEST(Quantity, RefusesWhatDoesNotFit) {
  EXPECT_EQ(ParseQuantity("9223372036854775807").value(), std::numeric_limits<int64_t>::max());
  for (const char* text : {"9223372036854775808", "8Ei", "10E", "1e19", "1e99",
                           "340282366920938463463374607431768211456", "999999999999999999999Ei"}) {
    const auto result = ParseQuantity(text);
    ASSERT_FALSE(result.ok()) << text;
    EXPECT_NE(result.status().message().find("64 bits"), std::string::npos) << result.status();
  }
}

TEST(Quantity, BytesAreWrittenWithTheLargestUnitThatLosesNothing) {
  EXPECT_EQ(FormatBytes(0), "0");
  EXPECT_EQ(FormatBytes(1000), "1000");
  EXPECT_EQ(FormatBytes(1536), "1536");
  EXPECT_EQ(FormatBytes(1536 << 10), "1536Ki");
  EXPECT_EQ(FormatBytes(uint64_t{40} << 30), "40Gi");
  EXPECT_EQ(FormatBytes(uint64_t{1} << 63), "8Ei");
  for (const uint64_t bytes :
       {uint64_t{1}, uint64_t{4096}, uint64_t{123456789}, uint64_t{3} << 40}) {
    EXPECT_EQ(ParseQuantity(FormatBytes(bytes)).value(), static_cast<int64_t>(bytes));
  }
}

TEST(Duration, ReadsWhatGoWrites) {
  EXPECT_EQ(ParseDuration("10m").value(), absl::Minutes(10));
  EXPECT_EQ(ParseDuration("1h30m").value(), absl::Minutes(90));
  EXPECT_EQ(ParseDuration("1.5s").value(), absl::Milliseconds(1500));
  EXPECT_EQ(ParseDuration("300ms").value(), absl::Milliseconds(300));
  EXPECT_EQ(ParseDuration("0").value(), absl::ZeroDuration());
  EXPECT_EQ(ParseDuration("0s").value(), absl::ZeroDuration());
}

TEST(Duration, RefusesWhatIsNoFiniteTimeAhead) {
  for (const char* text : {"", "10", "ten minutes", "-5s", "inf", "+inf", "1d", "5 m", "m"}) {
    const auto result = ParseDuration(text);
    ASSERT_FALSE(result.ok()) << text;
    EXPECT_NE(result.status().message().find("write one such as 30s"), std::string::npos);
  }
}

}  // namespace
}  // namespace moe::api
