// A rank of a small random model, on the emulated GPU or a real one.
#ifndef MOE_TESTS_WORKER_CUDA_RANK_TEST_H_
#define MOE_TESTS_WORKER_CUDA_RANK_TEST_H_

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker/model/checkpoint_writer.h"
#include "worker/cuda/backend.h"
#include "worker/cuda/rank.h"
#include "worker/model/checkpoint.h"
#include "worker/model/cpu_backend.h"
#include "worker/model/forward.h"

#if defined(MOE_EMULATED)
#include "tests/kernels/emulator/runtime.h"
#endif

namespace moe::cuda {

inline constexpr size_t kEmulatedBytes = size_t{64} << 20;

// Where a sequence's blocks are: descending, since nothing may depend on their order.
inline std::vector<int32_t> BlocksFrom(int last, int count) {
  std::vector<int32_t> blocks(count);
  for (int i = 0; i < count; ++i) blocks[i] = last - i;
  return blocks;
}

// Some rows of a sequence.
struct Rows {
  const std::vector<int32_t>* tokens = nullptr;  // of the whole sequence
  int start = 0;
  int count = 0;
  const std::vector<int32_t>* blocks = nullptr;
};

// Of a group of one.
inline model::StepOutline OutlineOfStep(uint64_t step,
                                        absl::Span<const kernels::AttentionSlice> slices) {
  model::StepOutline outline = {.step = step, .num_rows = {0}, .num_keys = {0}};
  for (const kernels::AttentionSlice& slice : slices) {
    outline.num_rows[0] += slice.count;
    outline.num_keys[0] += slice.start + slice.count;
    outline.longest = std::max(outline.longest, slice.start + slice.count);
    outline.is_decode = outline.is_decode && slice.count == 1;
  }
  return outline;
}

// Runs a step and returns what came of `requests`.
inline std::vector<model::LogitResult> RunStep(model::Decoder* decoder, model::LayerLoop* layers,
                                               const std::vector<Rows>& step,
                                               const std::vector<model::LogitRequest>& requests,
                                               std::vector<std::vector<float>>* logits) {
  static uint64_t step_number = 0;
  std::vector<kernels::AttentionSlice> slices;
  std::vector<int32_t> tokens;
  for (const Rows& rows : step) {
    slices.push_back({.first_row = static_cast<int>(tokens.size()),
                      .start = rows.start,
                      .count = rows.count,
                      .block_table = rows.blocks->data()});
    tokens.insert(tokens.end(), rows.tokens->begin() + rows.start,
                  rows.tokens->begin() + rows.start + rows.count);
  }
  absl::Status status = decoder->Begin(slices, tokens);
  EXPECT_TRUE(status.ok()) << status;
  status = layers->Run(OutlineOfStep(++step_number, slices));
  EXPECT_TRUE(status.ok()) << status;
  std::vector<model::LogitResult> results;
  status = decoder->Finish(requests, [&](size_t i, const model::LogitResult& result) {
    EXPECT_EQ(i, results.size());
    results.push_back(result);
    logits->emplace_back(result.logits.begin(), result.logits.end());
  });
  EXPECT_TRUE(status.ok()) << status;
  return results;
}

// The logits of all rows of a step.
inline std::vector<std::vector<float>> LogitsOf(model::Decoder* decoder, model::LayerLoop* layers,
                                                const std::vector<Rows>& step) {
  std::vector<model::LogitRequest> requests;
  for (const Rows& rows : step) {
    for (int i = 0; i < rows.count; ++i) {
      requests.push_back({.row = static_cast<int>(requests.size())});
    }
  }
  std::vector<std::vector<float>> logits;
  RunStep(decoder, layers, step, requests, &logits);
  return logits;
}

class CudaRankTest : public ::testing::Test {
 protected:
#if defined(MOE_EMULATED)
  void SetUp() override {
    emulator::Heal();
    emulator::SetDeviceMemory(kEmulatedBytes, kEmulatedBytes);
  }
  void TearDown() override { emulator::Heal(); }
#endif
  ~CudaRankTest() override {
    std::error_code ignored;
    std::filesystem::remove_all(dir_, ignored);
  }

  // A checkpoint of this shape with random weights.
  const model::Checkpoint& Write(const model::ModelConfig& config, uint64_t seed = 1) {
    dir_ = ::testing::TempDir() + "/emulated-" + std::to_string(getpid());
    std::filesystem::remove_all(dir_);
    absl::Status status = model::WriteRandomCheckpoint(dir_, config, seed, {.init_std = 0.2F});
    EXPECT_TRUE(status.ok()) << status;
    auto checkpoint = model::Checkpoint::Open(dir_);
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    checkpoint_ = *std::move(checkpoint);
    return *checkpoint_;
  }

  model::RankSpec Spec(int max_rows = 64) const {
    model::RankSpec spec;
    spec.experts.resize(checkpoint_->config().num_experts);
    std::iota(spec.experts.begin(), spec.experts.end(), 0);
    spec.max_rows = max_rows;
    spec.kv_bytes = 64 * model::KvBlockBytes(checkpoint_->config());
    return spec;
  }

  static std::unique_ptr<model::RankModel> Load(model::Backend* backend,
                                                const model::Checkpoint& checkpoint,
                                                const model::RankSpec& spec) {
    auto rank = backend->Load(checkpoint, spec, nullptr, {});
    EXPECT_TRUE(rank.ok()) << rank.status();
    return rank.ok() ? *std::move(rank) : nullptr;
  }
  static std::unique_ptr<CudaBackend> MakeBackend(const CudaOptions& options = {}) {
    auto backend = CudaBackend::Create(options);
    EXPECT_TRUE(backend.ok()) << backend.status();
    return *std::move(backend);
  }

  std::string dir_;
  std::unique_ptr<model::Checkpoint> checkpoint_;
};

}  // namespace moe::cuda

#endif  // MOE_TESTS_WORKER_CUDA_RANK_TEST_H_
