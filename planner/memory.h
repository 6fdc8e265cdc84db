// What fills the memory of one GPU, by part.
//
// Tested by tests/planner/memory_test.cc.
#ifndef MOE_PLANNER_MEMORY_H_
#define MOE_PLANNER_MEMORY_H_

#include <cstdint>

#include "planner/hardware.h"
#include "planner/layout.h"
#include "planner/model_shape.h"

namespace moe::planner {

// Bytes of an attention rank, the fullest GPU of its group.
struct MemoryUse {
  double attention_bytes = 0;   // projections
  double vocabulary_bytes = 0;  // embedding and lm_head
  double dense_bytes = 0;       // shared experts, dense layers, routers
  double expert_bytes = 0;
  double kv_bytes = 0;      // of the sequences in flight, each at its full length
  double buffer_bytes = 0;  // activations, exchange, logits
  double reserved_bytes = 0;

  double weight_bytes() const {
    return attention_bytes + vocabulary_bytes + dense_bytes + expert_bytes;
  }
  double total_bytes() const { return weight_bytes() + kv_bytes + buffer_bytes + reserved_bytes; }
};

// `sequences`: in flight in one group, of `tokens` tokens each.
MemoryUse MemoryOf(const ModelShape& model, const Layout& layout, const Assumptions& assumptions,
                   double sequences, double tokens);

// Most sequences of one group whose KV cache fits beside the rest; 0: not one.
int64_t MaxSequences(const ModelShape& model, const Layout& layout, const Assumptions& assumptions,
                     double memory_bytes, double tokens);

// Shares of a group's memory in use, from 0 to 1.
struct MemoryEfficiency {
  // Bytes that nothing else in the group holds too (each weight and each cached token once), of
  // all bytes in use.
  double unique_share = 0;
  // The same of weights alone.
  double unique_weight_share = 0;
  // Bytes in use, of all memory.
  double used_share = 0;
};
MemoryEfficiency EfficiencyOf(const ModelShape& model, const Layout& layout,
                              const Assumptions& assumptions, double memory_bytes, double sequences,
                              double tokens);

}  // namespace moe::planner

#endif  // MOE_PLANNER_MEMORY_H_
