#include "cli/calibrate/kernel_times.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <memory>
#include <utility>

#include "kernels/attention.h"
#include "kernels/experts.h"
#include "kernels/linear.h"
#include "kernels/numerics.h"

namespace moe::cli {
namespace {

using kernels::BFloat16;

// Weights go round so many bytes, or all of the model's, before one is read again.
constexpr int64_t kBeyondCaches = int64_t{512} << 20;
constexpr int kMaxRows = 256;

// Small values without a pattern; what they are does not matter, but none is denormal or NaN.
std::vector<BFloat16> Noise(int64_t size) {
  std::vector<BFloat16> values(static_cast<size_t>(size));
  uint32_t state = 1;
  for (BFloat16& value : values) {
    state = state * 1664525U + 1013904223U;
    value = kernels::ToBFloat16((static_cast<float>(state >> 16) - 32768.0F) / 655360.0F);
  }
  return values;
}

// One thing that is measured: run() does it once and says nothing else.
struct Subject {
  ProductSample* sample;
  std::function<void()> run;
  std::vector<double> seconds = {};
};

class Kernels {
 public:
  Kernels(const model::ModelConfig& config, const KernelTimeOptions& options)
      : config_(config),
        pool_({.num_threads = options.num_cores}),
        one_({.num_threads = 1}),
        context_{.level = options.level, .pool = &pool_},
        one_core_{.level = options.level, .pool = &one_} {
    const int64_t all = int64_t{config.num_layers} * config.num_experts;
    num_experts_ = std::clamp<int64_t>(kBeyondCaches / (expert_size() * 2), 8, all);
    weights_ = Noise(num_experts_ * expert_size());
    const int width = std::max(config.hidden, config.num_heads * config.head_dim);
    x_ = Noise(int64_t{kMaxRows} * width);
    most_groups_ = static_cast<int>(std::min<int64_t>(config.num_experts, num_experts_));
    out_.resize(static_cast<size_t>(kMaxRows) * most_groups_ * config.hidden);
    projected_.resize(static_cast<size_t>(kMaxRows) * config.hidden);
  }

  // Experts of the layer's router, each with `rows` rows.
  ProductSample Experts(int num_groups, int rows) {
    const double params = static_cast<double>(expert_size()) * num_groups;
    return {.bytes = 2 * params, .flops = 2 * params * rows};
  }
  void RunExperts(int num_groups, int rows, bool one_core) {
    groups_.clear();
    rows_.resize(static_cast<size_t>(num_groups) * rows);
    const int64_t matrix = int64_t{config_.hidden} * config_.intermediate;
    for (int group = 0; group < num_groups; ++group) {
      kernels::ExpertRow* first = rows_.data() + static_cast<size_t>(group) * rows;
      for (int row = 0; row < rows; ++row)
        first[row] = {.x_row = row, .out_row = group * rows + row};
      const BFloat16* gate = weights_.data() + next_ * expert_size();
      next_ = (next_ + 1) % num_experts_;
      groups_.push_back({.weights = {.gate = gate, .up = gate + matrix, .down = gate + 2 * matrix},
                         .rows = first,
                         .num_rows = rows});
    }
    kernels::RunExperts(one_core ? one_core_ : context_, groups_.data(), num_groups, config_.hidden,
                        config_.intermediate, x_.data(), config_.hidden, out_.data(), &workspace_);
  }

  // A square projection, as of queries.
  ProductSample Projection(int rows) {
    const double params = static_cast<double>(config_.hidden) * config_.hidden;
    return {.bytes = 2 * params, .flops = 2 * params * rows};
  }
  void RunProjection(int rows) {
    const int64_t size = int64_t{config_.hidden} * config_.hidden;
    const int64_t num_matrices = std::max<int64_t>(1, static_cast<int64_t>(weights_.size()) / size);
    next_matrix_ = (next_matrix_ + 1) % num_matrices;
    // An expert smaller than a square matrix leaves less than one: then all of it is read.
    const int out_features = static_cast<int>(
        std::min<int64_t>(config_.hidden, static_cast<int64_t>(weights_.size()) / config_.hidden));
    kernels::Linear(context_, x_.data(), weights_.data() + next_matrix_ * size, rows,
                    config_.hidden, out_features, projected_.data(), config_.hidden);
  }

  const kernels::Context& context() const { return context_; }
  int most_groups() const { return most_groups_; }

 private:
  int64_t expert_size() const { return int64_t{3} * config_.hidden * config_.intermediate; }

  const model::ModelConfig& config_;
  kernels::ThreadPool pool_;
  kernels::ThreadPool one_;
  const kernels::Context context_;
  const kernels::Context one_core_;
  int64_t num_experts_ = 0;
  int most_groups_ = 0;
  int64_t next_ = 0;
  int64_t next_matrix_ = 0;
  std::vector<BFloat16> weights_;  // [num_experts, 3, intermediate, hidden]
  std::vector<BFloat16> x_;        // [kMaxRows, hidden or the heads together]
  std::vector<BFloat16> out_;      // [kMaxRows * most_groups, hidden]
  std::vector<float> projected_;   // [kMaxRows, hidden]
  std::vector<kernels::ExpertGroup> groups_;
  std::vector<kernels::ExpertRow> rows_;
  kernels::ExpertWorkspace workspace_;
};

// Sequences of `context` cached tokens, of which the last `rows` attend.
class Attention {
 public:
  Attention(const model::ModelConfig& config, int num_sequences, int context, int rows)
      : config_(config), context_(context), rows_(rows) {
    const int blocks = (context + kernels::kKvBlockTokens - 1) / kernels::kKvBlockTokens;
    const int64_t block = int64_t{config.num_kv_heads} * kernels::kKvBlockTokens * config.head_dim;
    cache_ = Noise(block * 2 * blocks * num_sequences);
    tables_.resize(static_cast<size_t>(num_sequences) * blocks);
    for (size_t i = 0; i < tables_.size(); ++i) tables_[i] = static_cast<int32_t>(i);
    for (int i = 0; i < num_sequences; ++i) {
      slices_.push_back({.first_row = i * rows,
                         .start = context - rows,
                         .count = rows,
                         .block_table = tables_.data() + static_cast<size_t>(i) * blocks});
    }
    view_ = {.k = cache_.data(),
             .v = cache_.data() + block,
             .block_stride = 2 * block,
             .num_kv_heads = config.num_kv_heads,
             .head_dim = config.head_dim};
    q_.assign(static_cast<size_t>(num_sequences) * rows * width(), 0.01F);
    out_.resize(q_.size());
  }

  // As the planner counts: two products of a query with each cached key and value.
  ProductSample Sample() const {
    const double sequences = static_cast<double>(slices_.size());
    const double attended = rows_ * (context_ - rows_) + rows_ * (rows_ + 1) / 2.0;
    return {.bytes = sequences * context_ * 4.0 * config_.num_kv_heads * config_.head_dim,
            .flops = sequences * attended * 4.0 * width()};
  }
  void Run(const kernels::Context& context) {
    const float scale = 1.0F / std::sqrt(static_cast<float>(config_.head_dim));
    kernels::PagedAttention(context, slices_.data(), static_cast<int>(slices_.size()), q_.data(),
                            width(), config_.num_heads, scale, view_, out_.data());
  }

 private:
  int width() const { return config_.num_heads * config_.head_dim; }

  const model::ModelConfig& config_;
  const int context_;
  const int rows_;
  std::vector<BFloat16> cache_;  // [blocks, 2, num_kv_heads, kKvBlockTokens, head_dim]
  std::vector<int32_t> tables_;  // [sequences, blocks of one]
  std::vector<kernels::AttentionSlice> slices_;
  kernels::KvLayerView view_;
  std::vector<float> q_;       // [sequences * rows, heads * head_dim]
  std::vector<BFloat16> out_;  // likewise
};

}  // namespace

KernelTimes MeasureKernels(const model::ModelConfig& config, const KernelTimeOptions& options,
                           const Progress& progress) {
  progress("kernels", 0);
  const kernels::ScopedFlushDenormals flush_denormals;
  Kernels kernels(config, options);
  KernelTimes times;
  times.products.reserve(32);  // subjects point into these
  times.attention.reserve(8);
  std::vector<Subject> subjects;
  for (const int rows : {1, 2, 4, 8, 16, 32, 64, kMaxRows}) {
    // Many rows need few experts to take long enough.
    const int groups = std::clamp(kMaxRows * 2 / rows, 2, kernels.most_groups());
    times.products.push_back(kernels.Experts(groups, rows));
    subjects.push_back({&times.products.back(), [&kernels, groups, rows] {
                          kernels.RunExperts(groups, rows, /*one_core=*/false);
                        }});
  }
  for (const int rows : {1, 8, 64, kMaxRows}) {
    times.products.push_back(kernels.Projection(rows));
    subjects.push_back({&times.products.back(), [&kernels, rows] { kernels.RunProjection(rows); }});
  }
  const int few = std::min(8, kernels.most_groups());
  times.one_core = kernels.Experts(few, 1);
  subjects.push_back({&times.one_core, [&kernels, few] { kernels.RunExperts(few, 1, true); }});

  // Decoding reads a cache larger than the processor's; a prompt computes with what it wrote.
  Attention decode(config, /*num_sequences=*/32, std::min(256, config.max_positions), /*rows=*/1);
  Attention prompt(config, /*num_sequences=*/1, std::min(512, config.max_positions),
                   std::min(512, config.max_positions));
  for (Attention* attention : {&decode, &prompt}) {
    times.attention.push_back(attention->Sample());
    subjects.push_back(
        {&times.attention.back(), [&kernels, attention] { attention->Run(kernels.context()); }});
  }

  for (Subject& subject : subjects) subject.run();  // memory, threads, clocks
  const auto seconds_since = [](std::chrono::steady_clock::time_point begin) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  for (int round = 0; round < options.num_rounds; ++round) {
    for (size_t i = 0; i < subjects.size(); ++i) {
      progress("kernels", (round + static_cast<double>(i) / static_cast<double>(subjects.size())) /
                              options.num_rounds);
      const auto begin = std::chrono::steady_clock::now();
      int count = 0;
      double elapsed = 0;
      for (; elapsed < options.seconds_per_sample; elapsed = seconds_since(begin), ++count) {
        subjects[i].run();
      }
      subjects[i].seconds.push_back(elapsed / count);
    }
  }
  for (const Subject& subject : subjects) subject.sample->seconds = Median(subject.seconds);
  return times;
}

}  // namespace moe::cli
