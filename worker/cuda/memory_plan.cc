#include "worker/cuda/memory_plan.h"

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/attention.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/draw.h"
#include "kernels/cuda/router.h"
#include "worker/cuda/buffers.h"
#include "worker/cuda/weight_layout.h"
#include "worker/model/forward.h"

namespace moe::cuda {
namespace {

// Block indices are 32 bits wide, and so are slots.
constexpr uint64_t kMaxKvBlocks = uint64_t{1} << 24;
constexpr int kLeastRows = 16;

std::string Gibibytes(uint64_t num_bytes) {
  return absl::StrFormat("%.2f GiB", static_cast<double>(num_bytes) / (1 << 30));
}

int BlocksOf(int num_tokens) {
  return (num_tokens + kernels::kKvBlockTokens - 1) / kernels::kKvBlockTokens;
}

// All but the KV cache.
MemoryPlan FixedParts(const model::ModelConfig& config, const RankNeeds& needs) {
  MemoryPlan plan;
  if (needs.attention) plan.attention_weight_bytes = WeightBytes(config, 0, true);
  plan.expert_weight_bytes = WeightBytes(config, needs.num_local_experts, false);
  const RankSizes sizes = SizesFor(config, needs.max_rows, needs.max_positions,
                                   MaxPairs(config, needs.num_local_experts, needs.max_rows,
                                            NumSources(needs.num_ranks, needs.replicated)));
  Bump working;
  if (needs.attention) {
    LayOutDecoder(config, sizes, &working);
    // Block tables: every block of the cache at most once, which the cache's own size covers.
    working.Take<std::byte>(static_cast<int64_t>(StepBytes(LargestStep(sizes), 0)));
  }
  LayOutExperts(config, sizes, needs.num_local_experts, &working);
  plan.working_bytes = working.num_bytes();
  Bump exchange;
  if (needs.num_ranks == 1) LayOutLocalExchange(config, sizes, &exchange);
  plan.exchange_bytes = exchange.num_bytes() + needs.exchange_bytes;
  return plan;
}

// Of one KV block: itself and its place in a step's block table.
uint64_t BlockBytes(const model::ModelConfig& config) {
  return model::KvBlockBytes(config) + sizeof(int32_t);
}

// The bytes of `num_blocks` blocks and the spare one.
uint64_t CacheBytes(const model::ModelConfig& config, uint64_t num_blocks) {
  return (num_blocks + 1) * BlockBytes(config) + Bump::kAlignment;
}

// What a rank takes at least.
uint64_t LeastBytes(const model::ModelConfig& config, const RankNeeds& needs) {
  const uint64_t fixed = FixedParts(config, needs).num_bytes();
  if (!needs.attention) return fixed;
  return fixed + CacheBytes(config, static_cast<uint64_t>(BlocksOf(needs.max_positions)));
}

// What to change so that it fits; one sentence.
std::string WhatWouldFit(const model::ModelConfig& config, const RankNeeds& needs,
                         uint64_t budget) {
  const uint64_t fixed = FixedParts(config, needs).num_bytes();
  if (fixed + CacheBytes(config, 1) <= budget) {
    const uint64_t blocks = (budget - fixed - CacheBytes(config, 0)) / BlockBytes(config);
    return absl::StrFormat("it would fit with --max-context %d", blocks * kernels::kKvBlockTokens);
  }
  RankNeeds smaller = needs;
  for (smaller.max_rows = needs.max_rows / 2; smaller.max_rows >= kLeastRows;
       smaller.max_rows /= 2) {
    if (LeastBytes(config, smaller) <= budget) {
      return absl::StrFormat("it would fit with --max-step-tokens %d", smaller.max_rows);
    }
  }
  for (RankNeeds spread = needs; spread.num_ranks < config.num_experts;) {
    ++spread.num_ranks;
    spread.num_local_experts = (config.num_experts + spread.num_ranks - 1) / spread.num_ranks;
    if (LeastBytes(config, spread) <= budget) {
      return absl::StrFormat("it would fit on %d such GPUs that share the experts",
                             spread.num_ranks);
    }
  }
  return "no number of such GPUs would do: what is not an expert does not fit one of them";
}

}  // namespace

int MaxPairs(const model::ModelConfig& config, int num_local_experts, int max_rows,
             int num_sources) {
  return max_rows * std::min(config.top_k, num_local_experts) * num_sources;
}

absl::Status CheckModel(const model::ModelConfig& config) {
  if (config.head_dim % 8 != 0 || config.head_dim > kernels::cuda::kMaxHeadDim) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "the model's head_dim is %d; the GPU's attention takes multiples of 8 up to %d: use "
        "--backend cpu",
        config.head_dim, kernels::cuda::kMaxHeadDim));
  }
  if (config.num_experts > kernels::cuda::kMaxExperts || config.top_k > kernels::cuda::kMaxTopK) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "the model has %d experts, top-%d; the GPU's router takes up to %d, top-%d: use --backend "
        "cpu",
        config.num_experts, config.top_k, kernels::cuda::kMaxExperts, kernels::cuda::kMaxTopK));
  }
  if (config.vocab_size > kernels::cuda::kMaxVocab) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "the model's vocabulary has %d tokens; the GPU draws from up to %d: use --backend cpu",
        config.vocab_size, kernels::cuda::kMaxVocab));
  }
  return absl::OkStatus();
}

absl::StatusOr<MemoryPlan> PlanMemory(const model::ModelConfig& config, const RankNeeds& needs,
                                      const DeviceMemory& memory) {
  const auto allowed =
      static_cast<uint64_t>(memory.share * static_cast<double>(memory.total_bytes));
  const uint64_t used = memory.total_bytes - memory.free_bytes;
  const uint64_t budget = allowed > used ? allowed - used : 0;
  MemoryPlan plan = FixedParts(config, needs);
  const uint64_t fixed = plan.num_bytes();
  const uint64_t least = LeastBytes(config, needs);
  if (least > budget) {
    return absl::ResourceExhaustedError(
        absl::StrCat(memory.name, " has too little memory: ", Gibibytes(least), " are needed (",
                     Gibibytes(plan.attention_weight_bytes), " attention, embedding and head, ",
                     Gibibytes(plan.expert_weight_bytes), " experts, ",
                     Gibibytes(plan.working_bytes + plan.exchange_bytes), " working memory, ",
                     Gibibytes(least - fixed), " KV cache of one sequence of ", needs.max_positions,
                     " tokens), and ", Gibibytes(budget), " may be used: ",
                     absl::StrFormat("%.0f%% of %s, of which %s are in use; ", memory.share * 100,
                                     Gibibytes(memory.total_bytes), Gibibytes(used)),
                     WhatWouldFit(config, needs, budget)));
  }
  if (!needs.attention) return plan;
  uint64_t num_blocks = (budget - fixed - CacheBytes(config, 0)) / BlockBytes(config);
  if (needs.kv_bytes > 0) {
    const uint64_t wanted = needs.kv_bytes / model::KvBlockBytes(config);
    if (wanted < 1) {
      return absl::InvalidArgumentError(
          absl::StrFormat("a KV cache of %d bytes holds nothing: one block of %d tokens takes %d",
                          needs.kv_bytes, kernels::kKvBlockTokens, model::KvBlockBytes(config)));
    }
    if (wanted > num_blocks) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "a KV cache of ", Gibibytes(needs.kv_bytes),
          " was asked for; beside weights and working "
          "memory ",
          memory.name, " has room for ", Gibibytes(num_blocks * model::KvBlockBytes(config))));
    }
    num_blocks = wanted;
  }
  num_blocks = std::min(num_blocks, kMaxKvBlocks);
  plan.num_kv_blocks = static_cast<int>(num_blocks);
  plan.kv_bytes = CacheBytes(config, num_blocks);
  return plan;
}

std::string Describe(const MemoryPlan& plan, const DeviceMemory& memory) {
  return absl::StrCat(memory.name, ": ", Gibibytes(plan.attention_weight_bytes),
                      " attention, embedding and head, ", Gibibytes(plan.expert_weight_bytes),
                      " experts, ", Gibibytes(plan.working_bytes + plan.exchange_bytes),
                      " working memory, ", Gibibytes(plan.kv_bytes), " KV cache (",
                      int64_t{plan.num_kv_blocks} * kernels::kKvBlockTokens, " tokens), of ",
                      Gibibytes(memory.free_bytes), " free");
}

}  // namespace moe::cuda
