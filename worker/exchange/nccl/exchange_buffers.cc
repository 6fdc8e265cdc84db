#include "worker/exchange/nccl/exchange_buffers.h"

#include <algorithm>

namespace moe::exchange {
namespace {

// What an allocation is rounded up to.
constexpr uint64_t kAllocationBytes = 512;

template <typename Buffer>
absl::Status Make(int64_t size, Buffer* buffer) {
  auto made = Buffer::Create(size);
  if (!made.ok()) return made.status();
  *buffer = *std::move(made);
  return absl::OkStatus();
}

}  // namespace

ExchangeBuffers::ExchangeBuffers(const GroupShape& shape, int rank, int max_slot_rows)
    : shape_(shape),
      rank_(rank),
      max_slot_rows_(max_slot_rows),
      sizes_(SizesOfBuffers(shape, rank, max_slot_rows)),
      host_slots_(SlotsOfRanks(shape)) {}

absl::StatusOr<std::unique_ptr<ExchangeBuffers>> ExchangeBuffers::Create(
    const GroupShape& shape, int rank, int max_slot_rows, const device::Stream& stream) {
  std::unique_ptr<ExchangeBuffers> buffers(new ExchangeBuffers(shape, rank, max_slot_rows));
  absl::Status status = buffers->Allocate();
  if (status.ok()) status = buffers->Fill(stream);
  if (!status.ok()) return status;
  return buffers;
}

uint64_t ExchangeBuffers::DeviceBytes(const GroupShape& shape, int rank, int max_slot_rows) {
  ExchangeBuffers none(shape, rank, max_slot_rows);
  uint64_t sum = 0;
  // Adding up can't fail.
  static_cast<void>(none.ForEachOnDevice([&sum](int64_t size, auto* buffer) {
    const uint64_t num_bytes = static_cast<uint64_t>(size) * sizeof(*buffer->data());
    sum += (num_bytes + kAllocationBytes - 1) / kAllocationBytes * kAllocationBytes;
    return absl::OkStatus();
  }));
  return sum;
}

int64_t ExchangeBuffers::num_bounds() const {
  return 2 * (int64_t{NumSources(shape_)} + 1) + 2 * (int64_t{shape_.num_ranks} + 1);
}

template <typename Visit>
absl::Status ExchangeBuffers::ForEachOnDevice(Visit visit) {
  const int64_t hidden = shape_.hidden;
  for (const absl::Status& status :
       {visit(sizes_.rows * hidden, &rows_), visit(sizes_.input * hidden, &input_),
        visit(sizes_.packed * hidden, &packed_), visit(sizes_.outputs * hidden, &outputs_),
        visit(sizes_.returned * hidden, &returned_), visit(sizes_.result * hidden, &result_),
        visit(sizes_.expert_ids, &expert_ids_), visit(sizes_.all_expert_ids, &all_expert_ids_),
        visit(sizes_.pairs, &pairs_), visit(int64_t{shape_.num_experts}, &rank_of_expert_),
        visit(int64_t{shape_.num_experts}, &local_of_expert_),
        visit(int64_t{shape_.num_ranks}, &slots_), visit(int64_t{shape_.num_ranks}, &slots_before_),
        visit(4 * sizes_.places, &places_), visit(num_bounds(), &bounds_),
        visit(int64_t{kernels::cuda::ExchangeScratchSize(sizes_.scratch_items)}, &scratch_),
        visit(int64_t{NumLocalExperts(shape_, rank_)} + 1, &offsets_),
        visit(int64_t{NumSources(shape_)}, &num_rows_), visit(num_canaries(), &canary_)}) {
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status ExchangeBuffers::Allocate() {
  absl::Status status =
      ForEachOnDevice([](int64_t size, auto* buffer) { return Make(size, buffer); });
  if (status.ok()) status = Make(num_bounds(), &host_bounds_);
  if (status.ok()) status = Make(NumSources(shape_), &host_num_rows_);
  if (status.ok()) status = Make(num_canaries(), &host_canary_);
  return status;
}

absl::Status ExchangeBuffers::Fill(const device::Stream& stream) {
  const std::vector<int32_t> ranks(shape_.rank_of_expert.begin(), shape_.rank_of_expert.end());
  std::vector<int32_t> locals;
  locals.reserve(ranks.size());
  std::vector<int32_t> num_held(shape_.num_ranks);
  for (const int32_t rank : ranks) locals.push_back(num_held[rank]++);
  std::vector<int32_t> before;
  before.reserve(host_slots_.size());
  int32_t sum = 0;
  for (const int32_t slots : host_slots_) {
    before.push_back(sum);
    sum += slots;
  }
  for (const absl::Status& status :
       {device::CopyToDevice<int32_t>(ranks, rank_of_expert_.data(), stream),
        device::CopyToDevice<int32_t>(locals, local_of_expert_.data(), stream),
        device::CopyToDevice<int32_t>(host_slots_, slots_.data(), stream),
        device::CopyToDevice<int32_t>(before, slots_before_.data(), stream)}) {
    if (!status.ok()) return status;
  }
  // The copies read memory of this call.
  return stream.Synchronize();
}

void* ExchangeBuffers::address(ExchangeBuffer buffer) const {
  switch (buffer) {
    case ExchangeBuffer::kRows:
      return rows_.data();
    case ExchangeBuffer::kExpertIds:
      return expert_ids_.data();
    case ExchangeBuffer::kAllExpertIds:
      return all_expert_ids_.data();
    case ExchangeBuffer::kInput:
      return input_.data();
    case ExchangeBuffer::kPacked:
      return packed_.data();
    case ExchangeBuffer::kOutputs:
      return outputs_.data();
    case ExchangeBuffer::kReturned:
      return returned_.data();
  }
  return nullptr;
}

std::vector<std::pair<void*, size_t>> ExchangeBuffers::registrable() const {
  std::vector<std::pair<void*, size_t>> all;
  for (const auto* buffer : {&rows_, &input_, &packed_, &outputs_, &returned_}) {
    if (buffer->size() > 0) {
      all.emplace_back(buffer->data(), buffer->size() * sizeof(kernels::BFloat16));
    }
  }
  for (const auto* buffer : {&expert_ids_, &all_expert_ids_}) {
    if (buffer->size() > 0) all.emplace_back(buffer->data(), buffer->size() * sizeof(int32_t));
  }
  return all;
}

kernels::cuda::Holders ExchangeBuffers::holders() const {
  return {.rank_of_expert = rank_of_expert_.data(),
          .local_of_expert = local_of_expert_.data(),
          .num_experts = shape_.num_experts};
}

kernels::cuda::CompactPlaces ExchangeBuffers::incoming() const {
  return {.rows_before = places_.data(),
          .pairs_before = places_.data() + sizes_.places,
          .row_bounds = bounds_.data(),
          .pair_bounds = bounds_.data() + NumSources(shape_) + 1};
}

kernels::cuda::CompactPlaces ExchangeBuffers::outgoing() const {
  int32_t* const bounds = bounds_.data() + int64_t{2} * (NumSources(shape_) + 1);
  return {.rows_before = places_.data() + 2 * sizes_.places,
          .pairs_before = places_.data() + 3 * sizes_.places,
          .row_bounds = bounds,
          .pair_bounds = bounds + shape_.num_ranks + 1};
}

absl::Status ExchangeBuffers::ReadBounds(const device::Stream& stream) {
  return device::CopyToHost<int32_t>(
      bounds_.data(), absl::MakeSpan(host_bounds_.data(), host_bounds_.size()), stream);
}

ExchangeBuffers::Bounds ExchangeBuffers::bounds() const {
  const size_t sources = static_cast<size_t>(NumSources(shape_)) + 1;
  const size_t ranks = static_cast<size_t>(shape_.num_ranks) + 1;
  const absl::Span<const int32_t> all(host_bounds_.data(), host_bounds_.size());
  return {.incoming_rows = all.subspan(0, sources),
          .incoming_pairs = all.subspan(sources, sources),
          .outgoing_rows = all.subspan(2 * sources, ranks),
          .outgoing_pairs = all.subspan(2 * sources + ranks, ranks)};
}

}  // namespace moe::exchange
