// Ranks with their share of an NCCL exchange, for tests on the emulator and on GPUs: experts that
// compute an exact function on the host, and the engine in small.
#ifndef MOE_TESTS_WORKER_EXCHANGE_NCCL_DEVICE_RANKS_H_
#define MOE_TESTS_WORKER_EXCHANGE_NCCL_DEVICE_RANKS_H_

#include <algorithm>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "device/buffer.h"
#include "device/stream.h"
#include "gtest/gtest.h"
#include "tests/worker/exchange/fake_group.h"
#include "worker/exchange/nccl/nccl_exchange.h"

namespace moe::exchange {

// Checks what DeviceExperts::Run promises about its pairs and computes ExpertOutput, on the host.
class FakeDeviceExperts final : public DeviceExperts {
 public:
  FakeDeviceExperts(const GroupShape& shape, int rank, const device::Stream* stream)
      : shape_(shape), stream_(stream) {
    for (int e = 0; e < shape.num_experts; ++e) {
      if (shape.rank_of_expert[e] == rank) experts_.push_back(e);
    }
  }

  absl::Status Run(int layer, const DevicePairs& pairs, const kernels::BFloat16* x,
                   kernels::BFloat16* out) override {
    ++num_runs;
    if (!failure.ok()) return failure;
    const std::vector<int32_t> offsets = Download(pairs.offsets, experts_.size() + 1);
    EXPECT_EQ(offsets.front(), 0);
    EXPECT_TRUE(std::is_sorted(offsets.begin(), offsets.end()));
    EXPECT_LE(offsets.back(), pairs.max_pairs);
    const std::vector<kernels::ExpertRow> rows = Download(pairs.rows, offsets.back());
    for (size_t local = 0; local < experts_.size(); ++local) {
      EXPECT_LE(offsets[local + 1] - offsets[local], pairs.max_pairs_of_expert);
      for (int32_t i = offsets[local]; i < offsets[local + 1]; ++i) {
        if (i > offsets[local]) {
          EXPECT_LT(rows[i - 1].out_row, rows[i].out_row);
        }
        std::vector<kernels::BFloat16> row =
            Download(x + int64_t{rows[i].x_row} * shape_.hidden, shape_.hidden);
        for (int c = 0; c < shape_.hidden; ++c) {
          row[c].bits = ExpertOutput(layer, experts_[local], row[c].bits, c);
        }
        EXPECT_TRUE(device::CopyToDevice<kernels::BFloat16>(
                        row, out + int64_t{rows[i].out_row} * shape_.hidden, *stream_)
                        .ok());
        EXPECT_TRUE(stream_->Synchronize().ok());
      }
    }
    num_pairs += offsets.back();
    return absl::OkStatus();
  }

  absl::Status failure;
  int num_runs = 0;
  int64_t num_pairs = 0;

 private:
  template <typename T>
  std::vector<T> Download(const T* from, size_t size) {
    std::vector<T> values(size);
    EXPECT_TRUE(device::CopyToHost<T>(from, absl::MakeSpan(values), *stream_).ok());
    EXPECT_TRUE(stream_->Synchronize().ok());
    return values;
  }

  const GroupShape shape_;
  const device::Stream* const stream_;
  std::vector<int> experts_;
};

// One rank's device side. The epoch comes and goes, the rest stays.
struct DeviceRank {
  DeviceRank(const GroupShape& group_shape, int own_rank, int max_slot_rows)
      : shape(group_shape), rank(own_rank) {
    auto made = device::Stream::Create();
    EXPECT_TRUE(made.ok()) << made.status();
    stream.push_back(*std::move(made));
    auto allocated = ExchangeBuffers::Create(shape, rank, max_slot_rows, stream.front());
    EXPECT_TRUE(allocated.ok()) << allocated.status();
    buffers = *std::move(allocated);
    experts = std::make_unique<FakeDeviceExperts>(shape, rank, &stream.front());
  }

  absl::Status Connect(NcclEpoch* own_epoch, const PatternThresholds& thresholds) {
    epoch = own_epoch;
    auto made = NcclExchange::Create({.epoch = epoch,
                                      .buffers = buffers.get(),
                                      .stream = &stream.front(),
                                      .experts = experts.get()},
                                     thresholds);
    if (!made.ok()) return made.status();
    exchange = *std::move(made);
    return exchange->Connect();
  }

  const GroupShape shape;
  const int rank;
  std::vector<device::Stream> stream;  // one
  std::unique_ptr<ExchangeBuffers> buffers;
  std::unique_ptr<FakeDeviceExperts> experts;
  NcclEpoch* epoch = nullptr;
  std::unique_ptr<NcclExchange> exchange;
};

// How rows choose their experts.
enum class Skew { kNone, kAllToOneExpert, kNoneToTheLastRank };

// expert_ids [num_rows, top_k], ascending within a row.
inline std::vector<int32_t> SkewedRouting(const GroupShape& shape, int num_rows, Skew skew,
                                          std::mt19937& random) {
  std::vector<int32_t> ids;
  std::vector<int32_t> all(shape.num_experts);
  for (int e = 0; e < shape.num_experts; ++e) all[e] = e;
  for (int row = 0; row < num_rows; ++row) {
    std::shuffle(all.begin(), all.end(), random);
    if (skew == Skew::kAllToOneExpert) {
      std::iter_swap(all.begin(), std::find(all.begin(), all.end(), shape.num_experts / 2));
    }
    if (skew == Skew::kNoneToTheLastRank) {
      std::stable_partition(all.begin(), all.end(), [&](int32_t e) {
        return shape.rank_of_expert[e] != shape.num_ranks - 1;
      });
    }
    std::vector<int32_t> chosen(all.begin(), all.begin() + shape.top_k);
    std::sort(chosen.begin(), chosen.end());
    ids.insert(ids.end(), chosen.begin(), chosen.end());
  }
  return ids;
}

// Runs one layer with random rows against the obvious reference, and waits for it; OK with
// *num_wrong, or the exchange's error.
inline absl::Status RunDeviceLayer(DeviceRank& self, int layer, int num_rows, Skew skew,
                                   std::mt19937& random, int* num_wrong) {
  const GroupShape& shape = self.shape;
  std::vector<kernels::BFloat16> rows(size_t{1} * num_rows * shape.hidden);
  for (kernels::BFloat16& value : rows) value.bits = static_cast<uint16_t>(random());
  const std::vector<int32_t> ids = SkewedRouting(shape, num_rows, skew, random);
  const device::Stream& stream = self.stream.front();
  absl::Status status =
      device::CopyToDevice<kernels::BFloat16>(rows, self.exchange->rows(), stream);
  if (status.ok()) status = device::CopyToDevice<int32_t>(ids, self.exchange->expert_ids(), stream);
  if (!status.ok()) return status;
  const auto result = self.exchange->RunLayer(layer);
  if (!result.ok()) return result.status();
  if ((*result == nullptr) != (num_rows == 0)) return absl::InternalError("rows without a result");
  std::vector<kernels::BFloat16> returned(rows.size() * shape.top_k);
  if (num_rows > 0) {
    status = device::CopyToHost<kernels::BFloat16>(*result, absl::MakeSpan(returned), stream);
  }
  if (status.ok()) status = stream.Synchronize();
  // What the stream has done after an abort is worth nothing.
  if (status.ok()) status = self.epoch->status();
  if (status.ok()) {
    *num_wrong += CountWrong(shape, layer, num_rows, rows.data(), ids, returned.data());
  }
  return status;
}

// A generator for a rank's rows: the same at all ranks where they are replicated.
inline std::mt19937 RandomOfRank(const GroupShape& shape, int rank, uint32_t seed) {
  return std::mt19937(shape.replicated ? seed : seed + 1000 * (rank + 1));
}

// [num_ranks], the same at all ranks; some have none, and one has rows.
inline std::vector<int> RandomRows(const GroupShape& shape, int max_rows, std::mt19937& random) {
  std::vector<int> num_rows(shape.num_ranks);
  const int owners = shape.replicated ? shape.num_ranks : shape.num_attention_ranks;
  for (int rank = 0; rank < owners; ++rank) {
    const int low = -max_rows / 2;
    num_rows[rank] = std::max(0, std::uniform_int_distribution<int>(low, max_rows)(random));
  }
  num_rows[static_cast<size_t>(random() % owners)] = max_rows;
  if (shape.replicated) num_rows.assign(num_rows.size(), max_rows);
  return num_rows;
}

}  // namespace moe::exchange

#endif  // MOE_TESTS_WORKER_EXCHANGE_NCCL_DEVICE_RANKS_H_
