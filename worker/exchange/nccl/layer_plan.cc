#include "worker/exchange/nccl/layer_plan.h"

#include <algorithm>

namespace moe::exchange {
namespace {

using Kind = Transfer::Kind;

size_t RowBytesOf(const GroupShape& shape) { return sizeof(kernels::BFloat16) * shape.hidden; }

// The number of units that bounds give to a rank.
int64_t CountOf(absl::Span<const int32_t> bounds, int rank) {
  const auto next = static_cast<size_t>(rank) + 1;
  return next < bounds.size() ? int64_t{bounds[next]} - bounds[rank] : 0;
}

}  // namespace

void PlanGather(const GroupShape& shape, int rank, absl::Span<const int> count, int stride,
                size_t row_bytes, ExchangeBuffer own, ExchangeBuffer all, LayerPlan* plan) {
  if (shape.num_ranks == 1) return;
  const auto num_sources = static_cast<int>(count.size());
  if (num_sources == shape.num_ranks) {
    plan->push_back({.kind = Kind::kAllGather,
                     .from = own,
                     .to = all,
                     .num_bytes = row_bytes * static_cast<size_t>(stride)});
    return;
  }
  for (int source = 0; source < num_sources; ++source) {
    if (count[source] == 0) continue;
    const size_t offset = row_bytes * static_cast<size_t>(stride) * source;
    plan->push_back({.kind = Kind::kBroadcast,
                     .peer = source,
                     .from = source == rank ? own : all,
                     .from_offset = source == rank ? 0 : offset,
                     .to = all,
                     .to_offset = offset,
                     .num_bytes = row_bytes * static_cast<size_t>(count[source])});
  }
}

LayerPlan PlanExact(int rank, absl::Span<const int32_t> send_bounds,
                    absl::Span<const int32_t> receive_bounds, size_t unit_bytes,
                    ExchangeBuffer from, ExchangeBuffer to) {
  LayerPlan plan;
  const auto num_ranks = static_cast<int>(std::max(send_bounds.size(), receive_bounds.size())) - 1;
  for (int peer = 0; peer < num_ranks; ++peer) {
    if (peer == rank) continue;
    if (const int64_t count = CountOf(send_bounds, peer); count > 0) {
      plan.push_back({.kind = Kind::kSend,
                      .peer = peer,
                      .from = from,
                      .from_offset = unit_bytes * static_cast<size_t>(send_bounds[peer]),
                      .num_bytes = unit_bytes * static_cast<size_t>(count)});
    }
    if (const int64_t count = CountOf(receive_bounds, peer); count > 0) {
      plan.push_back({.kind = Kind::kReceive,
                      .peer = peer,
                      .to = to,
                      .to_offset = unit_bytes * static_cast<size_t>(receive_bounds[peer]),
                      .num_bytes = unit_bytes * static_cast<size_t>(count)});
    }
  }
  return plan;
}

LayerPlan PlanSlotsBack(const GroupShape& shape, int rank, absl::Span<const int> count, int stride,
                        absl::Span<const int32_t> slots) {
  LayerPlan plan;
  const size_t row_bytes = RowBytesOf(shape);
  const auto num_sources = static_cast<int>(count.size());
  size_t slots_before = 0;
  for (int peer = 0; peer < shape.num_ranks; ++peer) {
    if (peer != rank && peer < num_sources && count[peer] > 0 && slots[rank] > 0) {
      plan.push_back({.kind = Kind::kSend,
                      .peer = peer,
                      .from = ExchangeBuffer::kOutputs,
                      .from_offset = row_bytes * stride * slots[rank] * peer,
                      .num_bytes = row_bytes * count[peer] * slots[rank]});
    }
    if (peer != rank && rank < num_sources && count[rank] > 0 && slots[peer] > 0) {
      plan.push_back({.kind = Kind::kReceive,
                      .peer = peer,
                      .to = ExchangeBuffer::kReturned,
                      .to_offset = row_bytes * stride * slots_before,
                      .num_bytes = row_bytes * count[rank] * slots[peer]});
    }
    slots_before += slots[peer];
  }
  return plan;
}

LayerPlan PlanReplicatedSlots(const GroupShape& shape, int num_rows,
                              absl::Span<const int32_t> slots) {
  if (shape.num_ranks == 1) return {};
  return {{.kind = Kind::kAllGather,
           .from = ExchangeBuffer::kOutputs,
           .to = ExchangeBuffer::kReturned,
           .num_bytes = RowBytesOf(shape) * num_rows * slots[0]}};
}

LayerPlan PlanReplicatedExact(const GroupShape& shape, absl::Span<const int32_t> bounds) {
  LayerPlan plan;
  if (shape.num_ranks == 1) return plan;
  const size_t row_bytes = RowBytesOf(shape);
  for (int rank = 0; rank < shape.num_ranks; ++rank) {
    const int64_t count = CountOf(bounds, rank);
    if (count <= 0) continue;
    const size_t offset = row_bytes * static_cast<size_t>(bounds[rank]);
    plan.push_back({.kind = Kind::kBroadcast,
                    .peer = rank,
                    .from = ExchangeBuffer::kReturned,
                    .from_offset = offset,
                    .to = ExchangeBuffer::kReturned,
                    .to_offset = offset,
                    .num_bytes = row_bytes * static_cast<size_t>(count)});
  }
  return plan;
}

}  // namespace moe::exchange
