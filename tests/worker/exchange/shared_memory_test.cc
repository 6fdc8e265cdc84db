// What only the shared-memory exchange has: ranks that spin or take turns, and its bootstrap. The
// rest is in epoch_exchange_test.cc.
#include "worker/exchange/shared_memory.h"

#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker/exchange/group_steps.h"

namespace moe::exchange {
namespace {

using ::testing::HasSubstr;

TEST(SharedMemoryTest, MoreRanksThanOneWordOfBitsGiveTheReferenceResults) {
  std::mt19937 random(7);
  GroupShape shape = RandomShape(130, 3, random);
  ThreadGroup threads(shape);
  RunSteps(threads, 2, 8);
}

TEST(SharedMemoryTest, SpinningRanksGiveTheReferenceResults) {
  std::mt19937 random(11);
  ThreadGroup threads(RandomShape(3, 2, random), {.step_deadline = absl::Minutes(2),
                                                  .join_deadline = absl::Minutes(2),
                                                  .spin = absl::Microseconds(50)});
  RunSteps(threads, 5, 12);
}

TEST(SharedMemoryTest, RanksThatTakeTurnsGiveTheReferenceResults) {
  std::mt19937 random(14);
  for (const int num_owners : {1, 2, 8, 64}) {
    // Core 1000 is on no machine of these tests: ranks then stay where they are.
    for (const std::vector<int>& cores :
         {AllowedCores(), {AllowedCores()[0]}, {1000, 1001, 1002}}) {
      SCOPED_TRACE(absl::StrCat(num_owners, " owners on ", cores.size(), " cores"));
      SharedMemoryOptions options = kPatient;
      options.cores = cores;
      ThreadGroup threads(RandomShape(64, num_owners, random), options);
      RunSteps(threads, 3, static_cast<uint32_t>(random()));
    }
  }
}

TEST(SharedMemoryTest, CreateAndOpenRefuseWhatCannotBe) {
  GroupShape shape = SmallShape(2, 1);
  FakeExperts experts(shape, 0);
  auto leader = SharedMemoryGroup::Create(shape, 3, &experts, {});
  ASSERT_TRUE(leader.ok()) << leader.status();
  const std::string bootstrap = (*leader)->bootstrap();
  for (const int rank : {-1, 0, 2}) {
    EXPECT_EQ(SharedMemoryGroup::Open(bootstrap, shape, 3, rank, &experts, {}).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
  EXPECT_TRUE(SharedMemoryGroup::Open(bootstrap, shape, 3, 1, &experts, {}).ok());
  EXPECT_EQ(SharedMemoryGroup::Open(bootstrap, shape, 4, 1, &experts, {}).status().code(),
            absl::StatusCode::kFailedPrecondition);
  shape.top_k = 0;
  EXPECT_THAT(SharedMemoryGroup::Create(shape, 3, &experts, {}).status().ToString(),
              HasSubstr("top_k"));
}

}  // namespace
}  // namespace moe::exchange
