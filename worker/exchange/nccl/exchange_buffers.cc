#include "worker/exchange/nccl/exchange_buffers.h"

#include <algorithm>

namespace moe::exchange {
namespace {

using device::DeviceBuffer;

template <typename Buffer>
absl::Status Make(int64_t size, Buffer* buffer) {
  auto made = Buffer::Create(size);
  if (!made.ok()) return made.status();
  *buffer = *std::move(made);
  return absl::OkStatus();
}

absl::Status MakeFrom(const std::vector<int32_t>& values, const device::Stream& stream,
                      DeviceBuffer<int32_t>* buffer) {
  absl::Status status = Make(static_cast<int64_t>(values.size()), buffer);
  if (!status.ok()) return status;
  return device::CopyToDevice<int32_t>(values, buffer->data(), stream);
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
  absl::Status status = buffers->Allocate(stream);
  // The copies above read memory of this call.
  if (status.ok()) status = stream.Synchronize();
  if (!status.ok()) return status;
  return buffers;
}

absl::Status ExchangeBuffers::Allocate(const device::Stream& stream) {
  std::vector<int32_t> ranks(shape_.rank_of_expert.begin(), shape_.rank_of_expert.end());
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
  const int64_t hidden = shape_.hidden;
  const int64_t num_bounds = 2 * (NumSources(shape_) + 1) + 2 * (shape_.num_ranks + 1);
  const int64_t num_canaries = 1 + 2 * shape_.num_ranks;
  for (const absl::Status& status :
       {Make(sizes_.rows * hidden, &rows_),
        Make(sizes_.input * hidden, &input_),
        Make(sizes_.packed * hidden, &packed_),
        Make(sizes_.outputs * hidden, &outputs_),
        Make(sizes_.returned * hidden, &returned_),
        Make(sizes_.result * hidden, &result_),
        Make(sizes_.expert_ids, &expert_ids_),
        Make(sizes_.all_expert_ids, &all_expert_ids_),
        Make(sizes_.pairs, &pairs_),
        MakeFrom(ranks, stream, &rank_of_expert_),
        MakeFrom(locals, stream, &local_of_expert_),
        MakeFrom(host_slots_, stream, &slots_),
        MakeFrom(before, stream, &slots_before_),
        Make(4 * sizes_.places, &places_),
        Make(num_bounds, &bounds_),
        Make(num_bounds, &host_bounds_),
        Make(kernels::cuda::ExchangeScratchSize(sizes_.scratch_items), &scratch_),
        Make(NumLocalExperts(shape_, rank_) + 1, &offsets_),
        Make(NumSources(shape_), &num_rows_),
        Make(NumSources(shape_), &host_num_rows_),
        Make(num_canaries, &canary_),
        Make(num_canaries, &host_canary_)}) {
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
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
