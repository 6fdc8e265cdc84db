#include "planner/memory.h"

#include <algorithm>
#include <cmath>

namespace moe::planner {
namespace {

// Of one token, on one GPU of its owner.
double KvBytesPerToken(const ModelShape& model, const Layout& layout) {
  return model.kv_bytes_per_token() / layout.pipeline / std::min(layout.tensor, model.num_kv_heads);
}

double BufferBytes(const ModelShape& model, const Layout& layout, const Assumptions& assumptions) {
  const double rows = assumptions.prefill_rows;
  const double row_bytes = 2.0 * model.hidden;
  // The residual stream in fp32, rows on their way out and k results for each on their way back.
  // Logits in fp32 of the few rows that end a prompt or decode: one in 16.
  return rows * row_bytes * (2 + 1 + (layout.expert > 1 ? model.top_k : 1)) +
         rows / 16 * 4.0 * model.vocab_size / layout.tensor;
}

}  // namespace

MemoryUse MemoryOf(const ModelShape& model, const Layout& layout, const Assumptions& assumptions,
                   double sequences, double tokens) {
  const double bytes = model.bytes_per_weight / layout.tensor;
  const double stages = layout.pipeline;
  MemoryUse use;
  use.attention_bytes =
      static_cast<double>(model.num_layers * model.attention_params) * bytes / stages;
  // With several stages the first holds the embedding and the last lm_head.
  use.vocabulary_bytes = static_cast<double>(model.vocab_params()) * bytes *
                         (model.tied_embeddings || layout.pipeline > 1 ? 1 : 2);
  use.dense_bytes = static_cast<double>(model.num_dense_layers * model.dense_params() +
                                        model.num_moe_layers() *
                                            (model.shared_params() + model.router_params())) *
                    bytes / stages;
  use.expert_bytes = static_cast<double>(model.num_experts) * layout.copies / layout.expert *
                     model.num_moe_layers() * static_cast<double>(model.expert_params()) * bytes /
                     stages;
  use.kv_bytes =
      std::ceil(sequences / layout.num_owners()) * tokens * KvBytesPerToken(model, layout);
  use.buffer_bytes = BufferBytes(model, layout, assumptions);
  use.reserved_bytes = assumptions.reserved_bytes;
  return use;
}

int64_t MaxSequences(const ModelShape& model, const Layout& layout, const Assumptions& assumptions,
                     double memory_bytes, double tokens) {
  const double rest = MemoryOf(model, layout, assumptions, 0, tokens).total_bytes();
  const double per_owner =
      std::floor((memory_bytes - rest) / (tokens * KvBytesPerToken(model, layout)));
  return per_owner < 1 ? 0 : static_cast<int64_t>(per_owner) * layout.num_owners();
}

MemoryEfficiency EfficiencyOf(const ModelShape& model, const Layout& layout,
                              const Assumptions& assumptions, double memory_bytes, double sequences,
                              double tokens) {
  const MemoryUse owner = MemoryOf(model, layout, assumptions, sequences, tokens);
  const double gpus_per_rank = layout.tensor * layout.pipeline;
  const double owners =
      gpus_per_rank * (layout.replicated_attention ? layout.expert : layout.attention_ranks);
  const double others = gpus_per_rank * layout.expert - owners;
  // A rank without sequences holds experts and the buffers for their rows.
  const double weights = owners * owner.weight_bytes() + others * owner.expert_bytes;
  const double used = owners * owner.total_bytes() +
                      others * (owner.expert_bytes + owner.buffer_bytes + owner.reserved_bytes);
  const double unique_kv = sequences * tokens * model.kv_bytes_per_token();
  MemoryEfficiency efficiency;
  efficiency.unique_weight_share = std::min(1.0, model.total_bytes() / weights);
  efficiency.unique_share = std::min(1.0, (model.total_bytes() + unique_kv) / used);
  efficiency.used_share = used / (memory_bytes * static_cast<double>(layout.gpus_per_group()));
  return efficiency;
}

}  // namespace moe::planner
