// How the rows of a step are dealt out to the blocks of the attention kernel. Made once for a step
// on the host, used by all its layers. Pure. Tested by tests/kernels/cuda/attention_plan_test.cc.
#ifndef MOE_KERNELS_CUDA_ATTENTION_PLAN_H_
#define MOE_KERNELS_CUDA_ATTENTION_PLAN_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kernels/attention.h"

namespace moe::kernels::cuda {

// Keys of one split, from position 0 on: four KV blocks. Softmax and output are computed for each
// split by itself and merged in ascending order, so the length is part of the bits.
inline constexpr int kSplitKeys = 4 * kKvBlockTokens;

// A column is a (position, query head) pair of one slice and one KV head: column c is position
// start + c / heads_per_kv, head c % heads_per_kv of the KV head's. A warp has 8.
inline constexpr int kWarpColumns = 8;
inline constexpr int kWideWarps = 8;

// kernels::AttentionSlice for the device: its blocks are block_table[first_block], ...
struct DeviceSlice {
  int32_t first_row;
  int32_t start;
  int32_t count;
  int32_t first_block;
};

// The columns that a block has, for each KV head.
struct AttentionUnit {
  int32_t slice;
  int32_t first_column;
  // kAllSplits: the block runs all splits and writes its rows' outputs. Else it runs this one and
  // writes partial results, those of split s and position start + p to
  //   first_partial + s * count + p
  int32_t split;
  int32_t first_partial;
};
inline constexpr int32_t kAllSplits = -1;

// A row whose partial results are merged: split s has first_partial + s * stride.
struct AttentionMerge {
  int32_t row;
  int32_t first_partial;
  int32_t stride;
  int32_t num_splits;
};

struct AttentionPlan {
  std::vector<DeviceSlice> slices;
  std::vector<int32_t> block_table;   // of all slices
  std::vector<int32_t> slots;         // of each row: block * kKvBlockTokens + token in the block
  std::vector<int32_t> positions;     // of each row
  std::vector<AttentionUnit> narrow;  // blocks of one warp
  std::vector<AttentionUnit> wide;    // blocks of kWideWarps warps that share the loads of K and V
  std::vector<AttentionMerge> merges;
  int32_t num_partials = 0;
};

struct AttentionPlanOptions {
  int num_heads = 0;
  int num_kv_heads = 0;
  int num_sms = 1;
  int max_partials = 0;  // what the workspace holds; slices that find no room run without splits
};

// Few columns go to narrow blocks, more to wide ones. A slice is split where one block for each KV
// head and column group would leave multiprocessors idle. The choice changes no bits.
AttentionPlan PlanAttention(absl::Span<const AttentionSlice> slices,
                            const AttentionPlanOptions& options);

// At most so many units and merges has the plan of `num_rows` slices of one row, whose rows attend
// to `num_keys` keys in all and to no more than `longest` each.
struct DecodeUnits {
  int num_narrow = 0;
  int num_wide = 0;
  int num_merges = 0;
};
DecodeUnits MostDecodeUnits(int num_rows, int64_t num_keys, int longest,
                            const AttentionPlanOptions& options);

}  // namespace moe::kernels::cuda

#endif  // MOE_KERNELS_CUDA_ATTENTION_PLAN_H_
