// Tests kernels/attention.h.
#include "kernels/attention.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/log_softmax.h"
#include "tests/kernels/kernel_test.h"

namespace moe::kernels {
namespace {

struct Shape {
  int num_heads;
  int num_kv_heads;
  int head_dim;
};

// Sequences with q, k and v for each of their positions, and a cache whose blocks are dealt out in
// a scattered order.
struct Model {
  Model(const Shape& model_shape, const std::vector<int>& sequence_lengths)
      : shape(model_shape),
        kv_width(shape.num_kv_heads * shape.head_dim),
        q_width(shape.num_heads * shape.head_dim),
        lengths(sequence_lengths),
        block_tables(lengths.size()) {
    int num_tokens = 0;
    int num_blocks = 0;
    for (const int length : lengths) {
      first_token.push_back(num_tokens);
      num_tokens += length;
      num_blocks += (length + kKvBlockTokens - 1) / kKvBlockTokens;
    }
    std::mt19937 random(shape.head_dim);
    std::vector<int32_t> order(num_blocks);
    for (int i = 0; i < num_blocks; ++i) order[i] = i;
    std::shuffle(order.begin(), order.end(), random);
    for (size_t s = 0; s < lengths.size(); ++s) {
      const int blocks = (lengths[s] + kKvBlockTokens - 1) / kKvBlockTokens;
      block_tables[s].assign(order.end() - blocks, order.end());
      order.resize(order.size() - blocks);
    }
    q.resize(int64_t{num_tokens} * q_width);
    k.resize(int64_t{num_tokens} * kv_width);
    v.resize(int64_t{num_tokens} * kv_width);
    for (float& value : q) value = Random(random, 2.0f);
    for (float& value : k) value = Random(random);
    for (float& value : v) value = Random(random);
    block_stride = int64_t{kv_width} * kKvBlockTokens;
    cache_size = block_stride * num_blocks;
  }

  // Stores and attends the positions [start, start + count) of some sequences as one batch. Returns
  // [rows, q_width].
  struct Part {
    int sequence;
    int start;
    int count;
  };
  std::vector<BFloat16> Step(const Context& context, const std::vector<Part>& parts,
                             const KvLayerView& cache) const {
    std::vector<AttentionSlice> slices;
    int num_rows = 0;
    for (const Part& part : parts) {
      slices.push_back({.first_row = num_rows,
                        .start = part.start,
                        .count = part.count,
                        .block_table = block_tables[part.sequence].data()});
      num_rows += part.count;
    }
    // One fused row holds q, k and v, as after a fused projection.
    const int stride = q_width + 2 * kv_width;
    GuardedBuffer<float> fused(int64_t{num_rows} * stride);
    for (size_t i = 0; i < parts.size(); ++i) {
      for (int r = 0; r < parts[i].count; ++r) {
        const int64_t token = first_token[parts[i].sequence] + parts[i].start + r;
        float* row = fused.data() + int64_t{slices[i].first_row + r} * stride;
        std::copy_n(q.data() + token * q_width, q_width, row);
        std::copy_n(k.data() + token * kv_width, kv_width, row + q_width);
        std::copy_n(v.data() + token * kv_width, kv_width, row + q_width + kv_width);
      }
    }
    const int num_slices = static_cast<int>(slices.size());
    StoreKv(context, slices.data(), num_slices, fused.data() + q_width,
            fused.data() + q_width + kv_width, stride, cache);
    GuardedBuffer<BFloat16> out(int64_t{num_rows} * q_width);
    PagedAttention(context, slices.data(), num_slices, fused.data(), stride, shape.num_heads,
                   Scale(), cache, out.data());
    return {out.begin(), out.end()};
  }

  // Every sequence as one chunk, all in one batch.
  std::vector<BFloat16> Whole(const Context& context, const KvLayerView& cache) const {
    std::vector<Part> parts;
    for (size_t s = 0; s < lengths.size(); ++s)
      parts.push_back({static_cast<int>(s), 0, lengths[s]});
    return Step(context, parts, cache);
  }

  float Scale() const { return 1.0f / std::sqrt(static_cast<float>(shape.head_dim)); }

  float Key(int sequence, int position, int kv_head, int d) const {
    const int64_t token = first_token[sequence] + position;
    return ToFloat(ToBFloat16(k[token * kv_width + int64_t{kv_head} * shape.head_dim + d]));
  }
  float Value(int sequence, int position, int kv_head, int d) const {
    const int64_t token = first_token[sequence] + position;
    return ToFloat(ToBFloat16(v[token * kv_width + int64_t{kv_head} * shape.head_dim + d]));
  }

  Shape shape;
  int kv_width;
  int q_width;
  std::vector<int> lengths;
  std::vector<int> first_token;
  std::vector<std::vector<int32_t>> block_tables;
  std::vector<float> q;
  std::vector<float> k;
  std::vector<float> v;
  int64_t block_stride;
  int64_t cache_size;
};

// K and V whose unwritten elements are NaN: reading one where it counts would show.
struct Cache {
  explicit Cache(const Model& model) : k(model.cache_size), v(model.cache_size) {
    for (BFloat16& value : k) value = ToBFloat16(kNan);
    for (BFloat16& value : v) value = ToBFloat16(kNan);
    view = {.k = k.data(),
            .v = v.data(),
            .block_stride = model.block_stride,
            .num_kv_heads = model.shape.num_kv_heads,
            .head_dim = model.shape.head_dim};
  }
  GuardedBuffer<BFloat16> k;
  GuardedBuffer<BFloat16> v;
  KvLayerView view;
};

constexpr std::array<Shape, 6> kShapes = {
    {{2, 2, 128}, {4, 2, 16}, {16, 16, 8}, {6, 2, 37}, {5, 1, 80}, {8, 1, 64}}};
const std::vector<int> kLengths = {1, 31, 32, 33, 70, 5};

bool SameRows(const std::vector<BFloat16>& a, const std::vector<BFloat16>& b) {
  return a.size() == b.size() &&
         std::equal(a.begin(), a.end(), b.begin(), [](auto x, auto y) { return Same(x, y); });
}

std::string Name(const Shape& shape) {
  return std::to_string(shape.num_heads) + " heads, " + std::to_string(shape.num_kv_heads) +
         " kv heads of " + std::to_string(shape.head_dim);
}

TEST(PagedAttentionTest, EveryLevelAndThreadCountFollowsTheContractBitByBit) {
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(Name(shape));
    const Model model(shape, kLengths);
    ThreadPool pool({.num_threads = 1});
    const Context plain = {.level = CpuLevel::kPlain, .pool = &pool};
    // The contract, one row and head at a time. Exp comes from ExpMinusMax, tested for itself.
    std::vector<BFloat16> expected;
    for (size_t s = 0; s < kLengths.size(); ++s) {
      for (int p = 0; p < kLengths[s]; ++p) {
        for (int head = 0; head < shape.num_heads; ++head) {
          const ScopedFlushDenormals flush;
          const int kv_head = head / (shape.num_heads / shape.num_kv_heads);
          const float* q = model.q.data() + int64_t{model.first_token[s] + p} * model.q_width +
                           int64_t{head} * shape.head_dim;
          std::vector<float> e(p + 1);
          for (int t = 0; t <= p; ++t) {
            std::array<float, 16> lanes = {};
            for (int d = 0; d < shape.head_dim; ++d) {
              const float key = model.Key(static_cast<int>(s), t, kv_head, d);
              lanes[d % 16] = std::fma(q[d], key, lanes[d % 16]);
            }
            e[t] = ReferenceTree(lanes) * model.Scale();
          }
          const float max = *std::max_element(e.begin(), e.end());
          ExpMinusMax(plain, e.data(), max, p + 1, e.data());
          std::array<float, 16> lanes = {};
          for (int t = 0; t <= p; ++t) lanes[t % 16] += e[t];
          const float z = ReferenceTree(lanes);
          for (int d = 0; d < shape.head_dim; ++d) {
            float sum = 0.0f;
            for (int t = 0; t <= p; ++t) {
              sum = std::fma(e[t], model.Value(static_cast<int>(s), t, kv_head, d), sum);
            }
            expected.push_back(ToBFloat16(sum / z));
          }
        }
      }
    }
    ForEachContext([&](const Context& context) {
      const Cache cache(model);
      EXPECT_TRUE(SameRows(model.Whole(context, cache.view), expected));
    });
  }
}

TEST(PagedAttentionTest, IsCloseToSoftmaxInDouble) {
  ForEachContext([](const Context& context) {
    const Model model({4, 2, 64}, {45});
    const Cache cache(model);
    const std::vector<BFloat16> out = model.Whole(context, cache.view);
    for (int p = 0; p < 45; ++p) {
      for (int head = 0; head < 4; ++head) {
        const float* q = model.q.data() + int64_t{p} * model.q_width + int64_t{head} * 64;
        std::vector<double> e(p + 1);
        double z = 0.0;
        for (int t = 0; t <= p; ++t) {
          double score = 0.0;
          for (int d = 0; d < 64; ++d)
            score += static_cast<double>(q[d]) * model.Key(0, t, head / 2, d);
          e[t] = std::exp(score * model.Scale());
          z += e[t];
        }
        for (int d = 0; d < 64; ++d) {
          double sum = 0.0;
          double magnitude = 0.0;
          for (int t = 0; t <= p; ++t) {
            const double term = e[t] / z * model.Value(0, t, head / 2, d);
            sum += term;
            magnitude += std::abs(term);
          }
          // Rounding to bf16, and fp32 errors of the scores (magnitude below 32, 10 roundings).
          const double tolerance = kBf16Unit * std::abs(sum) + 2 * 32 * 10 * kUnit * magnitude;
          const int64_t at = int64_t{p} * model.q_width + int64_t{head} * 64 + d;
          ASSERT_NEAR(ToFloat(out[at]), sum, tolerance) << "position " << p << ", head " << head;
        }
      }
    }
  });
}

TEST(PagedAttentionTest, ChunksAndBatchesDoNotChangeTheBits) {
  ForEachContext([](const Context& context) {
    for (const Shape& shape : {Shape{4, 2, 32}, Shape{2, 2, 37}}) {
      SCOPED_TRACE(Name(shape));
      const Model model(shape, kLengths);
      const Cache whole_cache(model);
      const std::vector<BFloat16> whole = model.Whole(context, whole_cache.view);
      for (const int chunk : {1, 3, 17, 32}) {
        const Cache cache(model);
        std::vector<std::vector<BFloat16>> rows(kLengths.size());
        // Step i takes chunk i of each sequence that is long enough, so batches shrink over time.
        for (int start = 0; start < 70; start += chunk) {
          std::vector<Model::Part> parts;
          for (size_t s = 0; s < kLengths.size(); ++s) {
            if (start >= kLengths[s]) continue;
            parts.push_back({static_cast<int>(s), start, std::min(chunk, kLengths[s] - start)});
          }
          const std::vector<BFloat16> out = model.Step(context, parts, cache.view);
          auto from = out.begin();
          for (const Model::Part& part : parts) {
            const auto to = from + int64_t{part.count} * model.q_width;
            rows[part.sequence].insert(rows[part.sequence].end(), from, to);
            from = to;
          }
        }
        std::vector<BFloat16> all;
        for (const auto& sequence : rows) all.insert(all.end(), sequence.begin(), sequence.end());
        EXPECT_TRUE(SameRows(all, whole)) << "chunks of " << chunk;
      }
    }
  });
}

TEST(PagedAttentionTest, NanAndInfinityReachOnlyRowsThatSeeThem) {
  ForEachContext([](const Context& context) {
    const Shape shape = {2, 1, 20};
    Model model(shape, {40, 8});
    const Cache clean_cache(model);
    const std::vector<BFloat16> clean = model.Whole(context, clean_cache.view);
    model.k[int64_t{21} * model.kv_width + 3] = kNan;
    model.v[int64_t{37} * model.kv_width + 19] = kInfinity;
    const Cache cache(model);
    const std::vector<BFloat16> out = model.Whole(context, cache.view);
    for (int64_t row = 0; row < 48; ++row) {
      for (int i = 0; i < model.q_width; ++i) {
        const int64_t at = row * model.q_width + i;
        if (row >= 21 && row < 40) {
          ASSERT_TRUE(std::isnan(ToFloat(out[at])));
        } else {
          ASSERT_TRUE(Same(out[at], clean[at]));
        }
      }
    }
  });
}

TEST(StoreKvTest, RoundsEachHeadToItsPlaceAndNothingElse) {
  ForEachContext([](const Context& context) {
    const Model model({3, 3, 19}, {40, 33});
    const Cache cache(model);
    model.Step(context, {{.sequence = 1, .start = 30, .count = 3}}, cache.view);
    int num_written = 0;
    for (const BFloat16 value : cache.k) num_written += std::isnan(ToFloat(value)) ? 0 : 1;
    EXPECT_EQ(num_written, 3 * model.kv_width);
    for (int position = 30; position < 33; ++position) {
      for (int head = 0; head < 3; ++head) {
        for (int d = 0; d < 19; ++d) {
          const int64_t at = model.block_tables[1][position / kKvBlockTokens] * model.block_stride +
                             int64_t{head * kKvBlockTokens + position % kKvBlockTokens} * 19 + d;
          ASSERT_EQ(ToFloat(cache.k[at]), model.Key(1, position, head, d));
          ASSERT_EQ(ToFloat(cache.v[at]), model.Value(1, position, head, d));
        }
      }
    }
    EXPECT_TRUE(model.Step(context, {{.sequence = 0, .start = 0, .count = 0}}, cache.view).empty());
    StoreKv(context, nullptr, 0, nullptr, nullptr, model.kv_width, cache.view);
    PagedAttention(context, nullptr, 0, nullptr, model.q_width, 3, 1.0f, cache.view, nullptr);
  });
}

}  // namespace
}  // namespace moe::kernels
