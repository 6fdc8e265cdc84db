// Plans of whole groups: what one rank sends is what the other receives, nothing overlaps, and
// everything lies within its buffer.
#include "worker/exchange/nccl/layer_plan.h"

#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/worker/exchange/fake_group.h"
#include "worker/exchange/nccl/step_pattern.h"

namespace moe::exchange {
namespace {

using Kind = Transfer::Kind;

size_t CapacityOf(const GroupShape& shape, int rank, ExchangeBuffer buffer, int slot_rows) {
  const BufferSizes sizes = SizesOfBuffers(shape, rank, slot_rows);
  const size_t row = sizeof(kernels::BFloat16) * shape.hidden;
  switch (buffer) {
    case ExchangeBuffer::kRows:
      return row * sizes.rows;
    case ExchangeBuffer::kExpertIds:
      return sizeof(int32_t) * sizes.expert_ids;
    case ExchangeBuffer::kAllExpertIds:
      return sizeof(int32_t) * sizes.all_expert_ids;
    case ExchangeBuffer::kInput:
      return row * sizes.input;
    case ExchangeBuffer::kPacked:
      return row * sizes.packed;
    case ExchangeBuffer::kOutputs:
      return row * sizes.outputs;
    case ExchangeBuffer::kReturned:
      return row * sizes.returned;
  }
  return 0;
}

// Checks the plans of all ranks against each other.
void CheckPlans(const GroupShape& shape, const std::vector<LayerPlan>& plans, int slot_rows) {
  std::map<std::pair<int, int>, std::vector<size_t>> sent, received;  // by (from, to)
  std::vector<std::vector<std::tuple<Kind, int, size_t>>> collectives(plans.size());
  for (int rank = 0; rank < static_cast<int>(plans.size()); ++rank) {
    std::map<ExchangeBuffer, std::vector<std::pair<size_t, size_t>>> written;
    for (const PlannedTransfer& transfer : plans[rank]) {
      ASSERT_GT(transfer.num_bytes, 0u);
      const bool is_gather = transfer.kind == Kind::kAllGather;
      if (transfer.kind != Kind::kReceive) {
        EXPECT_LE(transfer.from_offset + transfer.num_bytes,
                  CapacityOf(shape, rank, transfer.from, slot_rows));
      }
      if (transfer.kind != Kind::kSend) {
        const size_t bytes = transfer.num_bytes * (is_gather ? shape.num_ranks : 1);
        EXPECT_LE(transfer.to_offset + bytes, CapacityOf(shape, rank, transfer.to, slot_rows));
        written[transfer.to].emplace_back(transfer.to_offset, transfer.to_offset + bytes);
      }
      if (transfer.kind == Kind::kSend) {
        ASSERT_NE(transfer.peer, rank);
        sent[{rank, transfer.peer}].push_back(transfer.num_bytes);
      } else if (transfer.kind == Kind::kReceive) {
        ASSERT_NE(transfer.peer, rank);
        received[{transfer.peer, rank}].push_back(transfer.num_bytes);
      } else {
        collectives[rank].emplace_back(transfer.kind, transfer.peer, transfer.num_bytes);
      }
    }
    for (auto& [buffer, ranges] : written) {
      std::sort(ranges.begin(), ranges.end());
      for (size_t i = 1; i < ranges.size(); ++i) {
        EXPECT_LE(ranges[i - 1].second, ranges[i].first) << "rank " << rank;
      }
    }
  }
  EXPECT_EQ(sent, received);
  for (const auto& own : collectives) EXPECT_EQ(own, collectives[0]);
}

struct Group {
  GroupShape shape;
  std::vector<int> count;  // [num sources]
  int stride = 0;
};

// Calls body with groups of every width and number of owners, some of which have no rows.
template <typename Body>
void ForGroups(bool replicated, Body body) {
  std::mt19937 random(8);
  for (const int num_ranks : {1, 2, 3, 4, 8, 64}) {
    for (const int num_owners : {1, (num_ranks + 1) / 2, num_ranks}) {
      SCOPED_TRACE(absl::StrCat(num_owners, " of ", num_ranks, " ranks own rows"));
      Group group{.shape = RandomShape(num_ranks, num_owners, random), .count = {}};
      group.shape.replicated = replicated;
      for (int source = 0; source < NumSources(group.shape); ++source) {
        group.count.push_back(static_cast<int>(random() % (group.shape.max_rows + 1)));
      }
      group.count[0] = group.shape.max_rows;
      group.stride = group.shape.max_rows;
      body(group, random);
    }
  }
}

TEST(LayerPlanTest, GatheredRowsComeToAllRanksOnce) {
  ForGroups(false, [](const Group& group, std::mt19937&) {
    std::vector<LayerPlan> plans(group.shape.num_ranks);
    for (int rank = 0; rank < group.shape.num_ranks; ++rank) {
      PlanGather(group.shape, rank, group.count, group.stride, 2 * group.shape.hidden,
                 ExchangeBuffer::kRows, ExchangeBuffer::kInput, &plans[rank]);
      PlanGather(group.shape, rank, group.count, group.stride, 4 * group.shape.top_k,
                 ExchangeBuffer::kExpertIds, ExchangeBuffer::kAllExpertIds, &plans[rank]);
    }
    CheckPlans(group.shape, plans, group.stride);
    // Only owners that have rows send.
    if (group.shape.num_ranks == 1) {
      EXPECT_TRUE(plans[0].empty());
    } else if (NumSources(group.shape) < group.shape.num_ranks) {
      const auto with_rows = std::count_if(group.count.begin(), group.count.end(),
                                           [](int count) { return count > 0; });
      EXPECT_EQ(plans[0].size(), 2 * static_cast<size_t>(with_rows));
    } else {
      EXPECT_EQ(plans[0].size(), 2u);
    }
  });
}

TEST(LayerPlanTest, SlotsComeBackToTheOwnersOfTheirRows) {
  ForGroups(false, [](const Group& group, std::mt19937&) {
    const std::vector<int32_t> slots = SlotsOfRanks(group.shape);
    std::vector<LayerPlan> plans;
    for (int rank = 0; rank < group.shape.num_ranks; ++rank) {
      plans.push_back(PlanSlotsBack(group.shape, rank, group.count, group.stride, slots));
      for (const PlannedTransfer& transfer : plans.back()) {
        if (transfer.kind != Kind::kReceive) continue;
        EXPECT_EQ(transfer.num_bytes,
                  size_t{2} * group.shape.hidden * group.count[rank] * slots[transfer.peer]);
      }
    }
    CheckPlans(group.shape, plans, group.stride);
  });
}

TEST(LayerPlanTest, ExactNumbersGoWhereTheyAreExpected) {
  ForGroups(false, [](const Group& group, std::mt19937& random) {
    const int num_ranks = group.shape.num_ranks;
    const int num_sources = NumSources(group.shape);
    // Rows of source s for rank d, as the kernels would count them.
    std::vector<std::vector<int32_t>> out(num_sources, std::vector<int32_t>{0});
    std::vector<std::vector<int32_t>> in(num_ranks, std::vector<int32_t>{0});
    for (int s = 0; s < num_sources; ++s) {
      for (int d = 0; d < num_ranks; ++d) {
        const auto count = static_cast<int32_t>(
            random() % (group.count[s] * std::min(group.shape.top_k, num_ranks) / num_ranks + 1));
        out[s].push_back(out[s].back() + count);
        in[d].push_back(in[d].back() + count);
      }
    }
    std::vector<LayerPlan> plans;
    for (int rank = 0; rank < num_ranks; ++rank) {
      const std::vector<int32_t> none;
      plans.push_back(PlanExact(rank, rank < num_sources ? out[rank] : none, in[rank],
                                2 * group.shape.hidden, ExchangeBuffer::kPacked,
                                ExchangeBuffer::kInput));
    }
    CheckPlans(group.shape, plans, group.stride);
  });
}

TEST(LayerPlanTest, NobodySendsToItselfAndNothingIsSentForNothing) {
  EXPECT_EQ(PlanExact(0, std::vector<int32_t>{0, 5, 5, 7}, std::vector<int32_t>{0, 5}, 4,
                      ExchangeBuffer::kPacked, ExchangeBuffer::kInput),
            (LayerPlan{{.kind = Kind::kSend,
                        .peer = 2,
                        .from = ExchangeBuffer::kPacked,
                        .from_offset = 20,
                        .num_bytes = 8}}));
  EXPECT_TRUE(PlanExact(0, {}, {}, 4, ExchangeBuffer::kPacked, ExchangeBuffer::kInput).empty());
}

TEST(LayerPlanTest, ReplicatedOutputsComeToAllRanks) {
  ForGroups(true, [](const Group& group, std::mt19937& random) {
    const std::vector<int32_t> slots = SlotsOfRanks(group.shape);
    const std::vector<LayerPlan> in_slots(group.shape.num_ranks,
                                          PlanReplicatedSlots(group.shape, group.count[0], slots));
    CheckPlans(group.shape, in_slots, group.stride);
    EXPECT_EQ(in_slots[0].size(), group.shape.num_ranks == 1 ? 0u : 1u);
    std::vector<int32_t> bounds = {0};
    for (int rank = 0; rank < group.shape.num_ranks; ++rank) {
      bounds.push_back(
          bounds.back() +
          static_cast<int32_t>(random() %
                               (group.count[0] * group.shape.top_k / group.shape.num_ranks + 1)));
    }
    CheckPlans(
        group.shape,
        std::vector<LayerPlan>(group.shape.num_ranks, PlanReplicatedExact(group.shape, bounds)),
        group.stride);
  });
}

}  // namespace
}  // namespace moe::exchange
