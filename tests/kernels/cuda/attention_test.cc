// Tests kernels/cuda/attention.h.
#include "kernels/cuda/attention.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "tests/kernels/cuda/gpu_test.h"

namespace moe::kernels::cuda {
namespace {

struct Shape {
  int num_heads;
  int num_kv_heads;
  int head_dim;
};

// Sequences with q, k and v for each of their positions, whose blocks are dealt out in a scattered
// order. q is exact in bf16: the rounding of q is not what is tested.
struct Model {
  Model(const Shape& model_shape, const std::vector<int>& sequence_lengths)
      : shape(model_shape),
        kv_width(shape.num_kv_heads * shape.head_dim),
        q_width(shape.num_heads * shape.head_dim),
        lengths(sequence_lengths) {
    int num_tokens = 0;
    for (const int length : lengths) {
      first_token.push_back(num_tokens);
      num_tokens += length;
      num_blocks += (length + kKvBlockTokens - 1) / kKvBlockTokens;
    }
    std::mt19937 random(shape.head_dim);
    std::vector<int32_t> order(num_blocks);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random);
    for (const int length : lengths) {
      const int blocks = (length + kKvBlockTokens - 1) / kKvBlockTokens;
      block_tables.emplace_back(order.end() - blocks, order.end());
      order.resize(order.size() - blocks);
    }
    for (const BFloat16 value : RandomBf16(int64_t{num_tokens} * q_width, random, 2.0f)) {
      q.push_back(ToFloat(value));
    }
    k = RandomFloats(int64_t{num_tokens} * kv_width, random);
    v = RandomFloats(int64_t{num_tokens} * kv_width, random);
  }

  int64_t block_stride() const { return int64_t{kv_width} * kKvBlockTokens; }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(shape.head_dim)); }
  double Rounded(const std::vector<float>& values, int sequence, int position, int kv_head,
                 int d) const {
    const int64_t token = first_token[sequence] + position;
    return ToFloat(ToBFloat16(values[token * kv_width + int64_t{kv_head} * shape.head_dim + d]));
  }

  Shape shape;
  int kv_width;
  int q_width;
  std::vector<int> lengths;
  std::vector<int> first_token;
  std::vector<std::vector<int32_t>> block_tables;
  int num_blocks = 0;
  std::vector<float> q;
  std::vector<float> k;
  std::vector<float> v;
};

// Positions [start, start + count) of a sequence.
struct Part {
  int sequence;
  int start;
  int count;
};

class CudaAttentionTest : public GpuTest {
 protected:
  // K and V in one piece, as worker/model has them; what is not written is NaN.
  struct Cache {
    device::DeviceBuffer<BFloat16> memory;
    KvLayerView view;
  };
  Cache MakeCache(const Model& model) {
    Cache cache;
    cache.memory = Allocate<BFloat16>(2 * model.block_stride() * model.num_blocks);
    cache.view = {.k = cache.memory.data(),
                  .v = cache.memory.data() + model.block_stride(),
                  .block_stride = 2 * model.block_stride(),
                  .num_kv_heads = model.shape.num_kv_heads,
                  .head_dim = model.shape.head_dim};
    return cache;
  }

  // Stores and attends the parts as one batch. [rows, q_width]
  std::vector<BFloat16> Step(const Model& model, const std::vector<Part>& parts, const Cache& cache,
                             int num_sms, int max_partials) {
    const int stride = model.q_width + 2 * model.kv_width;  // a fused row of q, k, v
    std::vector<AttentionSlice> slices;
    std::vector<float> fused;
    int num_rows = 0;
    for (const Part& part : parts) {
      slices.push_back({.first_row = num_rows,
                        .start = part.start,
                        .count = part.count,
                        .block_table = model.block_tables[part.sequence].data()});
      num_rows += part.count;
      for (int r = 0; r < part.count; ++r) {
        const int64_t token = model.first_token[part.sequence] + part.start + r;
        const auto append = [&](const std::vector<float>& values, int width) {
          fused.insert(fused.end(), values.begin() + token * width,
                       values.begin() + (token + 1) * width);
        };
        append(model.q, model.q_width);
        append(model.k, model.kv_width);
        append(model.v, model.kv_width);
      }
    }
    const AttentionPlan plan = PlanAttention(slices, {.num_heads = model.shape.num_heads,
                                                      .num_kv_heads = model.shape.num_kv_heads,
                                                      .num_sms = num_sms,
                                                      .max_partials = max_partials});
    const auto rows = Upload(fused);
    const auto slots = Upload(plan.slots);
    Check(StoreKv(gpu(), rows.data() + model.q_width, rows.data() + model.q_width + model.kv_width,
                  stride, slots.data(), num_rows, cache.view));
    const auto device_slices = Upload(plan.slices);
    const auto block_table = Upload(plan.block_table);
    const auto narrow = Upload(plan.narrow);
    const auto wide = Upload(plan.wide);
    const auto merges = Upload(plan.merges);
    const int64_t num_partials = int64_t{plan.num_partials} * model.shape.num_heads;
    const auto partial_outputs = Allocate<float>(num_partials * model.shape.head_dim);
    const auto partial_sums = Allocate<float>(num_partials * 2);
    const auto out = Allocate<BFloat16>(int64_t{num_rows} * model.q_width);
    Check(PagedAttention(gpu(), {.q = rows.data(),
                                 .q_stride = stride,
                                 .num_heads = model.shape.num_heads,
                                 .scale = model.scale(),
                                 .cache = cache.view,
                                 .slices = device_slices.data(),
                                 .block_table = block_table.data(),
                                 .narrow = narrow.data(),
                                 .wide = wide.data(),
                                 .merges = merges.data(),
                                 .num_narrow = static_cast<int>(plan.narrow.size()),
                                 .num_wide = static_cast<int>(plan.wide.size()),
                                 .num_merges = static_cast<int>(plan.merges.size()),
                                 .partial_outputs = partial_outputs.data(),
                                 .partial_sums = partial_sums.data(),
                                 .out = out.data()}));
    return Download(out);
  }

  static std::vector<Shape> Shapes() {
    std::vector<Shape> shapes = {{2, 1, 128}, {1, 1, 8}, {3, 1, 40}, {12, 1, 64}, {4, 2, 16}};
    if (!kEmulated) {
      shapes.push_back({16, 16, 128});
      shapes.push_back({2, 2, 80});
    }
    return shapes;
  }
  static std::vector<int> Lengths() {
    return kEmulated ? std::vector<int>{1, 33, 300, 16}
                     : std::vector<int>{1, 31, 32, 33, 128, 129, 300, 5, 900};
  }
  static std::vector<Part> Whole(const Model& model) {
    std::vector<Part> parts;
    for (size_t s = 0; s < model.lengths.size(); ++s) {
      parts.push_back({static_cast<int>(s), 0, model.lengths[s]});
    }
    return parts;
  }
};

TEST_F(CudaAttentionTest, IsCloseToTheFormulaInDouble) {
  for (const Shape& shape : Shapes()) {
    SCOPED_TRACE(std::to_string(shape.num_heads) + " heads of " + std::to_string(shape.head_dim));
    const Model model(shape, Lengths());
    const Cache cache = MakeCache(model);
    const std::vector<BFloat16> out = Step(model, Whole(model), cache, 132, 100000);
    int64_t at = 0;
    for (size_t s = 0; s < model.lengths.size(); ++s) {
      const int sequence = static_cast<int>(s);
      for (int p = 0; p < model.lengths[s]; ++p) {
        for (int h = 0; h < shape.num_heads; ++h) {
          const int kv_head = h / (shape.num_heads / shape.num_kv_heads);
          std::vector<double> e(p + 1);
          double max = -kInfinity;
          for (int t = 0; t <= p; ++t) {
            double score = 0.0;
            for (int d = 0; d < shape.head_dim; ++d) {
              score += static_cast<double>(model.q[(model.first_token[s] + p) * model.q_width +
                                                   int64_t{h} * shape.head_dim + d]) *
                       model.Rounded(model.k, sequence, t, kv_head, d);
            }
            e[t] = score * model.scale();
            max = std::max(max, e[t]);
          }
          double sum = 0.0;
          for (double& value : e) sum += value = std::exp(value - max);
          for (int d = 0; d < shape.head_dim; ++d, ++at) {
            double expected = 0.0;
            double magnitude = 0.0;
            for (int t = 0; t <= p; ++t) {
              const double term = e[t] / sum * model.Rounded(model.v, sequence, t, kv_head, d);
              expected += term;
              magnitude += std::abs(term);
            }
            // Each weight is rounded to bf16, in the sum of weights and in the output, and the
            // output is rounded once; scores of up to 30 leave 2^-16 or so. 1.1 covers the
            // products.
            const double bound =
                1.1 * kBf16Unit * (magnitude + 2 * std::abs(expected)) + 1e-4 * magnitude;
            ASSERT_NEAR(ToFloat(out[at]), expected, bound)
                << "sequence " << s << ", position " << p << ", head " << h << ", element " << d;
          }
        }
      }
    }
  }
}

TEST_F(CudaAttentionTest, TheCacheHoldsWhatTheCpuStores) {
  const Model model({4, 2, 40}, {33, 1, 70});
  const Cache cache = MakeCache(model);
  Step(model, Whole(model), cache, 132, 0);
  std::vector<BFloat16> expected(cache.memory.size(), ToBFloat16(kNan));
  for (BFloat16& value : expected) value.bits = 0xffffu;
  KvLayerView view = cache.view;
  view.k = expected.data();
  view.v = expected.data() + model.block_stride();
  std::vector<AttentionSlice> slices;
  for (const Part& part : Whole(model)) {
    slices.push_back({.first_row = model.first_token[part.sequence],
                      .start = 0,
                      .count = part.count,
                      .block_table = model.block_tables[part.sequence].data()});
  }
  kernels::StoreKv(cpu(), slices.data(), static_cast<int>(slices.size()), model.k.data(),
                   model.v.data(), model.kv_width, view);
  ExpectSameBits(Download(cache.memory), expected);
}

TEST_F(CudaAttentionTest, ARowHasTheSameBitsInChunksOfAnySizeAndAnyBatchAndSplit) {
  for (const Shape& shape : Shapes()) {
    SCOPED_TRACE(std::to_string(shape.num_heads) + " heads of " + std::to_string(shape.head_dim));
    const std::vector<int> lengths =
        kEmulated ? std::vector<int>{270, 20} : std::vector<int>{1100, 64, 300};
    const Model model(shape, lengths);
    const int length = lengths[0];
    // The first sequence in one chunk, in one block for each head and column group.
    const Cache whole_cache = MakeCache(model);
    std::vector<BFloat16> expected = Step(model, Whole(model), whole_cache, 1, 0);
    expected.resize(int64_t{length} * model.q_width);

    // The same with splits.
    const Cache split_cache = MakeCache(model);
    std::vector<BFloat16> split = Step(model, Whole(model), split_cache, 1000000, 1000000);
    split.resize(expected.size());
    ExpectSameBits(split, expected);
    if (HasFatalFailure()) return;

    for (const int chunk : kEmulated ? std::vector<int>{7, 64} : std::vector<int>{1, 7, 64, 512}) {
      for (const bool splits : {false, true}) {
        SCOPED_TRACE("chunks of " + std::to_string(chunk) + (splits ? ", split" : ""));
        const Cache cache = MakeCache(model);
        std::vector<BFloat16> actual;
        for (int start = 0; start < length; start += chunk) {
          const int count = std::min(chunk, length - start);
          // Beside another sequence's row, which comes first.
          const std::vector<Part> parts = {{1, 0, 1 + start % 2}, {0, start, count}};
          const std::vector<BFloat16> rows =
              Step(model, parts, cache, splits ? 1000000 : 1, splits ? 1000000 : 0);
          actual.insert(actual.end(), rows.begin() + int64_t{parts[0].count} * model.q_width,
                        rows.end());
        }
        ExpectSameBits(actual, expected);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_F(CudaAttentionTest, EqualValuesGiveExactlyThatValue) {
  Model model({1, 1, 64}, {200});
  std::fill(model.v.begin(), model.v.end(), 1.5f);
  const Cache cache = MakeCache(model);
  for (const BFloat16 value : Step(model, Whole(model), cache, 132, 1000)) {
    ASSERT_EQ(ToFloat(value), 1.5f);
  }
}

TEST_F(CudaAttentionTest, ANanKeyReachesOnlyTheRowsThatSeeIt) {
  Model model({1, 1, 32}, {60});
  const std::vector<BFloat16> clean = Step(model, Whole(model), MakeCache(model), 132, 0);
  model.k[int64_t{40} * model.kv_width] = kNan;
  const std::vector<BFloat16> actual = Step(model, Whole(model), MakeCache(model), 132, 0);
  for (int p = 0; p < 60; ++p) {
    for (int d = 0; d < 32; ++d) {
      if (p < 40) {
        ASSERT_EQ(actual[p * 32 + d].bits, clean[p * 32 + d].bits);
      } else {
        ASSERT_TRUE(std::isnan(ToFloat(actual[p * 32 + d])));
      }
    }
  }
}

TEST_F(CudaAttentionTest, HeadsThatTheTilesCannotHoldAreRefused) {
  for (const int head_dim : {4, 37, 136}) {
    EXPECT_EQ(PagedAttention(gpu(), {.cache = {.num_kv_heads = 1, .head_dim = head_dim}}).code(),
              absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace moe::kernels::cuda
