// How long it takes the rows of one layer to reach their experts, and the outputs to come back.
//
// T rows of a step over N expert ranks, of which A own rows; k experts per row; D distinct ranks of
// a row; r bytes of a row. Source of the byte counts: derived; ring collectives as NCCL and MPI
// have them.
//
// Tested by tests/planner/exchange_test.cc.
#ifndef MOE_PLANNER_EXCHANGE_H_
#define MOE_PLANNER_EXCHANGE_H_

#include "planner/hardware.h"
#include "planner/layout.h"

namespace moe::planner {

// Bytes that one GPU sends in one layer if every rank is a node of its own:
//   reduce, gather-scatter  2 (N-1)/N T r
//   gather                  (N-1)/N T k r       routed rows only
//   all-to-all              (T/N) (D + k) r     outputs come back unreduced
//   slots                   (N-1)/N T r + (N-1) (T/N) min(k, E/N) r
double BytesPerGpu(Exchange exchange, int num_ranks, int num_experts, int top_k, double num_rows,
                   double row_bytes);

struct ExchangeShape {
  int num_ranks = 1;          // N
  int ranks_per_node = 1;     // of one group
  int attention_ranks = 1;    // A
  int num_experts = 0;        // E
  int top_k = 0;              // k
  int copies = 1;             // of each expert
  double num_rows = 0;        // T, of all owners together
  double rows_per_owner = 0;  // of the busiest; T for replicated attention
  double dispatch_row_bytes = 0;
  double combine_row_bytes = 0;
  // Owners whose traffic adds up because they share a machine's cores; 1: each has its own links.
  double owners_at_once = 1;
  // Of the cores that messages of one owner alone wake ranks on, the share that they do now.
  double core_share = 1;
};

struct PhaseTime {
  double latency_seconds = 0;
  double node_seconds = 0;     // of the bytes that stay in the node
  double network_seconds = 0;  // of the bytes that leave it; both go at once
  double seconds() const {
    return latency_seconds + (node_seconds > network_seconds ? node_seconds : network_seconds);
  }
};

struct ExchangeTime {
  PhaseTime dispatch = {};
  PhaseTime combine = {};
};

// Messages from one owner to other ranks in one layer: ranks that its rows go to, itself left out.
double MessagesPerOwner(const ExchangeShape& shape);

// Of one layer. Collectives run one ring through each adapter of a node, so that a gathered byte
// enters a node once; rows that go to one rank leave through the sender's own adapter.
ExchangeTime TimeOfExchange(Exchange exchange, const ExchangeShape& shape, const Network& network,
                            double node_link_bytes_per_second);

// Rows that a captured graph is made for: 1, 2, 4, 8, then multiples of 8.
double BucketRows(double num_rows);

}  // namespace moe::planner

#endif  // MOE_PLANNER_EXCHANGE_H_
