// Causal attention over a paged KV cache, for decode rows and prompt chunks alike.
#ifndef MOE_KERNELS_ATTENTION_H_
#define MOE_KERNELS_ATTENTION_H_

#include <cstdint>

#include "kernels/bf16.h"
#include "kernels/context.h"

namespace moe::kernels {

// Tokens of one KV block.
inline constexpr int kKvBlockTokens = 32;

// One layer's cache: a block b of K starts at k + b * block_stride, likewise V.
// Within a block: [num_kv_heads, kKvBlockTokens, head_dim] bf16.
struct KvLayerView {
  BFloat16* k = nullptr;
  BFloat16* v = nullptr;
  int64_t block_stride = 0;  // elements from one block to the next
  int num_kv_heads = 0;
  int head_dim = 0;
};

// A run of rows of one sequence: positions [start, start + count), rows [first_row, first_row +
// count) of the batch. `block_table` lists the blocks of the sequence and covers start + count
// tokens.
struct AttentionSlice {
  int first_row = 0;
  int start = 0;
  int count = 0;
  const int32_t* block_table = nullptr;
};

// Rounds rows to bf16 and stores them at their positions.
//   k, v  [num_rows, row_stride] fp32, the first num_kv_heads * head_dim of each row are stored
void StoreKv(const Context& context, const AttentionSlice* slices, int num_slices, const float* k,
             const float* v, int row_stride, const KvLayerView& cache);

// For each row at position p and each query head h (its kv head is h / (num_heads / num_kv_heads)):
//   s[t] = Dot16(q, k[t]) * scale for t in [0, p]; q in fp32 and k widened to fp32: lane i adds
//          q[i + 16 c] * k[t][i + 16 c] by fma for c = 0, 1, ...; then the tree of numerics.h
//   m = max s;  e[t] = Exp(s[t] - m);  z = Sum(e) over t;  out[d] = (fma over ascending t of e[t] *
//   v[t][d]) / z
// The order over t never depends on the chunk or on other rows.
//   q    [num_rows, q_stride] fp32
//   out  [num_rows, num_heads * head_dim] bf16
void PagedAttention(const Context& context, const AttentionSlice* slices, int num_slices,
                    const float* q, int q_stride, int num_heads, float scale,
                    const KvLayerView& cache, BFloat16* out);

}  // namespace moe::kernels

#endif  // MOE_KERNELS_ATTENTION_H_
