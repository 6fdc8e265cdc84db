#include "planner/exchange.h"

#include <algorithm>
#include <cmath>

#include "planner/balance.h"

namespace moe::planner {
namespace {

// Bytes of one GPU in one phase.
struct Traffic {
  double node_bytes = 0;
  double network_bytes = 0;
};

// An all-gather or reduce-scatter of `bytes`, all ranks' together.
Traffic Ring(const ExchangeShape& shape, double bytes) {
  const double ranks = shape.num_ranks;
  const double nodes = std::ceil(ranks / shape.ranks_per_node);
  Traffic traffic;
  traffic.network_bytes = bytes * (nodes - 1) / nodes / shape.ranks_per_node;
  if (shape.ranks_per_node > 1) traffic.node_bytes = bytes * (ranks - 1) / ranks;
  return traffic;
}

// Bytes that go from one owner to ranks spread evenly, itself included.
Traffic Spread(const ExchangeShape& shape, double bytes) {
  const double near = std::min(shape.ranks_per_node, shape.num_ranks);
  return {.node_bytes = bytes * (near - 1) / shape.num_ranks,
          .network_bytes = bytes * (shape.num_ranks - near) / shape.num_ranks};
}

// As Spread, but the network carries a row once for each other node that it goes to.
Traffic Forwarded(const ExchangeShape& shape, double row_bytes) {
  const int nodes = (shape.num_ranks + shape.ranks_per_node - 1) / shape.ranks_per_node;
  const double on_nodes = ExpectedDistinctRanks(shape.num_experts, shape.top_k, nodes);
  const double on_ranks = ExpectedDistinctRanks(shape.num_experts, shape.top_k, shape.num_ranks);
  return {.node_bytes = shape.rows_per_owner * on_ranks * row_bytes,
          .network_bytes = shape.rows_per_owner * on_nodes * row_bytes * (nodes - 1) / nodes};
}

PhaseTime Time(const Traffic& traffic, double latency, double node_latency, double owners,
               const Network& network, double node_link_bytes_per_second) {
  const ExchangeLibrary& library = network.library;
  PhaseTime time;
  time.latency_seconds = traffic.network_bytes > 0 ? latency : node_latency;
  time.node_seconds =
      owners * traffic.node_bytes / (node_link_bytes_per_second * library.node_link_efficiency);
  time.network_seconds =
      owners * traffic.network_bytes / (network.link_bytes_per_second * library.link_efficiency);
  return time;
}

double SlotsPerRow(const ExchangeShape& shape) {
  return std::min<double>(shape.top_k,
                          std::max(1, shape.num_experts * shape.copies / shape.num_ranks));
}

}  // namespace

double BytesPerGpu(Exchange exchange, int num_ranks, int num_experts, int top_k, double num_rows,
                   double row_bytes) {
  const double others = (num_ranks - 1.0) / num_ranks;
  const double own_rows = num_rows / num_ranks;
  switch (exchange) {
    case Exchange::kNone:
      return 0;
    case Exchange::kReduce:
    case Exchange::kGatherScatter:
      return 2 * others * num_rows * row_bytes;
    case Exchange::kGather:
      return others * num_rows * top_k * row_bytes;
    case Exchange::kAllToAll:
      return own_rows * (ExpectedDistinctRanks(num_experts, top_k, num_ranks) + top_k) * row_bytes;
    case Exchange::kSlots:
      return others * num_rows * row_bytes +
             (num_ranks - 1.0) * own_rows *
                 std::min<double>(top_k, std::max(1, num_experts / num_ranks)) * row_bytes;
  }
  return 0;
}

double MessagesPerOwner(const ExchangeShape& shape) {
  const double ranks = shape.num_ranks;
  const double reached_by_one =
      ExpectedDistinctRanks(shape.num_experts, shape.top_k, shape.num_ranks);
  const double reached =
      ranks * (1 - std::pow(1 - reached_by_one / ranks, std::max(shape.rows_per_owner, 1.0)));
  return reached * (ranks - 1) / ranks;
}

ExchangeTime TimeOfExchange(Exchange exchange, const ExchangeShape& shape, const Network& network,
                            double node_link_bytes_per_second) {
  if (exchange == Exchange::kNone || shape.num_ranks <= 1) return {};
  Traffic dispatch;
  Traffic combine;
  bool has_dispatch = true;
  switch (exchange) {
    case Exchange::kNone:
      break;
    case Exchange::kReduce:
      // An all-reduce is both: outputs are summed to their ranks, then spread.
      dispatch = combine = Ring(shape, shape.num_rows * shape.combine_row_bytes);
      break;
    case Exchange::kGather:
      has_dispatch = false;
      combine = Ring(shape, shape.num_rows * shape.top_k * shape.combine_row_bytes);
      break;
    case Exchange::kGatherScatter:
      dispatch = Ring(shape, shape.num_rows * shape.dispatch_row_bytes);
      combine = Ring(shape, shape.num_rows * shape.combine_row_bytes);
      break;
    case Exchange::kAllToAll:
      if (network.library.forwards_within_node) {
        dispatch = Forwarded(shape, shape.dispatch_row_bytes);
        combine = Forwarded(shape, shape.combine_row_bytes);
        break;
      }
      dispatch =
          Spread(shape, shape.rows_per_owner *
                            ExpectedDistinctRanks(shape.num_experts, shape.top_k, shape.num_ranks) *
                            shape.dispatch_row_bytes);
      combine = Spread(shape, shape.rows_per_owner * shape.top_k * shape.combine_row_bytes);
      break;
    case Exchange::kSlots: {
      const double slots = BucketRows(shape.rows_per_owner);
      dispatch = Ring(shape, slots * shape.attention_ranks * shape.dispatch_row_bytes);
      combine =
          Spread(shape, slots * SlotsPerRow(shape) * shape.num_ranks * shape.combine_row_bytes);
      break;
    }
  }
  const ExchangeLibrary& library = network.library;
  ExchangeTime time;
  if (has_dispatch) {
    time.dispatch =
        Time(dispatch, library.dispatch_latency_seconds, library.node_dispatch_latency_seconds,
             shape.owners_at_once, network, node_link_bytes_per_second);
    time.dispatch.latency_seconds += shape.owners_at_once * MessagesPerOwner(shape) *
                                     library.node_message_seconds / shape.core_share;
  }
  time.combine =
      Time(combine, library.combine_latency_seconds, library.node_combine_latency_seconds,
           shape.owners_at_once, network, node_link_bytes_per_second);
  // Without a dispatch every rank has a message for all others: it has arrived.
  if (!has_dispatch) {
    time.combine.latency_seconds += shape.num_ranks * library.node_message_seconds;
  }
  return time;
}

double BucketRows(double num_rows) {
  if (num_rows > 4) return std::ceil(num_rows / 8) * 8;
  return num_rows > 2 ? 4 : std::max(1.0, std::ceil(num_rows));
}

}  // namespace moe::planner
