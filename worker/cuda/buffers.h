// The working memory of a decoder on the device, and how large it is. Pure.
#ifndef MOE_WORKER_CUDA_BUFFERS_H_
#define MOE_WORKER_CUDA_BUFFERS_H_

#include <cstddef>
#include <cstdint>

#include "kernels/bf16.h"
#include "kernels/cuda/attention_plan.h"
#include "kernels/cuda/draw.h"
#include "kernels/cuda/log_softmax.h"
#include "kernels/experts.h"
#include "worker/cuda/bump.h"
#include "worker/cuda/step_upload.h"
#include "worker/model/config.h"

namespace moe::cuda {

// What the sizes of buffers follow from.
struct RankSizes {
  int max_rows = 512;      // of one step
  int max_positions = 0;   // longest sequence
  int max_logit_rows = 0;  // rows whose logits are there at once
  int max_partials = 0;    // of split attention
  int max_units = 0;       // of one kind
  int max_pairs = 0;       // (row, expert) pairs of this rank's experts in one layer
};

// Sizes for steps of `max_rows` rows of sequences up to `max_positions`; max_pairs: what other
// ranks may send and this one's own rows.
RankSizes SizesFor(const model::ModelConfig& config, int max_rows, int max_positions,
                   int max_pairs);

// The likeliest tokens of a row that the device lists at most; more are listed by the host.
inline constexpr int kMaxDeviceTop = 32;

// H hidden, E num_experts, k top_k, V vocab_size.
struct DecoderBuffers {
  float* rope_cos = nullptr;               // [max_positions, head_dim / 2]
  float* rope_sin = nullptr;               // the same
  float* residual = nullptr;               // [max_rows, H]
  kernels::BFloat16* normed = nullptr;     // [max(max_rows, max_logit_rows), H]
  float* qkv = nullptr;                    // [max_rows, (num_heads + 2 num_kv_heads) head_dim]
  kernels::BFloat16* attention = nullptr;  // [max_rows + 1, num_heads head_dim]
  float* partial_outputs = nullptr;        // [max_partials, num_heads, head_dim]
  float* partial_sums = nullptr;           // [max_partials, num_heads, 2]
  float* router_logits = nullptr;          // [max_rows, E]
  float* expert_weights = nullptr;         // [max_rows, k]
  float* logits = nullptr;                 // [max_logit_rows, V]
  std::byte* requests = nullptr;           // what LayOutRequests needs for max_rows
  std::byte* results = nullptr;            // what LayOutResults needs for max_rows
};
DecoderBuffers LayOutDecoder(const model::ModelConfig& config, const RankSizes& sizes,
                             Bump* memory);

// What is asked of the logits of some rows, and what comes back, each in one piece: in device
// memory and, to be copied, in that of the host.
struct RequestView {
  int32_t* rows = nullptr;               // [num_rows] of the step
  kernels::cuda::Draw* draws = nullptr;  // [num_rows]
};
RequestView LayOutRequests(int num_rows, Bump* memory);
struct ResultView {
  int32_t* tokens = nullptr;                      // [num_rows] drawn, or asked for
  kernels::cuda::LogitStats* stats = nullptr;     // [num_rows]
  kernels::cuda::TokenLogprob* chosen = nullptr;  // [num_rows]
  kernels::cuda::TokenLogprob* top = nullptr;     // [num_rows, num_top]
};
ResultView LayOutResults(int num_rows, int num_top, Bump* memory);

struct ExpertBuffers {
  kernels::BFloat16* gated = nullptr;  // [max_pairs, PaddedStride(intermediate)]
  int32_t* offsets = nullptr;          // [num_layers, num_local_experts + 1]
};
ExpertBuffers LayOutExperts(const model::ModelConfig& config, const RankSizes& sizes,
                            int num_local_experts, Bump* memory);

// Of an exchange with nobody.
struct LocalExchangeBuffers {
  kernels::BFloat16* rows = nullptr;     // [max_rows, H]
  int32_t* expert_ids = nullptr;         // [max_rows, k]
  kernels::ExpertRow* pairs = nullptr;   // [max_rows k]
  kernels::BFloat16* outputs = nullptr;  // [max_rows, k, H]
};
LocalExchangeBuffers LayOutLocalExchange(const model::ModelConfig& config, const RankSizes& sizes,
                                         Bump* memory);

// How attention's rows are dealt out. The same on every GPU, so that all ranks of a step find the
// same shape of it: what fills most GPUs.
kernels::cuda::AttentionPlanOptions PlanOptions(const model::ModelConfig& config,
                                                const RankSizes& sizes);

// The largest shape of a step.
StepShape LargestStep(const RankSizes& sizes);

}  // namespace moe::cuda

#endif  // MOE_WORKER_CUDA_BUFFERS_H_
