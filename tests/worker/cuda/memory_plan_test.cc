// Tests worker/cuda/memory_plan.h: what fits, and what is said where it does not.
#include "worker/cuda/memory_plan.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/cuda/weight_layout.h"
#include "worker/model/forward.h"
#include "worker/model/reference_model.h"

namespace moe::cuda {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr uint64_t kGiB = uint64_t{1} << 30;

DeviceMemory Memory(uint64_t total, uint64_t free) {
  return {.name = "GPU 0 (A GPU)", .free_bytes = free, .total_bytes = total, .share = 0.9};
}

RankNeeds Whole() { return {.num_local_experts = 64, .max_rows = 512, .max_positions = 4096}; }

std::string Message(const absl::Status& status) { return std::string(status.message()); }

TEST(MemoryPlanTest, WeightsAreThoseOfTheModelAndTheCacheTakesWhatIsLeft) {
  const auto plan = PlanMemory(model::OlmoeConfig(), Whole(), Memory(80 * kGiB, 79 * kGiB));
  ASSERT_TRUE(plan.ok()) << plan.status();
  // 6.919 B parameters as bf16, and the alignment of each tensor.
  EXPECT_NEAR(static_cast<double>(plan->attention_weight_bytes + plan->expert_weight_bytes),
              2 * 6.919e9, 2e7);
  EXPECT_NEAR(static_cast<double>(plan->expert_weight_bytes), 16.0 * 64 * 3 * 2048 * 1024 * 2, 1e6);
  // 90% of 80 GiB, of which 1 GiB is in use.
  EXPECT_LE(plan->num_bytes(), 71 * kGiB);
  EXPECT_GT(plan->num_bytes(), 71 * kGiB - 2 * model::KvBlockBytes(model::OlmoeConfig()));
  EXPECT_EQ(plan->kv_bytes / model::KvBlockBytes(model::OlmoeConfig()),
            static_cast<uint64_t>(plan->num_kv_blocks) + 1);
}

TEST(MemoryPlanTest, ACacheThatIsAskedForIsThatLarge) {
  RankNeeds needs = Whole();
  needs.kv_bytes = 5 * kGiB;
  const auto plan = PlanMemory(model::OlmoeConfig(), needs, Memory(80 * kGiB, 79 * kGiB));
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(static_cast<uint64_t>(plan->num_kv_blocks),
            5 * kGiB / model::KvBlockBytes(model::OlmoeConfig()));
}

TEST(MemoryPlanTest, ReplicatedRowsAreThoseOfOneRank) {
  RankNeeds needs = Whole();
  needs.num_local_experts = 8;
  needs.num_ranks = 8;
  const auto sharded = PlanMemory(model::OlmoeConfig(), needs, Memory(80 * kGiB, 79 * kGiB));
  needs.replicated = true;
  const auto replicated = PlanMemory(model::OlmoeConfig(), needs, Memory(80 * kGiB, 79 * kGiB));
  ASSERT_TRUE(sharded.ok()) << sharded.status();
  ASSERT_TRUE(replicated.ok()) << replicated.status();
  // The rows of seven others, gated: [512 rows x 8 experts, 1024] bf16 each.
  EXPECT_EQ(sharded->working_bytes - replicated->working_bytes, 7u * 512 * 8 * 1024 * 2);
}

TEST(MemoryPlanTest, ARankOfExpertsAloneHasNoCache) {
  RankNeeds needs = {.num_local_experts = 1,
                     .attention = false,
                     .num_ranks = 64,
                     .max_rows = 64,
                     .max_positions = 4096};
  const auto plan = PlanMemory(model::OlmoeConfig(), needs, Memory(80 * kGiB, 79 * kGiB));
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->num_kv_blocks, 0);
  EXPECT_EQ(plan->kv_bytes, 0u);
  EXPECT_EQ(plan->attention_weight_bytes, 0u);
  EXPECT_EQ(plan->expert_weight_bytes, WeightBytes(model::OlmoeConfig(), 1, false));
}

struct TooLittle {
  const char* name;
  uint64_t total_gib;
  uint64_t used_gib;
  RankNeeds needs;
  const char* fits;
};

class TooLittleMemoryTest : public testing::TestWithParam<TooLittle> {};

TEST_P(TooLittleMemoryTest, IsSaidWithWhatIsNeededByPartAndWhatWouldFit) {
  const TooLittle& param = GetParam();
  const auto plan =
      PlanMemory(model::OlmoeConfig(), param.needs,
                 Memory(param.total_gib * kGiB, (param.total_gib - param.used_gib) * kGiB));
  ASSERT_EQ(plan.status().code(), absl::StatusCode::kResourceExhausted) << plan.status();
  EXPECT_THAT(
      Message(plan.status()),
      AllOf(HasSubstr("GPU 0 (A GPU) has too little memory: "), HasSubstr("are needed ("),
            HasSubstr("0.89 GiB attention, embedding and head"), HasSubstr("12.00 GiB experts"),
            HasSubstr("working memory"), HasSubstr("KV cache of one sequence of"),
            HasSubstr("90% of"), HasSubstr(param.fits)));
}

RankNeeds Needs(int max_rows, int max_positions) {
  RankNeeds needs = Whole();
  needs.max_rows = max_rows;
  needs.max_positions = max_positions;
  return needs;
}

INSTANTIATE_TEST_SUITE_P(Cases, TooLittleMemoryTest,
                         testing::Values(TooLittle{"TheContextIsTooLong", 16, 1, Needs(64, 4096),
                                                   "it would fit with --max-context "},
                                         TooLittle{"TheStepsAreTooLarge", 16, 1, Needs(16384, 128),
                                                   "it would fit with --max-step-tokens "},
                                         TooLittle{"TheExpertsAreTooMany", 8, 0, Needs(64, 512),
                                                   "such GPUs that share the experts"},
                                         TooLittle{"NothingWouldDo", 1, 0, Needs(64, 512),
                                                   "no number of such GPUs would do"},
                                         TooLittle{"OthersUseIt", 80, 75, Needs(64, 512),
                                                   "of which 75.00 GiB are in use"}),
                         [](const auto& param) { return std::string(param.param.name); });

TEST(MemoryPlanTest, WhatIsSaidToFitDoesFit) {
  const DeviceMemory memory = Memory(16 * kGiB, 15 * kGiB);
  const auto refused = PlanMemory(model::OlmoeConfig(), Needs(64, 4096), memory);
  const std::string message = Message(refused.status());
  const std::string option = "--max-context ";
  const size_t at = message.find(option);
  ASSERT_NE(at, std::string::npos) << message;
  const int context = std::stoi(message.substr(at + option.size()));
  EXPECT_TRUE(PlanMemory(model::OlmoeConfig(), Needs(64, context), memory).ok());
  EXPECT_FALSE(PlanMemory(model::OlmoeConfig(), Needs(64, context + 33), memory).ok());
}

TEST(MemoryPlanTest, ACacheThatDoesNotFitIsRefusedWithTheRoomThatThereIs) {
  RankNeeds needs = Whole();
  needs.kv_bytes = 100 * kGiB;
  const auto plan = PlanMemory(model::OlmoeConfig(), needs, Memory(80 * kGiB, 79 * kGiB));
  ASSERT_EQ(plan.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Message(plan.status()), testing::ContainsRegex("has room for 5[78]\\."));
  needs.kv_bytes = 10;
  EXPECT_EQ(PlanMemory(model::OlmoeConfig(), needs, Memory(80 * kGiB, 79 * kGiB)).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(CheckModelTest, WhatTheKernelsCantRunIsNamed) {
  EXPECT_TRUE(CheckModel(model::OlmoeConfig()).ok());
  struct Case {
    void (*change)(model::ModelConfig*);
    const char* message;
  };
  for (const Case& c : std::vector<Case>{
           {[](model::ModelConfig* m) { m->head_dim = 100; }, "head_dim is 100"},
           {[](model::ModelConfig* m) { m->head_dim = 136; }, "head_dim is 136"},
           {[](model::ModelConfig* m) { m->num_experts = 1025; }, "1025 experts"},
           {[](model::ModelConfig* m) { m->top_k = 33; }, "top-33"},
           {[](model::ModelConfig* m) { m->vocab_size = 600000; }, "600000 tokens"}}) {
    model::ModelConfig config = model::OlmoeConfig();
    c.change(&config);
    const absl::Status status = CheckModel(config);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(Message(status), AllOf(HasSubstr(c.message), HasSubstr("--backend cpu")));
  }
}

}  // namespace
}  // namespace moe::cuda
