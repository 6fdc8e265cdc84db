#include "controller/coordinator/placement.h"

#include <algorithm>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::coordinator {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(PlacementTest, BlocksAreContiguousBalancedAndCoverEveryExpert) {
  for (int num_experts = 1; num_experts <= 70; ++num_experts) {
    for (int num_slots = 1; num_slots <= num_experts; ++num_slots) {
      const auto placement = PlaceInBlocks(num_experts, num_slots);
      ASSERT_TRUE(placement.ok());
      ASSERT_TRUE(CheckPlacement(*placement).ok());
      size_t fewest = static_cast<size_t>(num_experts);
      size_t most = 0;
      int next = 0;
      for (int slot = 0; slot < num_slots; ++slot) {
        const std::vector<int> experts = ExpertsOfSlot(*placement, slot);
        for (int expert : experts) ASSERT_EQ(expert, next++);
        fewest = std::min(fewest, experts.size());
        most = std::max(most, experts.size());
      }
      ASSERT_EQ(next, num_experts);
      ASSERT_LE(most - fewest, 1u) << num_experts << " experts in " << num_slots;
    }
  }
}

TEST(PlacementTest, OneSlotPerExpertIsTheIdentity) {
  const auto placement = PlaceInBlocks(64, 64);
  ASSERT_TRUE(placement.ok());
  for (int i = 0; i < 64; ++i) EXPECT_THAT(ExpertsOfSlot(*placement, i), ElementsAre(i));
}

TEST(PlacementTest, WidthsThatCannotBeAreRefused) {
  for (int num_slots : {-1, 0, 65}) {
    const auto placement = PlaceInBlocks(64, num_slots);
    EXPECT_EQ(placement.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(placement.status().message()), HasSubstr("1 to 64"));
  }
}

TEST(PlacementTest, HolesStraysAndDoublesAreFound) {
  const struct {
    const char* name;
    Placement placement;
    const char* message;
  } kCases[] = {
      {"an expert without a slot", {2, {{0}, {}}}, "expert 1 has no slot"},
      {"a slot above the range", {2, {{0}, {2}}}, "outside 0 to 1"},
      {"a slot below the range", {2, {{-1}, {1}}}, "outside 0 to 1"},
      {"a slot named twice", {2, {{0, 0}, {1}}}, "twice"},
  };
  for (const auto& c : kCases) {
    const absl::Status status = CheckPlacement(c.placement);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.name;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.message)) << c.name;
  }
}

TEST(PlacementTest, SpareCopiesBelongToEverySlotThatHoldsThem) {
  const Placement placement = {2, {{0, 1}, {1}, {1, 0}}};
  EXPECT_TRUE(CheckPlacement(placement).ok());
  EXPECT_THAT(ExpertsOfSlot(placement, 0), ElementsAre(0, 2));
  EXPECT_THAT(ExpertsOfSlot(placement, 1), ElementsAre(0, 1, 2));
}

}  // namespace
}  // namespace moe::coordinator
