#include "worker/cuda/weight_layout.h"

#include <algorithm>
#include <functional>
#include <numeric>

namespace moe::cuda {
namespace {

using kernels::BFloat16;
using kernels::cuda::Matrix;
using kernels::cuda::PaddedStride;

class Layouter {
 public:
  Layouter(Bump* memory, std::vector<WeightCopy>* copies) : memory_(memory), copies_(copies) {}

  BFloat16* Vector(const BFloat16* from, int size) {
    BFloat16* const to = memory_->Take<BFloat16>(size);
    copies_->push_back({from, 1, size, to, size});
    return to;
  }

  struct Part {
    const BFloat16* from;
    int rows;
  };
  // The parts' rows below each other.
  Matrix Stack(std::initializer_list<Part> parts, int cols) {
    Matrix matrix = {.data = nullptr, .rows = 0, .cols = cols, .stride = PaddedStride(cols)};
    for (const Part& part : parts) matrix.rows += part.rows;
    BFloat16* const data = memory_->Take<BFloat16>(int64_t{matrix.rows} * matrix.stride);
    matrix.data = data;
    int64_t row = 0;
    for (const Part& part : parts) {
      // Without memory there are no addresses to count from.
      BFloat16* const to = data == nullptr ? nullptr : data + row * matrix.stride;
      copies_->push_back({part.from, part.rows, cols, to, matrix.stride});
      row += part.rows;
    }
    return matrix;
  }

 private:
  Bump* memory_;
  std::vector<WeightCopy>* copies_;
};

void LayOutAttention(const model::ModelConfig& config, const model::ModelWeights& source,
                     Layouter* out, DeviceWeights* weights) {
  const int hidden = config.hidden;
  const int q_size = config.num_heads * config.head_dim;
  const int kv_size = config.num_kv_heads * config.head_dim;
  weights->embed = out->Stack({{source.embed, config.vocab_size}}, hidden);
  weights->lm_head = config.tie_word_embeddings
                         ? weights->embed
                         : out->Stack({{source.lm_head, config.vocab_size}}, hidden);
  weights->final_norm = out->Vector(source.final_norm, hidden);
  for (const model::LayerWeights& from : source.layers) {
    weights->layers.push_back(
        {.input_norm = out->Vector(from.input_norm, hidden),
         .post_attention_norm = out->Vector(from.post_attention_norm, hidden),
         .q_norm = out->Vector(from.q_norm, q_size),
         .k_norm = out->Vector(from.k_norm, kv_size),
         .qkv = out->Stack({{from.q, q_size}, {from.k, kv_size}, {from.v, kv_size}}, hidden),
         .o = out->Stack({{from.o, hidden}}, q_size),
         .router = out->Stack({{from.gate, config.num_experts}}, hidden)});
  }
}

}  // namespace

WeightLayout LayOutWeights(const model::ModelConfig& config, const model::ModelWeights& source,
                           absl::Span<const int> experts, bool attention, Bump* memory) {
  WeightLayout layout;
  DeviceWeights& weights = layout.weights;
  Layouter out(memory, &layout.copies);
  if (attention) LayOutAttention(config, source, &out, &weights);
  weights.num_local_experts = static_cast<int>(experts.size());
  weights.gate_stride = PaddedStride(config.hidden);
  weights.down_stride = PaddedStride(config.intermediate);
  weights.experts = memory->Take<kernels::ExpertWeights>(static_cast<int64_t>(config.num_layers) *
                                                         weights.num_local_experts);
  for (const model::LayerWeights& layer : source.layers) {
    for (const int expert : experts) {
      const kernels::ExpertWeights& from = layer.experts[static_cast<size_t>(expert)];
      layout.expert_table.push_back(
          {.gate = out.Stack({{from.gate, config.intermediate}}, config.hidden).data,
           .up = out.Stack({{from.up, config.intermediate}}, config.hidden).data,
           .down = out.Stack({{from.down, config.hidden}}, config.intermediate).data});
    }
  }
  std::sort(layout.copies.begin(), layout.copies.end(),
            [](const WeightCopy& a, const WeightCopy& b) { return std::less<>()(a.from, b.from); });
  return layout;
}

uint64_t WeightBytes(const model::ModelConfig& config, int num_experts, bool attention) {
  model::ModelWeights source;
  source.layers.resize(static_cast<size_t>(config.num_layers));
  for (model::LayerWeights& layer : source.layers) {
    layer.experts.resize(static_cast<size_t>(config.num_experts));
  }
  std::vector<int> experts(static_cast<size_t>(num_experts));
  std::iota(experts.begin(), experts.end(), 0);
  Bump memory;
  LayOutWeights(config, source, experts, attention, &memory);
  return memory.num_bytes();
}

}  // namespace moe::cuda
