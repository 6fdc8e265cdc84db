#include "planner/model_shape.h"

#include <limits>

#include "absl/strings/str_cat.h"

namespace moe::planner {
namespace {

// Sizes come from files before CheckShape has seen them: what is beyond an int64 becomes the
// largest one, which it refuses. Exact below 2^53.
int64_t Saturated(double number) {
  constexpr double kMost = 9e18;
  return number < kMost ? static_cast<int64_t>(number) : std::numeric_limits<int64_t>::max();
}

}  // namespace

int64_t ModelShape::total_params() const {
  return num_layers * attention_params + num_dense_layers * dense_params() +
         num_moe_layers() * (num_experts * expert_params() + shared_params() + router_params()) +
         (tied_embeddings ? 1 : 2) * vocab_params();
}

int64_t ModelShape::active_params() const {
  return num_layers * attention_params + num_dense_layers * dense_params() +
         num_moe_layers() * (top_k * expert_params() + shared_params() + router_params()) +
         vocab_params();
}

void SetGroupedQueryAttention(int num_heads, int num_kv_heads, int head_dim, ModelShape* shape) {
  shape->num_heads = num_heads;
  shape->num_kv_heads = num_kv_heads;
  // q and o, k and v.
  shape->attention_params =
      Saturated(2.0 * shape->hidden * head_dim * (static_cast<double>(num_heads) + num_kv_heads));
  shape->kv_values_per_token = int64_t{2} * num_kv_heads * head_dim;
  // q times k and probabilities times v, a multiplication and an addition each.
  shape->attention_flops_per_kv = 4.0 * num_heads * head_dim;
}

void SetLatentAttention(const LatentAttention& attention, ModelShape* shape) {
  const double heads = attention.num_heads;
  const double hidden = shape->hidden;
  const double nope_dim = attention.nope_dim;
  const double rank = attention.kv_lora_rank;
  const double query_dim = heads * (nope_dim + attention.rope_dim);
  const double query_params =
      attention.q_lora_rank > 0 ? attention.q_lora_rank * (hidden + query_dim) : hidden * query_dim;
  const double compressed = rank + attention.rope_dim;
  shape->num_heads = attention.num_heads;
  shape->num_kv_heads = 1;
  shape->attention_params = Saturated(query_params + hidden * compressed +
                                      rank * heads * (nope_dim + attention.value_dim) +
                                      heads * attention.value_dim * hidden);
  shape->kv_values_per_token = Saturated(compressed);
  shape->attention_flops_per_kv = 2.0 * heads * (compressed + rank);
}

absl::Status CheckShape(const ModelShape& shape) {
  // Above any published model; products of two sizes stay within an int64.
  constexpr int64_t kMaxSize = int64_t{1} << 20;
  constexpr int64_t kMaxCount = 4096;
  struct Size {
    const char* name;
    int64_t value;
    int64_t min;
    int64_t max;
  };
  for (const Size& size :
       {Size{"hidden size", shape.hidden, 1, kMaxSize},
        Size{"number of layers", shape.num_layers, 1, kMaxCount},
        Size{"number of dense layers", shape.num_dense_layers, 0, shape.num_layers - 1},
        Size{"dense intermediate size", shape.dense_intermediate,
             shape.num_dense_layers > 0 ? 1 : 0, kMaxSize},
        Size{"number of experts", shape.num_experts, 1, kMaxCount},
        Size{"experts per token", shape.top_k, 1, shape.num_experts},
        Size{"expert intermediate size", shape.expert_intermediate, 1, kMaxSize},
        Size{"shared intermediate size", shape.shared_intermediate, 0, kMaxSize},
        Size{"vocabulary size", shape.vocab_size, 1, kMaxSize * 16},
        Size{"number of heads", shape.num_heads, 1, kMaxCount},
        Size{"number of KV heads", shape.num_kv_heads, 1, shape.num_heads},
        Size{"attention parameters", shape.attention_params, 1, kMaxSize << 20},
        Size{"KV values per token", shape.kv_values_per_token, 1, kMaxSize << 4}}) {
    if (size.value < size.min || size.value > size.max) {
      return absl::InvalidArgumentError(absl::StrCat("the model's ", size.name, " is ", size.value,
                                                     "; it must be from ", size.min, " to ",
                                                     size.max));
    }
  }
  // A thousand times the largest that was published. Only below it total_params counts right.
  constexpr double kMaxParams = 1e15;
  const double params =
      static_cast<double>(shape.num_layers) * static_cast<double>(shape.attention_params) +
      static_cast<double>(shape.num_dense_layers) * static_cast<double>(shape.dense_params()) +
      static_cast<double>(shape.num_moe_layers()) *
          (static_cast<double>(shape.num_experts) * static_cast<double>(shape.expert_params()) +
           static_cast<double>(shape.shared_params() + shape.router_params())) +
      2.0 * static_cast<double>(shape.vocab_params());
  if (params > kMaxParams) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the model's sizes make ", params, " parameters; at most ", kMaxParams, " are known here"));
  }
  return absl::OkStatus();
}

}  // namespace moe::planner
