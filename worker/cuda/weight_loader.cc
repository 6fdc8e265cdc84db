#include "worker/cuda/weight_loader.h"

#include <algorithm>
#include <functional>

#include "absl/memory/memory.h"
#include "absl/strings/str_format.h"

namespace moe::cuda {
namespace {

using kernels::BFloat16;

constexpr int kNumStagings = 2;
constexpr int64_t kStagingElements = int64_t{4} << 20;  // 8 MiB each

// Where element i of a copy lies on the device, counted from its start.
int64_t PlaceOf(const WeightCopy& copy, int64_t i) {
  return i / copy.cols * copy.stride + i % copy.cols;
}

}  // namespace

absl::StatusOr<std::unique_ptr<WeightLoader>> WeightLoader::Create(std::vector<WeightCopy> copies,
                                                                   const device::Stream* stream) {
  std::vector<Staging> staging;
  for (int i = 0; i < kNumStagings; ++i) {
    auto values = device::PinnedBuffer<BFloat16>::Create(kStagingElements);
    if (!values.ok()) return values.status();
    auto read = device::Event::Create();
    if (!read.ok()) return read.status();
    staging.push_back({*std::move(values), *std::move(read)});
  }
  return absl::WrapUnique(new WeightLoader(std::move(copies), stream, std::move(staging)));
}

WeightLoader::WeightLoader(std::vector<WeightCopy> copies, const device::Stream* stream,
                           std::vector<Staging> staging)
    : copies_(std::move(copies)), stream_(stream), staging_(std::move(staging)) {
  for (const WeightCopy& copy : copies_) num_missing_ += copy.rows * copy.cols;
}

absl::Status WeightLoader::Add(absl::Span<const BFloat16> values) {
  const std::less<> before;
  const BFloat16* const values_end = values.data() + values.size();
  // The first copy that does not end before the values begin.
  auto copy = std::partition_point(copies_.begin(), copies_.end(), [&](const WeightCopy& c) {
    return !before(values.data(), c.from + c.rows * c.cols);
  });
  for (; copy != copies_.end() && before(copy->from, values_end); ++copy) {
    const int64_t begin = std::max<int64_t>(values.data() - copy->from, 0);
    const int64_t end = std::min<int64_t>(values_end - copy->from, copy->rows * copy->cols);
    // As many elements at once as certainly have room on the device's side.
    const int64_t most =
        copy->stride == copy->cols
            ? kStagingElements
            : std::max<int64_t>(1, kStagingElements / copy->stride - 1) * copy->cols;
    for (int64_t at = begin; at < end; at += most) {
      absl::Status status = Stage(*copy, at, std::min(end, at + most));
      if (!status.ok()) return status;
    }
  }
  return absl::OkStatus();
}

absl::Status WeightLoader::Stage(const WeightCopy& copy, int64_t begin, int64_t end) {
  Staging& staging = staging_[next_staging_];
  next_staging_ = (next_staging_ + 1) % staging_.size();
  if (staging.in_use) {
    absl::Status status = staging.read.Wait();
    if (!status.ok()) return status;
  }
  const int64_t first = PlaceOf(copy, begin);
  const int64_t size = PlaceOf(copy, end - 1) + 1 - first;
  if (size > staging.values.size()) {
    return absl::InternalError(absl::StrFormat(
        "a row of %d elements is wider than what goes to the GPU at once", copy.stride));
  }
  BFloat16* const to = staging.values.data();
  if (copy.stride == copy.cols) {
    std::copy(copy.from + begin, copy.from + end, to);
  } else {
    std::fill(to, to + size, BFloat16{0});
    for (int64_t i = begin; i < end;) {
      const int64_t row_end = std::min(end, (i / copy.cols + 1) * copy.cols);
      std::copy(copy.from + i, copy.from + row_end, to + PlaceOf(copy, i) - first);
      i = row_end;
    }
  }
  absl::Status status =
      device::CopyToDevice<BFloat16>({to, static_cast<size_t>(size)}, copy.to + first, *stream_);
  if (!status.ok()) return status;
  status = staging.read.Record(*stream_);
  if (!status.ok()) return status;
  staging.in_use = true;
  num_missing_ -= end - begin;
  return absl::OkStatus();
}

absl::Status WeightLoader::Finish() {
  absl::Status status = stream_->Synchronize();
  if (!status.ok()) return status;
  if (num_missing_ != 0) {
    return absl::InternalError(
        absl::StrFormat("%d weights of this rank did not come from the checkpoint", num_missing_));
  }
  return absl::OkStatus();
}

}  // namespace moe::cuda
