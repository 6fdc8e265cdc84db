// With the real kernels: a row's outputs have the bits that a rank with all experts gives, at every
// width, in every pattern.
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/worker/exchange/nccl/device_ranks.h"
#include "tests/worker/exchange/nccl/emulated_stream.h"
#include "tests/worker/exchange/nccl/kernel_experts.h"
#include "tests/worker/exchange/nccl/nccl_threads.h"

namespace moe::exchange {
namespace {

GroupShape Shape(int num_ranks, bool replicated) {
  GroupShape shape{.num_ranks = num_ranks,
                   .num_attention_ranks = num_ranks,
                   .replicated = replicated,
                   .num_layers = 2,
                   .num_experts = 8,
                   .hidden = 40,
                   .top_k = 3,
                   .max_rows = 9,
                   .rank_of_expert = {}};
  for (int e = 0; e < 8; ++e) shape.rank_of_expert.push_back(e * num_ranks / 8);
  return shape;
}

TEST(NcclExchangeBitsTest, OutputsHaveTheBitsOfARankWithAllExperts) {
  for (const int num_ranks : {1, 2, 3, 8}) {
    for (const bool replicated : {false, true}) {
      for (const bool exact : {false, true}) {
        SCOPED_TRACE(absl::StrCat(num_ranks, replicated ? " replicas" : " ranks",
                                  exact ? ", exact" : ", slots"));
        const GroupShape shape = Shape(num_ranks, replicated);
        NcclThreads threads(shape);
        threads.MakeEpoch(1);
        PatternThresholds thresholds;
        thresholds.surplus_bytes_over_network =
            exact ? std::numeric_limits<int64_t>::min() : std::numeric_limits<int64_t>::max();
        const int num_rows = replicated ? 9 : 4;
        std::vector<int> rows_of_rank(num_ranks, num_rows);
        if (!replicated && num_ranks > 1) rows_of_rank.back() = 0;
        threads.RunAll([&](int rank) {
          DeviceRank self(shape, rank, shape.max_rows);
          const device::Stream& stream = self.stream.front();
          threads.apis[rank]->UseStream(EmulatedStreamOf(stream));
          KernelExperts experts(shape, rank, &stream);
          KernelExperts all(Alone(shape), 0, &stream);
          ASSERT_TRUE(threads.epochs[rank]->Connect().ok());
          auto exchange = NcclExchange::Create({.epoch = threads.epochs[rank].get(),
                                                .buffers = self.buffers.get(),
                                                .stream = &stream,
                                                .experts = &experts},
                                               thresholds);
          ASSERT_TRUE(exchange.ok());
          ASSERT_TRUE((*exchange)->Connect().ok());
          ASSERT_TRUE((*exchange)->BeginStep(1, rows_of_rank, 0).ok());
          std::mt19937 random = RandomOfRank(shape, rank, 3);
          for (int layer = 0; layer < shape.num_layers; ++layer) {
            std::vector<kernels::BFloat16> rows(size_t{1} * rows_of_rank[rank] * shape.hidden);
            for (kernels::BFloat16& value : rows) value = KernelExperts::RandomValue(random);
            const std::vector<int32_t> ids =
                SkewedRouting(shape, rows_of_rank[rank], Skew::kNone, random);
            const std::vector<kernels::BFloat16> expected = all.RunAll(rows, ids);
            ASSERT_TRUE(
                device::CopyToDevice<kernels::BFloat16>(rows, (*exchange)->rows(), stream).ok());
            ASSERT_TRUE(device::CopyToDevice<int32_t>(ids, (*exchange)->expert_ids(), stream).ok());
            const auto result = (*exchange)->RunLayer(layer);
            ASSERT_TRUE(result.ok()) << result.status();
            if (rows.empty()) continue;
            std::vector<kernels::BFloat16> outputs(expected.size());
            ASSERT_TRUE(
                device::CopyToHost<kernels::BFloat16>(*result, absl::MakeSpan(outputs), stream)
                    .ok());
            ASSERT_TRUE(stream.Synchronize().ok());
            EXPECT_EQ(std::memcmp(outputs.data(), expected.data(),
                                  expected.size() * sizeof(kernels::BFloat16)),
                      0)
                << "rank " << rank << ", layer " << layer;
          }
          ASSERT_TRUE((*exchange)->FinishStep().ok());
          // Before the buffers that it knows.
          ASSERT_TRUE(threads.epochs[rank]->Close().ok());
        });
      }
    }
  }
}

}  // namespace
}  // namespace moe::exchange
