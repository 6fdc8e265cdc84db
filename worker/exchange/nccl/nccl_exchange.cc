// Making an exchange, its canary, and steps. What a layer does is in nccl_patterns.cc.
#include "worker/exchange/nccl/nccl_exchange.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/exchange/tcp_handshake.h"

namespace moe::exchange {
namespace {

// What a rank's canary holds: for whom it is matters, so that no mix-up goes unseen.
int32_t CanaryValue(int from, bool is_gathered) {
  return (is_gathered ? 0x2a0000 : 0x150000) + from;
}

}  // namespace

absl::StatusOr<std::unique_ptr<NcclExchange>> NcclExchange::Create(
    const NcclExchangeParts& parts, const PatternThresholds& thresholds) {
  if (parts.epoch == nullptr || parts.buffers == nullptr || parts.stream == nullptr ||
      parts.experts == nullptr) {
    return absl::InvalidArgumentError("a part of the NCCL exchange is missing");
  }
  if (parts.buffers->rank() != parts.epoch->rank()) {
    return absl::InvalidArgumentError(absl::StrCat("the buffers of rank ", parts.buffers->rank(),
                                                   " in rank ", parts.epoch->rank()));
  }
  if (DigestOfShape(parts.buffers->shape()) != DigestOfShape(parts.epoch->shape())) {
    return absl::InvalidArgumentError("the buffers are of another shape than the epoch");
  }
  auto event = device::Event::Create();
  if (!event.ok()) return event.status();
  std::unique_ptr<NcclExchange> exchange(new NcclExchange(parts, thresholds));
  exchange->event_.push_back(*std::move(event));
  return exchange;
}

NcclExchange::NcclExchange(const NcclExchangeParts& parts, const PatternThresholds& thresholds)
    : epoch_(parts.epoch),
      buffers_(parts.buffers),
      stream_(parts.stream),
      gpu_{.stream = parts.stream->get(),
           .num_sms = parts.num_sms,
           .overlaps_kernels = parts.overlaps_kernels},
      experts_(parts.experts),
      thresholds_(thresholds),
      shape_(parts.epoch->shape()),
      num_local_experts_(NumLocalExperts(shape_, parts.epoch->rank())),
      count_(NumSources(shape_)) {}

// ---- Joining

absl::Status NcclExchange::Connect() {
  if (is_connected_) return absl::FailedPreconditionError("Connect was called before");
  if (absl::Status status = epoch_->BeginJoin(); !status.ok()) return status;
  for (const auto& [memory, num_bytes] : buffers_->registrable()) {
    if (absl::Status status = epoch_->Register(memory, num_bytes); !status.ok()) return status;
  }
  if (absl::Status status = CheckCanaries(); !status.ok()) return status;
  if (absl::Status status = epoch_->EndJoin(); !status.ok()) return status;
  is_connected_ = true;
  return absl::OkStatus();
}

absl::Status NcclExchange::CheckCanaries() {
  const int num_ranks = shape_.num_ranks;
  if (num_ranks == 1) return absl::OkStatus();
  // [0] gathered; [1 .. N] what was gathered, whose own place then is what others get;
  // [N + 1 ..] what came from each.
  int32_t* const host = buffers_->host_canary();
  int32_t* const device = buffers_->device_canary();
  const int size = 1 + 2 * num_ranks;
  std::fill_n(host, size, -1);
  host[0] = CanaryValue(epoch_->rank(), true);
  host[1 + num_ranks + epoch_->rank()] = CanaryValue(epoch_->rank(), false);
  absl::Status status =
      device::CopyToDevice<int32_t>(absl::MakeConstSpan(host, size), device, *stream_);
  if (!status.ok()) return epoch_->Fail(std::move(status), epoch_->rank());
  status = epoch_->Enqueue({{.kind = Transfer::Kind::kAllGather,
                             .from = device,
                             .to = device + 1,
                             .num_bytes = sizeof(int32_t)}});
  if (!status.ok()) return status;
  transfers_.clear();
  for (int rank = 0; rank < num_ranks; ++rank) {
    if (rank == epoch_->rank()) continue;
    transfers_.push_back({.kind = Transfer::Kind::kSend,
                          .peer = rank,
                          .from = device + 1 + num_ranks + epoch_->rank(),
                          .num_bytes = sizeof(int32_t)});
    transfers_.push_back({.kind = Transfer::Kind::kReceive,
                          .peer = rank,
                          .to = device + 1 + num_ranks + rank,
                          .num_bytes = sizeof(int32_t)});
  }
  if (status = epoch_->Enqueue(transfers_); !status.ok()) return status;
  status = device::CopyToHost<int32_t>(device, absl::MakeSpan(host, size), *stream_);
  if (!status.ok()) return epoch_->Fail(std::move(status), epoch_->rank());
  if (status = AwaitStream(); !status.ok()) return status;
  for (int rank = 0; rank < num_ranks; ++rank) {
    if (host[1 + rank] == CanaryValue(rank, true) &&
        host[1 + num_ranks + rank] == CanaryValue(rank, false)) {
      continue;
    }
    return epoch_->Fail(absl::InternalError(absl::StrCat(
                            RankName(rank), ": its canary came over NCCL with wrong bits")),
                        rank);
  }
  return absl::OkStatus();
}

// ---- Steps

bool NcclExchange::TakesBucket(int bucket) const {
  return SlotsAreBest(shape_, bucket, buffers_->max_slot_rows(), thresholds_);
}

absl::Status NcclExchange::BeginStep(uint64_t step, absl::Span<const int> num_rows, int bucket) {
  const auto pattern = ChoosePattern(
      shape_, {.num_rows = num_rows, .bucket = bucket, .max_slot_rows = buffers_->max_slot_rows()},
      thresholds_);
  if (!pattern.ok()) return pattern.status();
  if (!is_connected_) return absl::FailedPreconditionError("the exchange is not connected");
  if (absl::Status status = epoch_->BeginStep(step); !status.ok()) return status;
  pattern_ = *pattern;
  is_bucket_ = bucket > 0;
  const int num_sources = NumSources(shape_);
  count_.assign(num_rows.begin(), num_rows.begin() + num_sources);
  if (is_bucket_) count_.assign(num_sources, bucket);
  num_all_rows_ = std::accumulate(count_.begin(), count_.end(), 0);
  if (is_bucket_) {
    // A graph's layers are not seen.
    counters_.dispatch_bytes.Add(BytesIn(SlotsOut()) * shape_.num_layers);
    counters_.combine_bytes.Add(BytesIn(SlotsBack()) * shape_.num_layers);
  }
  // The device is done with the step before, so nothing reads these any more.
  std::copy_n(num_rows.begin(), num_sources, buffers_->host_num_rows());
  absl::Status status =
      device::CopyToDevice<int32_t>(absl::MakeConstSpan(buffers_->host_num_rows(), num_sources),
                                    buffers_->device_num_rows(), *stream_);
  return status.ok() ? status : epoch_->Fail(std::move(status), epoch_->rank());
}

absl::Status NcclExchange::FinishStep() {
  if (absl::Status status = AwaitStream(); !status.ok()) return status;
  return epoch_->EndStep();
}

absl::Status NcclExchange::AwaitStream() {
  device::Event& event = event_.front();
  if (absl::Status status = event.Record(*stream_); !status.ok()) {
    return epoch_->Fail(std::move(status), epoch_->rank());
  }
  return epoch_->Await([&] { return event.Reached(); });
}

}  // namespace moe::exchange
