#include "controller/api/timestamp.h"

#include "absl/time/civil_time.h"
#include "gtest/gtest.h"

namespace moe::api {
namespace {

const absl::Time kTime =
    absl::FromCivil(absl::CivilSecond(2026, 11, 28, 16, 5, 0), absl::UTCTimeZone());

TEST(Timestamp, IsUtcWithAsManyDigitsAsItTakes) {
  EXPECT_EQ(FormatTimestamp(kTime), "2026-11-28T16:05:00Z");
  EXPECT_EQ(FormatTimestamp(kTime + absl::Milliseconds(250)), "2026-11-28T16:05:00.25Z");
  EXPECT_EQ(FormatTimestamp(kTime + absl::Nanoseconds(1)), "2026-11-28T16:05:00.000000001Z");
}

TEST(Timestamp, ComesBackAsItWas) {
  for (const absl::Time time :
       {kTime, kTime + absl::Milliseconds(250), kTime + absl::Nanoseconds(1), absl::UnixEpoch(),
        absl::InfinitePast(), absl::InfiniteFuture()}) {
    EXPECT_EQ(ParseTimestamp(FormatTimestamp(time)).value(), time) << FormatTimestamp(time);
  }
}

TEST(Timestamp, AnyOffsetIsRead) {
  EXPECT_EQ(ParseTimestamp("2026-11-28T17:05:00+01:00").value(), kTime);
  EXPECT_EQ(ParseTimestamp("2026-11-28T16:05:00.000000Z").value(), kTime);
}

TEST(Timestamp, RefusesOtherTexts) {
  for (const char* text : {"", "infinite-future", " 2026-11-28T16:05:00Z", "2026-11-28",
                           "2026-11-28T16:05:00", "1764345900", "2026-13-28T16:05:00Z"}) {
    EXPECT_FALSE(ParseTimestamp(text).ok()) << text;
  }
}

}  // namespace
}  // namespace moe::api
