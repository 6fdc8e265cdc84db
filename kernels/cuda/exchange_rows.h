// What lies between the rows of a layer and the transfers that carry them to the ranks of their
// experts and back: counting, packing, sorting and scattering, without atomics, so that every place
// follows from the routes alone.
//
// Words: a source has rows and chose experts for them (its routes); a holder is a rank that holds
// experts. A pair is (row, chosen expert). All ranks have the routes of all sources and compute the
// same places from them, so rows and outputs travel bare: no lists of what they are.
//
//   compact   only what goes to or comes from a rank, in the order of sources or holders, then of
//             rows, then of expert ids; counts differ from layer to layer
//   slots     each row has `slots` outputs at each holder, used or not; counts are fixed
//
// Pointers are to device memory; everything is enqueued in gpu.stream. Expert ids that no rank
// holds are no pairs.
//
// Tested by tests/kernels/cuda/exchange_rows_test.cc.
#ifndef MOE_KERNELS_CUDA_EXCHANGE_ROWS_H_
#define MOE_KERNELS_CUDA_EXCHANGE_ROWS_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/bf16.h"
#include "kernels/cuda/gpu.h"
#include "kernels/experts.h"

namespace moe::kernels::cuda {

// The experts that sources chose for their rows.
struct Routes {
  const int32_t* expert_ids = nullptr;  // [num_sources, stride, top_k], distinct within a row
  const int32_t* num_rows = nullptr;    // [num_sources]: rows that are there, at most `stride`
  int num_sources = 0;
  int stride = 0;
  int top_k = 0;
};

// Who holds which expert.
struct Holders {
  const int32_t* rank_of_expert = nullptr;   // [num_experts]
  const int32_t* local_of_expert = nullptr;  // [num_experts]: its place among those of its rank
  int num_experts = 0;
};

// Compact places, for groups of `stride` rows each (CountIncoming, CountOutgoing).
struct CompactPlaces {
  int32_t* rows_before = nullptr;   // [num_groups, stride]: rows that count before this one
  int32_t* pairs_before = nullptr;  // [num_groups, stride]: pairs that count before its first
  int32_t* row_bounds = nullptr;    // [num_groups + 1]: those of group g begin at bounds[g]
  int32_t* pair_bounds = nullptr;   // [num_groups + 1]
};

// Elements of int32 scratch that a call with so many items needs. Items: groups * stride; of
// SortIncoming: local experts * sources * stride.
int64_t ExchangeScratchSize(int64_t num_items);

// The rows of each source that `holder` needs: groups are sources.
// InvalidArgument for more than 2^31 - 1 items, here and below.
absl::Status CountIncoming(const Gpu& gpu, const Routes& routes, const Holders& holders, int holder,
                           int32_t* scratch, const CompactPlaces& places);

// The rows of one source that each rank needs: groups are the num_ranks holders.
// REQUIRES: routes.num_sources == 1
absl::Status CountOutgoing(const Gpu& gpu, const Routes& routes, const Holders& holders,
                           int num_ranks, int32_t* scratch, const CompactPlaces& places);

// Where a holder has the rows of all sources, and where their outputs go. Row t of source s is row
// g = s * stride + t of the routes.
struct IncomingPlaces {
  const int32_t* rows_before = nullptr;   // [sources, stride] compact; null: row g is at g
  const int32_t* pairs_before = nullptr;  // [sources, stride] compact; null: slots
  int slots = 0;                          // output j of row g is at g * slots + j
};

// The pairs of a holder's experts, sorted by expert, then by row.
//   offsets  [num_local_experts + 1]: local expert e has the pairs offsets[e] .. offsets[e + 1] - 1
//   rows     [pairs of this holder]
absl::Status SortIncoming(const Gpu& gpu, const Routes& routes, const Holders& holders, int holder,
                          int num_local_experts, const IncomingPlaces& places, int32_t* scratch,
                          int32_t* offsets, ExpertRow* rows);

// Copies each row of one source once for each rank that needs it: to its compact place in `packed`,
// or, for `self`, to where that rank has it among what comes in.
//   rows      [stride, hidden] bf16
//   packed    [pairs of the source at most, hidden] bf16; the part of `self` is left alone
//   received  [rows that come in, hidden] bf16
// outgoing: by CountOutgoing; incoming: by CountIncoming, for `self`.
absl::Status PackRows(const Gpu& gpu, const Routes& routes, const Holders& holders, int self,
                      const CompactPlaces& outgoing, const CompactPlaces& incoming,
                      const BFloat16* rows, int hidden, BFloat16* packed, BFloat16* received);

// Where a source finds the outputs of its rows' experts.
struct ReturnedPlaces {
  // Slots, or null: output j of row t at holder h is at
  //   slots_before[h] * num_slot_rows + t * slots[h] + j
  const int32_t* slots = nullptr;         // [num_ranks]
  const int32_t* slots_before = nullptr;  // [num_ranks]: their sums up to h
  int num_slot_rows = 0;
  // Compact, by CountOutgoing.
  const int32_t* pairs_before = nullptr;  // [num_ranks, stride]
  const int32_t* pair_bounds = nullptr;   // [num_ranks + 1]; used for `self`
  // The rank whose outputs are still where its experts wrote them, from own_begin on; -1: none.
  int self = -1;
  const BFloat16* own = nullptr;  // [any, hidden]
  int own_begin = 0;
};

// out[t][j] = the output of the j-th expert of row t.
//   returned  [any, hidden] bf16
//   out       [rows, top_k, hidden] bf16
// REQUIRES: routes.num_sources == 1
absl::Status ScatterReturned(const Gpu& gpu, const Routes& routes, const Holders& holders,
                             const ReturnedPlaces& places, const BFloat16* returned, int hidden,
                             BFloat16* out);

}  // namespace moe::kernels::cuda

#endif  // MOE_KERNELS_CUDA_EXCHANGE_ROWS_H_
