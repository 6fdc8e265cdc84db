// What NcclExchange does in a layer, for each pattern.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "worker/exchange/nccl/nccl_exchange.h"

namespace moe::exchange {

using kernels::BFloat16;
using kernels::cuda::IncomingPlaces;
using kernels::cuda::ReturnedPlaces;
using kernels::cuda::Routes;

absl::StatusOr<const BFloat16*> NcclExchange::RunLayer(int layer) {
  // Where a bucket's step is, only a graph may know.
  absl::Status status = is_bucket_ ? epoch_->CheckLayer(layer) : epoch_->BeginLayer(layer);
  if (!status.ok()) return status;
  switch (pattern_.pattern) {
    case Pattern::kSlots:
      status = RunSlots(layer);
      break;
    case Pattern::kAllToAll:
      status = RunAllToAll(layer);
      break;
    case Pattern::kReplicatedSlots:
      status = RunReplicatedSlots(layer);
      break;
    case Pattern::kReplicatedExact:
      status = RunReplicatedExact(layer);
      break;
  }
  // Half a layer can't be gone on from. What NCCL or another rank did has ended the epoch already.
  if (!status.ok()) return epoch_->Fail(std::move(status), epoch_->rank());
  return num_own_rows() > 0 ? buffers_->result() : nullptr;
}

// ---- Parts

Routes NcclExchange::own_routes() const {
  return {.expert_ids = buffers_->expert_ids(),
          .num_rows = buffers_->device_num_rows() + own_source(),
          .num_sources = 1,
          .stride = num_own_rows(),
          .top_k = shape_.top_k};
}

Routes NcclExchange::all_routes() const {
  return {.expert_ids = buffers_->all_expert_ids(),
          .num_rows = buffers_->device_num_rows(),
          .num_sources = NumSources(shape_),
          .stride = pattern_.stride,
          .top_k = shape_.top_k};
}

uint64_t NcclExchange::BytesIn(const LayerPlan& plan) const {
  uint64_t num_bytes = 0;
  for (const PlannedTransfer& planned : plan) {
    switch (planned.kind) {
      case Transfer::Kind::kAllGather:
        num_bytes += planned.num_bytes * (shape_.num_ranks - 1);
        break;
      case Transfer::Kind::kBroadcast:
        if (planned.peer != epoch_->rank()) num_bytes += planned.num_bytes;
        break;
      case Transfer::Kind::kReceive:
        num_bytes += planned.num_bytes;
        break;
      case Transfer::Kind::kSend:
        break;
    }
  }
  return num_bytes;
}

absl::Status NcclExchange::Move(const LayerPlan& plan, Counter* bytes) {
  transfers_.clear();
  for (const PlannedTransfer& planned : plan) {
    const auto at = [this](ExchangeBuffer buffer, size_t offset) -> char* {
      return static_cast<char*>(buffers_->address(buffer)) + offset;
    };
    const bool has_from = planned.kind != Transfer::Kind::kReceive;
    const bool has_to = planned.kind != Transfer::Kind::kSend;
    transfers_.push_back({.kind = planned.kind,
                          .peer = planned.peer,
                          .from = has_from ? at(planned.from, planned.from_offset) : nullptr,
                          .to = has_to ? at(planned.to, planned.to_offset) : nullptr,
                          .num_bytes = planned.num_bytes});
  }
  if (!is_bucket_) bytes->Add(BytesIn(plan));
  return epoch_->Enqueue(transfers_);
}

absl::Status NcclExchange::RunExperts(int layer, const Routes& routes, const IncomingPlaces& places,
                                      const DevicePairs& bounds, const BFloat16* x, BFloat16* out) {
  if (bounds.max_pairs == 0) return absl::OkStatus();
  absl::Status status = kernels::cuda::SortIncoming(
      gpu_, routes, buffers_->holders(), epoch_->rank(), num_local_experts_, places,
      buffers_->scratch(), buffers_->offsets(), buffers_->pairs());
  if (!status.ok()) return status;
  DevicePairs pairs = bounds;
  pairs.offsets = buffers_->offsets();
  pairs.rows = buffers_->pairs();
  return experts_->Run(layer, pairs, x, out);
}

absl::Status NcclExchange::Scatter(const ReturnedPlaces& places) {
  if (num_own_rows() == 0) return absl::OkStatus();
  return kernels::cuda::ScatterReturned(gpu_, own_routes(), buffers_->holders(), places,
                                        buffers_->returned(), shape_.hidden, buffers_->result());
}

absl::Status NcclExchange::ReadBounds() {
  absl::Status status = buffers_->ReadBounds(*stream_);
  return status.ok() ? AwaitStream() : status;
}

// Bounds become sizes and addresses of transfers, so they are looked at first: routes that a GPU or
// a link has damaged must not become a write out of bounds.
absl::Status NcclExchange::CheckBounds(bool has_incoming, bool has_outgoing) const {
  const ExchangeBuffers::Bounds bounds = buffers_->bounds();
  const int64_t in_rows = num_all_rows_;
  const int64_t out_rows = int64_t{num_own_rows()} * std::min(shape_.num_ranks, shape_.top_k);
  const auto check = [](absl::Span<const int32_t> values, int64_t limit) {
    return values.front() == 0 && std::is_sorted(values.begin(), values.end()) &&
           values.back() <= limit;
  };
  if ((!has_incoming || (check(bounds.incoming_rows, in_rows) &&
                         check(bounds.incoming_pairs, in_rows * shape_.top_k))) &&
      (!has_outgoing || (check(bounds.outgoing_rows, out_rows) &&
                         check(bounds.outgoing_pairs, int64_t{num_own_rows()} * shape_.top_k)))) {
    return absl::OkStatus();
  }
  return absl::InternalError("the GPU counted rows that can't be: the routes are damaged");
}

// ---- Patterns

LayerPlan NcclExchange::SlotsOut() const {
  LayerPlan plan;
  if (shape_.replicated) return plan;
  PlanGather(shape_, epoch_->rank(), count_, pattern_.stride, sizeof(BFloat16) * shape_.hidden,
             ExchangeBuffer::kRows, ExchangeBuffer::kInput, &plan);
  PlanGather(shape_, epoch_->rank(), count_, pattern_.stride, sizeof(int32_t) * shape_.top_k,
             ExchangeBuffer::kExpertIds, ExchangeBuffer::kAllExpertIds, &plan);
  return plan;
}

LayerPlan NcclExchange::SlotsBack() const {
  if (shape_.replicated) return PlanReplicatedSlots(shape_, num_all_rows_, buffers_->slots());
  return PlanSlotsBack(shape_, epoch_->rank(), count_, pattern_.stride, buffers_->slots());
}

absl::Status NcclExchange::RunSlots(int layer) {
  const int stride = pattern_.stride;
  const int rank = epoch_->rank();
  absl::Status status = Move(SlotsOut(), &counters_.dispatch_bytes);
  if (!status.ok()) return status;

  const int slots = buffers_->slots()[rank];
  status = RunExperts(
      layer, all_routes(), {.slots = slots},
      {.max_pairs = num_all_rows_ * slots, .max_pairs_of_expert = slots > 0 ? num_all_rows_ : 0},
      buffers_->input(), buffers_->outputs());
  if (!status.ok()) return status;
  // Alone, a row's outputs are in the order of its experts already.
  if (shape_.num_ranks == 1) return absl::OkStatus();

  status = Move(SlotsBack(), &counters_.combine_bytes);
  if (!status.ok()) return status;
  return Scatter({.slots = buffers_->device_slots(),
                  .slots_before = buffers_->device_slots_before(),
                  .num_slot_rows = stride,
                  .self = rank,
                  .own = buffers_->outputs(),
                  .own_begin = rank * stride * slots});
}

absl::Status NcclExchange::RunAllToAll(int layer) {
  const int rank = epoch_->rank();
  const bool has_incoming = num_local_experts_ > 0;
  const bool has_outgoing = num_own_rows() > 0;
  LayerPlan plan;
  PlanGather(shape_, rank, count_, pattern_.stride, sizeof(int32_t) * shape_.top_k,
             ExchangeBuffer::kExpertIds, ExchangeBuffer::kAllExpertIds, &plan);
  absl::Status status = Move(plan, &counters_.dispatch_bytes);
  if (status.ok() && has_incoming) {
    status = kernels::cuda::CountIncoming(gpu_, all_routes(), buffers_->holders(), rank,
                                          buffers_->scratch(), buffers_->incoming());
  }
  if (status.ok() && has_outgoing) {
    status = kernels::cuda::CountOutgoing(gpu_, own_routes(), buffers_->holders(), shape_.num_ranks,
                                          buffers_->scratch(), buffers_->outgoing());
  }
  if (status.ok()) status = ReadBounds();
  if (status.ok()) status = CheckBounds(has_incoming, has_outgoing);
  if (!status.ok()) return status;
  ExchangeBuffers::Bounds bounds = buffers_->bounds();
  if (!has_incoming) bounds.incoming_rows = bounds.incoming_pairs = {};
  if (!has_outgoing) bounds.outgoing_rows = bounds.outgoing_pairs = {};

  if (has_outgoing) {
    status = kernels::cuda::PackRows(gpu_, own_routes(), buffers_->holders(), rank,
                                     buffers_->outgoing(), buffers_->incoming(), buffers_->rows(),
                                     shape_.hidden, buffers_->packed(), buffers_->input());
    if (!status.ok()) return status;
  }
  const size_t row_bytes = sizeof(BFloat16) * shape_.hidden;
  status = Move(PlanExact(rank, bounds.outgoing_rows, bounds.incoming_rows, row_bytes,
                          ExchangeBuffer::kPacked, ExchangeBuffer::kInput),
                &counters_.dispatch_bytes);
  if (!status.ok()) return status;

  const int num_pairs = has_incoming ? bounds.incoming_pairs.back() : 0;
  const int num_rows = has_incoming ? bounds.incoming_rows.back() : 0;
  status = RunExperts(layer, all_routes(),
                      {.rows_before = buffers_->incoming().rows_before,
                       .pairs_before = buffers_->incoming().pairs_before},
                      {.max_pairs = num_pairs, .max_pairs_of_expert = num_rows}, buffers_->input(),
                      buffers_->outputs());
  if (!status.ok()) return status;

  status = Move(PlanExact(rank, bounds.incoming_pairs, bounds.outgoing_pairs, row_bytes,
                          ExchangeBuffer::kOutputs, ExchangeBuffer::kReturned),
                &counters_.combine_bytes);
  if (!status.ok()) return status;
  return Scatter({.pairs_before = buffers_->outgoing().pairs_before,
                  .pair_bounds = buffers_->outgoing().pair_bounds,
                  .self = has_incoming ? rank : -1,
                  .own = buffers_->outputs(),
                  .own_begin = has_incoming && has_outgoing ? bounds.incoming_pairs[rank] : 0});
}

absl::Status NcclExchange::RunReplicatedSlots(int layer) {
  const int slots = buffers_->slots()[epoch_->rank()];
  absl::Status status =
      RunExperts(layer, own_routes(), {.slots = slots},
                 {.max_pairs = num_local_experts_ > 0 ? num_all_rows_ * slots : 0,
                  .max_pairs_of_expert = num_local_experts_ > 0 ? num_all_rows_ : 0},
                 buffers_->rows(), buffers_->outputs());
  if (!status.ok() || shape_.num_ranks == 1) return status;
  status = Move(SlotsBack(), &counters_.combine_bytes);
  if (!status.ok()) return status;
  return Scatter({.slots = buffers_->device_slots(),
                  .slots_before = buffers_->device_slots_before(),
                  .num_slot_rows = num_all_rows_});
}

absl::Status NcclExchange::RunReplicatedExact(int layer) {
  const int rank = epoch_->rank();
  absl::Status status =
      kernels::cuda::CountOutgoing(gpu_, own_routes(), buffers_->holders(), shape_.num_ranks,
                                   buffers_->scratch(), buffers_->outgoing());
  if (status.ok()) status = ReadBounds();
  if (status.ok()) status = CheckBounds(/*has_incoming=*/false, /*has_outgoing=*/true);
  if (!status.ok()) return status;
  const ExchangeBuffers::Bounds bounds = buffers_->bounds();
  const int num_pairs = bounds.outgoing_pairs[rank + 1] - bounds.outgoing_pairs[rank];
  const int num_rows = bounds.outgoing_rows[rank + 1] - bounds.outgoing_rows[rank];
  // The experts write where all ranks have the outputs of this one.
  status = RunExperts(
      layer, own_routes(),
      {.pairs_before = buffers_->outgoing().pairs_before + int64_t{rank} * num_own_rows()},
      {.max_pairs = num_pairs, .max_pairs_of_expert = num_rows}, buffers_->rows(),
      buffers_->returned());
  if (status.ok()) {
    status = Move(PlanReplicatedExact(shape_, bounds.outgoing_pairs), &counters_.combine_bytes);
  }
  if (!status.ok()) return status;
  return Scatter({.pairs_before = buffers_->outgoing().pairs_before});
}

}  // namespace moe::exchange
