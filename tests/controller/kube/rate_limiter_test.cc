#include "controller/kube/rate_limiter.h"

#include "gtest/gtest.h"

namespace moe::kube {
namespace {

const absl::Time kStart = absl::UnixEpoch();

TEST(RateLimiterTest, ABurstPassesAndTheRestWaitsInLine) {
  RateLimiter limiter(10, 3);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(limiter.Reserve(kStart), absl::ZeroDuration());
  }
  EXPECT_EQ(limiter.Reserve(kStart), absl::Milliseconds(100));
  EXPECT_EQ(limiter.Reserve(kStart), absl::Milliseconds(200));
  limiter.Return();
  EXPECT_EQ(limiter.Reserve(kStart), absl::Milliseconds(200));
}

TEST(RateLimiterTest, TokensComeBackUpToTheBurst) {
  RateLimiter limiter(10, 3);
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(limiter.TryTake(kStart));
  }
  EXPECT_FALSE(limiter.TryTake(kStart));
  EXPECT_FALSE(limiter.IsFull(kStart));
  EXPECT_TRUE(limiter.TryTake(kStart + absl::Milliseconds(150)));
  EXPECT_FALSE(limiter.TryTake(kStart + absl::Milliseconds(150)));
  EXPECT_TRUE(limiter.IsFull(kStart + absl::Hours(1)));
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(limiter.TryTake(kStart + absl::Hours(1)));
  }
  EXPECT_FALSE(limiter.TryTake(kStart + absl::Hours(1)));
}

}  // namespace
}  // namespace moe::kube
