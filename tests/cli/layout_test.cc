#include "cli/layout.h"

#include <optional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/model/forward.h"

namespace moe::cli {
namespace {

using ::testing::HasSubstr;

// OLMoE-1B-7B.
model::ModelConfig Olmoe() {
  model::ModelConfig config;
  config.hidden = 2048;
  config.intermediate = 1024;
  config.num_layers = 16;
  config.num_heads = config.num_kv_heads = 16;
  config.head_dim = 128;
  config.num_experts = 64;
  config.top_k = 8;
  config.vocab_size = 50304;
  config.max_positions = 4096;
  return config;
}

constexpr uint64_t kGiB = uint64_t{1} << 30;
constexpr uint64_t kWeightBytes = 13'840'000'000;
constexpr Machine kMachine{.num_cores = 2, .available_bytes = 23 * kGiB};

TEST(LayoutTest, AutomaticLayoutIsOneRankWithAllThreadsAndSaysWhy) {
  const auto layout = DecideLayout({}, kMachine, Olmoe(), kWeightBytes);
  ASSERT_TRUE(layout.ok()) << layout.status();
  EXPECT_EQ(layout->expert_parallel, 1);
  EXPECT_EQ(layout->attention_ranks, 1);
  EXPECT_EQ(layout->threads_per_attention_rank, 2);
  EXPECT_THAT(layout->reasons[0], HasSubstr("expert-parallel 1"));
}

TEST(LayoutTest, TheFoundingShapeFitsAMachineOf24GiB) {
  LayoutRequest request;
  request.expert_parallel = 64;
  const auto layout = DecideLayout(request, kMachine, Olmoe(), kWeightBytes);
  ASSERT_TRUE(layout.ok()) << layout.status();
  EXPECT_EQ(layout->attention_ranks, 1);
  // 128 KiB of cache for a token; weights, 64 processes and a reserve leave about 8 GiB.
  EXPECT_GT(layout->kv_tokens, 40'000u);
  EXPECT_LT(layout->kv_bytes_per_owner + kWeightBytes, kMachine.available_bytes);
}

TEST(LayoutTest, AnImpossibleRequestNamesTheOptionAndWhatIsAllowed) {
  struct Row {
    LayoutRequest request;
    const char* message;
  };
  LayoutRequest too_wide, no_ranks, many_owners, replicated, long_context, no_threads;
  too_wide.expert_parallel = 65;
  no_ranks.expert_parallel = 0;
  many_owners.expert_parallel = 4;
  many_owners.attention_ranks = 5;
  replicated.expert_parallel = 4;
  replicated.attention_ranks = 2;
  replicated.replicated_attention = true;
  long_context.max_context = 5000;
  no_threads.threads = 0;
  for (const Row& row : {Row{too_wide, "--expert-parallel 65 is not possible: it must be 1 to 64"},
                         Row{no_ranks, "--expert-parallel 0"},
                         Row{many_owners, "--attention-ranks 5 is not possible: it must be 1 to 4"},
                         Row{replicated, "--attention-ranks has no meaning"},
                         Row{long_context, "--max-context 5000"}, Row{no_threads, "--threads 0"}}) {
    const auto layout = DecideLayout(row.request, kMachine, Olmoe(), kWeightBytes);
    EXPECT_EQ(layout.status().code(), absl::StatusCode::kInvalidArgument) << row.message;
    EXPECT_THAT(std::string(layout.status().message()), HasSubstr(row.message));
  }
}

TEST(LayoutTest, OnAGpuTheWorkerDividesTheMemory) {
  LayoutRequest request;
  request.on_gpu = true;
  request.num_gpus = 1;
  // The machine's memory is not asked for: the weights go through it to the GPU.
  const Machine small{.num_cores = 2, .available_bytes = kGiB};
  const auto layout = DecideLayout(request, small, Olmoe(), kWeightBytes);
  ASSERT_TRUE(layout.ok()) << layout.status();
  EXPECT_EQ(layout->expert_parallel, 1);
  EXPECT_EQ(layout->kv_bytes_per_owner, 0u);
  EXPECT_THAT(layout->reasons, ::testing::Contains(HasSubstr("what the weights leave")));
  request.kv_bytes = 5 * kGiB;
  EXPECT_EQ(DecideLayout(request, small, Olmoe(), kWeightBytes)->kv_bytes_per_owner, 5 * kGiB);
  // Of all ranks together.
  request.num_gpus = 4;
  request.expert_parallel = 4;
  request.attention_ranks = 2;
  EXPECT_EQ(DecideLayout(request, small, Olmoe(), kWeightBytes)->kv_bytes_per_owner, 5 * kGiB / 2);
  request.attention_ranks = std::nullopt;
  request.replicated_attention = true;
  EXPECT_EQ(DecideLayout(request, small, Olmoe(), kWeightBytes)->kv_bytes_per_owner, 5 * kGiB);
}

TEST(LayoutTest, EachRankHasAGpuAndComputesAttentionThere) {
  struct Row {
    std::optional<int> expert_parallel;
    int num_gpus;
    bool share;
    std::vector<int> gpu_of_rank;
    int attention_ranks;
  };
  for (const Row& row : {Row{std::nullopt, 1, false, {0}, 1}, Row{std::nullopt, 8, false, {0}, 1},
                         Row{1, 2, false, {0}, 1}, Row{2, 2, false, {0, 1}, 2},
                         Row{4, 8, false, {0, 1, 2, 3}, 4}, Row{2, 2, true, {0, 1}, 2},
                         Row{2, 1, true, {0, 0}, 2}, Row{5, 2, true, {0, 1, 0, 1, 0}, 5}}) {
    SCOPED_TRACE(testing::Message()
                 << row.expert_parallel.value_or(0) << " ranks, " << row.num_gpus << " GPUs");
    LayoutRequest request;
    request.on_gpu = true;
    request.expert_parallel = row.expert_parallel;
    request.num_gpus = row.num_gpus;
    request.share_gpus = row.share;
    request.kv_bytes = kGiB;
    const auto layout = DecideLayout(request, kMachine, Olmoe(), kWeightBytes);
    ASSERT_TRUE(layout.ok()) << layout.status();
    EXPECT_EQ(layout->gpu_of_rank, row.gpu_of_rank);
    EXPECT_EQ(layout->attention_ranks, row.attention_ranks);
    // Sharing is said loudly, and only where it happens.
    const bool shares = layout->expert_parallel > row.num_gpus;
    ASSERT_EQ(layout->warnings.size(), shares ? 1U : 0U);
    if (shares) {
      EXPECT_THAT(layout->warnings[0], HasSubstr("--share-gpus"));
    }
  }
  const auto cpu = DecideLayout({}, kMachine, Olmoe(), kWeightBytes);
  ASSERT_TRUE(cpu.ok());
  EXPECT_TRUE(cpu->gpu_of_rank.empty());
}

TEST(LayoutTest, WhatGpusCantDoIsRefusedWithWhatToDo) {
  LayoutRequest gpus;
  gpus.on_gpu = true;
  gpus.num_gpus = 2;
  gpus.expert_parallel = 4;
  LayoutRequest no_memory = gpus;
  no_memory.share_gpus = true;
  LayoutRequest cpus;
  cpus.share_gpus = true;
  struct Row {
    LayoutRequest request;
    const char* message;
  };
  for (const Row& row :
       {Row{gpus,
            "--expert-parallel 4 is not possible with --backend cuda: each rank needs a GPU of its "
            "own, and workers see 2; use --expert-parallel 2"},
        Row{no_memory, "--share-gpus needs --kv-memory"},
        Row{cpus, "--share-gpus has no meaning with --backend cpu"}}) {
    const auto layout = DecideLayout(row.request, kMachine, Olmoe(), kWeightBytes);
    EXPECT_EQ(layout.status().code(), absl::StatusCode::kInvalidArgument) << row.message;
    EXPECT_THAT(std::string(layout.status().message()), HasSubstr(row.message));
  }
}

TEST(LayoutTest, AMachineThatIsTooSmallIsToldWhatTheWeightsTake) {
  const auto layout =
      DecideLayout({}, {.num_cores = 2, .available_bytes = 8 * kGiB}, Olmoe(), kWeightBytes);
  EXPECT_EQ(layout.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(layout.status().message()), HasSubstr("12.89 GiB of 8.00 GiB"));
}

TEST(LayoutTest, GivenKvMemoryIsDividedAmongOwnersInWholeBlocks) {
  LayoutRequest request;
  request.expert_parallel = 8;
  request.attention_ranks = 4;
  request.kv_bytes = 4 * kGiB;
  const auto layout = DecideLayout(request, kMachine, Olmoe(), kWeightBytes);
  ASSERT_TRUE(layout.ok()) << layout.status();
  EXPECT_EQ(layout->kv_bytes_per_owner, kGiB);
  EXPECT_EQ(layout->kv_bytes_per_owner % model::KvBlockBytes(Olmoe()), 0u);
  EXPECT_EQ(layout->kv_tokens, 32'768u);
}

TEST(LayoutTest, AmountsOfMemoryAreReadWithAllUnits) {
  struct Row {
    const char* text;
    std::optional<uint64_t> num_bytes;
  };
  for (const Row& row : {Row{"1000", 1000}, Row{"2G", 2'000'000'000}, Row{"2GB", 2'000'000'000},
                         Row{"512MiB", uint64_t{512} << 20}, Row{"1.5gib", 3 * kGiB / 2},
                         Row{"", std::nullopt}, Row{"x", std::nullopt}, Row{"-1G", std::nullopt},
                         Row{"1Gx", std::nullopt}, Row{"9999999T", std::nullopt}}) {
    const auto num_bytes = ParseBytes(row.text);
    EXPECT_EQ(num_bytes.ok(), row.num_bytes.has_value()) << row.text;
    if (num_bytes.ok()) {
      EXPECT_EQ(*num_bytes, row.num_bytes.value_or(0)) << row.text;
    }
  }
}

}  // namespace
}  // namespace moe::cli
