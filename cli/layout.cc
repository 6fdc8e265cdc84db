#include "cli/layout.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "worker/model/forward.h"

namespace moe::cli {
namespace {

// What a rank's process needs beside weights and KV cache: code, gRPC, buffers. Measured: 20 MiB.
constexpr uint64_t kProcessBytes = uint64_t{24} << 20;
// Left to the rest of the machine.
constexpr uint64_t kReserveBytes = uint64_t{512} << 20;

absl::Status CheckRange(absl::string_view option, int value, int low, int high,
                        absl::string_view why) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat(
      "%s %d is not possible: it must be %d to %d (%s)", option, value, low, high, why));
}

std::string WhyOneRank(const LayoutRequest& request) {
  if (!request.on_gpu) {
    return "expert-parallel 1: the ranks of one machine share its cores and memory, so more "
           "processes only add their exchange to each step";
  }
  return absl::StrCat("expert-parallel 1: one GPU of ", request.num_gpus,
                      " holds all experts; `moe plan` compares it with more");
}

// A GPU for each rank, or what is wrong.
absl::Status AssignGpus(const LayoutRequest& request, Layout* layout) {
  const int num_ranks = layout->expert_parallel;
  if (num_ranks > request.num_gpus) {
    if (!request.share_gpus) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "--expert-parallel %d is not possible with --backend cuda: each rank needs a GPU of its "
          "own, and workers see %d; use --expert-parallel %d, or --backend cpu, or, for tests "
          "alone, --share-gpus",
          num_ranks, request.num_gpus, request.num_gpus));
    }
    if (!request.kv_bytes.has_value()) {
      return absl::InvalidArgumentError(
          "--share-gpus needs --kv-memory: ranks that share a GPU can't each take what is left of "
          "its memory");
    }
    layout->warnings.push_back(absl::StrFormat(
        "%d ranks share %d GPUs (--share-gpus): for tests; rows go over sockets instead of NVLink, "
        "and ranks wait for each other's kernels",
        num_ranks, request.num_gpus));
  }
  for (int rank = 0; rank < num_ranks; ++rank) {
    layout->gpu_of_rank.push_back(rank % request.num_gpus);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Layout> DecideLayout(const LayoutRequest& request, const Machine& machine,
                                    const model::ModelConfig& config, uint64_t weight_bytes) {
  Layout layout;
  layout.expert_parallel = request.expert_parallel.value_or(1);
  if (absl::Status status =
          CheckRange("--expert-parallel", layout.expert_parallel, 1, config.num_experts,
                     absl::StrCat("the model has ", config.num_experts, " experts"));
      !status.ok()) {
    return status;
  }
  if (request.on_gpu) {
    if (absl::Status status = AssignGpus(request, &layout); !status.ok()) return status;
  } else if (request.share_gpus) {
    return absl::InvalidArgumentError("--share-gpus has no meaning with --backend cpu");
  }
  if (!request.expert_parallel.has_value()) layout.reasons.push_back(WhyOneRank(request));
  layout.attention_ranks =
      request.attention_ranks.value_or(request.on_gpu ? layout.expert_parallel : 1);
  if (absl::Status status =
          CheckRange("--attention-ranks", layout.attention_ranks, 1, layout.expert_parallel,
                     absl::StrCat("there are ", layout.expert_parallel, " ranks"));
      !status.ok()) {
    return status;
  }
  if (request.replicated_attention) {
    if (request.attention_ranks.has_value()) {
      return absl::InvalidArgumentError(
          "--attention-ranks has no meaning with --attention replicated, where every rank computes "
          "attention; leave it out");
    }
    layout.attention_ranks = layout.expert_parallel;
  } else if (!request.attention_ranks.has_value() && layout.expert_parallel > 1) {
    layout.reasons.emplace_back(
        request.on_gpu
            ? absl::StrCat("attention-ranks ", layout.attention_ranks,
                           ": each GPU computes attention, and its memory holds KV cache")
            : "attention-ranks 1: one rank with all threads computes attention as fast as several "
              "that share them, and needs fewer messages");
  }

  const int threads = request.threads.value_or(machine.num_cores);
  if (absl::Status status = CheckRange("--threads", threads, 1, 1024, "threads of this machine");
      !status.ok()) {
    return status;
  }
  layout.threads_per_attention_rank = std::max(1, threads / layout.attention_ranks);
  if (absl::Status status =
          CheckRange("--max-sequences", request.max_sequences, 1, 4096, "sequences in one step");
      !status.ok()) {
    return status;
  }
  if (absl::Status status =
          CheckRange("--max-step-tokens", request.max_step_tokens, 1, 16384, "rows in one step");
      !status.ok()) {
    return status;
  }
  if (request.max_context != 0) {
    if (absl::Status status = CheckRange("--max-context", request.max_context, 1,
                                         config.max_positions, "positions of the model");
        !status.ok()) {
      return status;
    }
  }

  if (request.on_gpu) {
    // The worker knows the GPU's memory, and refuses what does not fit.
    // Replicated ranks each hold every sequence.
    const int num_shards = request.replicated_attention ? 1 : layout.attention_ranks;
    layout.kv_bytes_per_owner = request.kv_bytes.value_or(0) / static_cast<uint64_t>(num_shards);
    if (!request.kv_bytes.has_value()) {
      layout.reasons.emplace_back("KV cache: what the weights leave of the GPU's memory");
    }
    return layout;
  }
  const uint64_t context = request.max_context != 0 ? request.max_context : config.max_positions;
  const uint64_t block_bytes = model::KvBlockBytes(config);
  const auto blocks_of = [](uint64_t tokens) {
    return (tokens + kernels::kKvBlockTokens - 1) / kernels::kKvBlockTokens;
  };
  const uint64_t num_owners = layout.attention_ranks;
  // Replicated ranks each hold every sequence.
  const uint64_t copies = request.replicated_attention ? num_owners : 1;
  const uint64_t shards = request.replicated_attention ? 1 : num_owners;
  const uint64_t wanted = blocks_of(context) * block_bytes *
                          ((uint64_t(request.max_sequences) + shards - 1) / shards) * shards;
  uint64_t total = 0;
  if (request.kv_bytes.has_value()) {
    total = *request.kv_bytes;
  } else {
    const uint64_t taken = weight_bytes + kReserveBytes +
                           kProcessBytes * static_cast<uint64_t>(layout.expert_parallel);
    const uint64_t free = machine.available_bytes > taken ? machine.available_bytes - taken : 0;
    total = std::min(wanted, free / copies);
    layout.reasons.push_back(
        absl::StrFormat("KV cache %s: %s", FormatBytes(total),
                        total == wanted ? absl::StrFormat("enough for %d sequences of %d tokens",
                                                          request.max_sequences, context)
                                        : "what is left beside the weights"));
  }
  const uint64_t least = blocks_of(std::min<uint64_t>(context, 256)) * block_bytes;
  layout.kv_bytes_per_owner = total / shards / block_bytes * block_bytes;
  if (layout.kv_bytes_per_owner < least) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "the KV cache of one attention rank would be %s, and %s is the least that makes sense. "
        "The weights take %s of %s available; give --kv-memory, fewer --attention-ranks, or a "
        "machine with more memory",
        FormatBytes(total / shards), FormatBytes(least), FormatBytes(weight_bytes),
        FormatBytes(machine.available_bytes)));
  }
  layout.kv_tokens =
      layout.kv_bytes_per_owner / block_bytes * shards * uint64_t{kernels::kKvBlockTokens};
  return layout;
}

absl::StatusOr<uint64_t> ParseBytes(absl::string_view text) {
  const size_t end = text.find_first_not_of("0123456789.");
  const absl::string_view digits = text.substr(0, end);
  std::string unit = end == absl::string_view::npos ? "" : absl::AsciiStrToLower(text.substr(end));
  if (!unit.empty() && unit.back() == 'b') unit.pop_back();
  double factor = 0;
  if (unit.empty()) {
    factor = 1;
  } else {
    const double base = unit.size() == 2 && unit[1] == 'i' ? 1024 : 1000;
    const size_t power = std::string("kmgt").find(unit[0]);
    if (power != std::string::npos && (unit.size() == 1 || base == 1024)) {
      factor = std::pow(base, static_cast<double>(power) + 1);
    }
  }
  double value = 0;
  if (factor == 0 || !absl::SimpleAtod(digits, &value) || value * factor > 1e18) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text, "' is not an amount of memory; write for example 512MiB or 2G"));
  }
  return static_cast<uint64_t>(value * factor);
}

std::string FormatBytes(uint64_t num_bytes) {
  double value = static_cast<double>(num_bytes);
  for (const char* unit : {"B", "KiB", "MiB", "GiB"}) {
    if (value < 1024) return absl::StrFormat("%.*f %s", unit[0] == 'B' ? 0 : 2, value, unit);
    value /= 1024;
  }
  return absl::StrFormat("%.2f TiB", value);
}

}  // namespace moe::cli
