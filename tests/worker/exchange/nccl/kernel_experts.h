// Experts that run the real kernels on random weights, and what a rank with all experts gets from
// the same ones: outputs have to have the same bits at every width and in every pattern.
#ifndef MOE_TESTS_WORKER_EXCHANGE_NCCL_KERNEL_EXPERTS_H_
#define MOE_TESTS_WORKER_EXCHANGE_NCCL_KERNEL_EXPERTS_H_

#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "absl/status/status.h"
#include "device/buffer.h"
#include "device/stream.h"
#include "gtest/gtest.h"
#include "kernels/bf16.h"
#include "kernels/cuda/experts.h"
#include "kernels/cuda/matrix.h"
#include "kernels/cuda/router.h"
#include "worker/exchange/device_exchange.h"
#include "worker/exchange/exchange.h"

namespace moe::exchange {

class KernelExperts final : public DeviceExperts {
 public:
  static constexpr int kIntermediate = 24;

  // Weights of one layer, used for all. REQUIRES: shape.hidden is a multiple of 8.
  KernelExperts(const GroupShape& shape, int rank, const device::Stream* stream)
      : shape_(shape), stream_(stream) {
    std::vector<kernels::BFloat16> values;
    std::vector<int> held;
    const int64_t size = int64_t{kIntermediate} * shape.hidden;
    for (int e = 0; e < shape.num_experts; ++e) {
      if (shape.rank_of_expert[e] != rank) continue;
      held.push_back(e);
      std::mt19937 random(1000 + e);
      for (int64_t i = 0; i < 3 * size; ++i) values.push_back(RandomValue(random));
    }
    weights_ = Upload(values);
    std::vector<kernels::ExpertWeights> pointers;
    for (size_t i = 0; i < held.size(); ++i) {
      const kernels::BFloat16* const first = weights_.data() + 3 * size * static_cast<int64_t>(i);
      pointers.push_back({.gate = first, .up = first + size, .down = first + 2 * size});
    }
    num_experts_ = static_cast<int>(held.size());
    pointers_ = Upload(pointers);
    auto gated = device::DeviceBuffer<kernels::BFloat16>::Create(
        int64_t{shape.num_ranks} * shape.max_rows * shape.top_k * kIntermediate);
    EXPECT_TRUE(gated.ok()) << gated.status();
    gated_ = *std::move(gated);
  }

  absl::Status Run(int /*layer*/, const DevicePairs& pairs, const kernels::BFloat16* x,
                   kernels::BFloat16* out) override {
    return kernels::cuda::RunExperts(gpu(), {.num_experts = num_experts_,
                                             .hidden = shape_.hidden,
                                             .intermediate = kIntermediate,
                                             .weights = pointers_.data(),
                                             .gate_stride = shape_.hidden,
                                             .down_stride = kIntermediate,
                                             .offsets = pairs.offsets,
                                             .rows = pairs.rows,
                                             .num_pairs = pairs.max_pairs,
                                             .num_tokens = pairs.max_pairs_of_expert,
                                             .x = x,
                                             .x_stride = shape_.hidden,
                                             .gated = gated_.data(),
                                             .out = out});
  }

  // For experts made with rank_of_expert all 0: outputs of rows [num_rows, hidden] with expert_ids
  // [num_rows, top_k], both on the host. [num_rows, top_k, hidden].
  std::vector<kernels::BFloat16> RunAll(const std::vector<kernels::BFloat16>& rows,
                                        const std::vector<int32_t>& expert_ids) {
    const auto num_rows = static_cast<int>(rows.size() / shape_.hidden);
    std::vector<kernels::BFloat16> outputs(rows.size() * shape_.top_k);
    if (num_rows == 0) return outputs;
    const auto x = Upload(rows);
    const auto ids = Upload(expert_ids);
    const auto offsets = Upload(std::vector<int32_t>(shape_.num_experts + 1));
    const auto pairs = Upload(std::vector<kernels::ExpertRow>(expert_ids.size()));
    const auto out = Upload(outputs);
    EXPECT_TRUE(kernels::cuda::SortByExpert(gpu(), ids.data(), num_rows, shape_.top_k,
                                            shape_.num_experts, offsets.data(), pairs.data())
                    .ok());
    EXPECT_TRUE(Run(0,
                    {.offsets = offsets.data(),
                     .rows = pairs.data(),
                     .max_pairs = num_rows * shape_.top_k,
                     .max_pairs_of_expert = num_rows},
                    x.data(), out.data())
                    .ok());
    EXPECT_TRUE(
        device::CopyToHost<kernels::BFloat16>(out.data(), absl::MakeSpan(outputs), *stream_).ok());
    EXPECT_TRUE(stream_->Synchronize().ok());
    return outputs;
  }

  static kernels::BFloat16 RandomValue(std::mt19937& random) {
    return kernels::ToBFloat16(std::uniform_real_distribution<float>(-1.0f, 1.0f)(random));
  }

 private:
  kernels::cuda::Gpu gpu() const { return {.stream = stream_->get(), .num_sms = 132}; }
  template <typename T>
  device::DeviceBuffer<T> Upload(const std::vector<T>& values) {
    auto buffer = device::DeviceBuffer<T>::Create(static_cast<int64_t>(values.size()));
    EXPECT_TRUE(buffer.ok()) << buffer.status();
    EXPECT_TRUE(device::CopyToDevice<T>(values, buffer->data(), *stream_).ok());
    EXPECT_TRUE(stream_->Synchronize().ok());
    return *std::move(buffer);
  }

  const GroupShape shape_;
  const device::Stream* const stream_;
  int num_experts_ = 0;
  device::DeviceBuffer<kernels::BFloat16> weights_;
  device::DeviceBuffer<kernels::ExpertWeights> pointers_;
  device::DeviceBuffer<kernels::BFloat16> gated_;
};

// The same group as one rank.
inline GroupShape Alone(GroupShape shape) {
  shape.num_ranks = shape.num_attention_ranks = 1;
  shape.rank_of_expert.assign(shape.num_experts, 0);
  return shape;
}

}  // namespace moe::exchange

#endif  // MOE_TESTS_WORKER_EXCHANGE_NCCL_KERNEL_EXPERTS_H_
