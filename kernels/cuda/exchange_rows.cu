#include "absl/strings/str_format.h"
#include "kernels/cuda/exchange_rows.h"
#include "kernels/cuda/gemm_schedule.h"
#include "kernels/cuda/reduce.cuh"

namespace moe::kernels::cuda {

namespace {

// Items of a block that counts.
constexpr int kCountThreads = 256;
// Rows of a block that copies: one for each warp.
constexpr int kCopyWarps = 4;

// The rank that holds an expert; -1 for none.
__device__ inline int HolderOf(const Holders& holders, int32_t expert) {
  return expert < 0 || expert >= holders.num_experts ? -1 : holders.rank_of_expert[expert];
}

// Pairs of one row with the experts of one rank.
__device__ inline int NumPairsAt(const Routes& routes, const Holders& holders, int64_t row,
                                 int holder) {
  const int32_t* ids = routes.expert_ids + row * routes.top_k;
  int num_pairs = 0;
  for (int j = 0; j < routes.top_k; ++j) num_pairs += HolderOf(holders, ids[j]) == holder ? 1 : 0;
  return num_pairs;
}

// ---- What is counted: an item is a row in a group

struct IncomingItems {
  __device__ int NumPairs(int item) const {
    const int source = item / routes.stride;
    if (item % routes.stride >= routes.num_rows[source]) return 0;
    return NumPairsAt(routes, holders, item, holder);
  }
  __device__ void Place(int item, int /*num_pairs*/, int rows_before, int pairs_before) const {
    places.rows_before[item] = rows_before;
    places.pairs_before[item] = pairs_before;
    if (item % routes.stride == 0) Bound(item / routes.stride, rows_before, pairs_before);
  }
  __device__ void End(int num_rows, int num_pairs) const {
    Bound(routes.num_sources, num_rows, num_pairs);
  }
  __device__ void Bound(int group, int num_rows, int num_pairs) const {
    places.row_bounds[group] = num_rows;
    places.pair_bounds[group] = num_pairs;
  }

  Routes routes;
  Holders holders;
  int holder;
  CompactPlaces places;
};

struct OutgoingItems {
  __device__ int NumPairs(int item) const {
    const int row = item % routes.stride;
    return row >= routes.num_rows[0] ? 0 : NumPairsAt(routes, holders, row, item / routes.stride);
  }
  __device__ void Place(int item, int /*num_pairs*/, int rows_before, int pairs_before) const {
    places.rows_before[item] = rows_before;
    places.pairs_before[item] = pairs_before;
    if (item % routes.stride == 0) Bound(item / routes.stride, rows_before, pairs_before);
  }
  __device__ void End(int num_rows, int num_pairs) const { Bound(num_ranks, num_rows, num_pairs); }
  __device__ void Bound(int group, int num_rows, int num_pairs) const {
    places.row_bounds[group] = num_rows;
    places.pair_bounds[group] = num_pairs;
  }

  Routes routes;
  Holders holders;
  int num_ranks;
  CompactPlaces places;
};

// Groups are the holder's experts, so the order of items is that of the sorted pairs.
struct SortedItems {
  __device__ int NumPairs(int item) const {
    const int row = item % num_rows;
    if (row % routes.stride >= routes.num_rows[row / routes.stride]) return 0;
    return Find(item, nullptr) ? 1 : 0;
  }
  __device__ void Place(int item, int num_pairs, int /*rows_before*/, int pairs_before) const {
    const int row = item % num_rows;
    if (row == 0) offsets[item / num_rows] = pairs_before;
    if (num_pairs == 0) return;
    int output = 0;
    Find(item, &output);
    rows[pairs_before] = {
        places.rows_before == nullptr ? row : places.rows_before[row],
        (places.pairs_before == nullptr ? row * places.slots : places.pairs_before[row]) + output};
  }
  __device__ void End(int /*num_rows*/, int num_pairs) const {
    offsets[num_local_experts] = num_pairs;
  }
  // Whether the row chose this expert; which of its experts at this rank it is.
  __device__ bool Find(int item, int* output) const {
    const int local = item / num_rows;
    const int32_t* ids = routes.expert_ids + int64_t{item % num_rows} * routes.top_k;
    int before = 0;
    for (int j = 0; j < routes.top_k; ++j) {
      if (HolderOf(holders, ids[j]) != holder) continue;
      if (holders.local_of_expert[ids[j]] == local) {
        if (output != nullptr) *output = before;
        return true;
      }
      ++before;
    }
    return false;
  }

  Routes routes;
  Holders holders;
  int holder;
  int num_local_experts;
  int num_rows;  // of all sources: num_sources * stride
  IncomingPlaces places;
  int32_t* offsets;
  ExpertRow* rows;
};

// ---- Counting: sums of blocks, then each block adds up those before it and places its items

// sums [2, number of blocks]: rows that count, and pairs
template <typename Items>
__global__ void __launch_bounds__(kCountThreads)
    SumItems(Items items, int num_items, int32_t* sums) {
  AwaitEarlierKernels();
  const int item = static_cast<int>(blockIdx.x) * kCountThreads + static_cast<int>(threadIdx.x);
  const int num_pairs = item < num_items ? items.NumPairs(item) : 0;
  const int num_rows = BlockSum<kCountThreads>(num_pairs > 0 ? 1 : 0);
  const int all_pairs = BlockSum<kCountThreads>(num_pairs);
  if (threadIdx.x == 0) {
    sums[blockIdx.x] = num_rows;
    sums[gridDim.x + blockIdx.x] = all_pairs;
  }
}

// The sum over the threads before this one; *total: over all.
__device__ inline int BlockSumBefore(int value, int* total) {
  constexpr int kWarps = kCountThreads / kWarpSize;
  __shared__ int sums[kWarps];
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  int up_to = value;
  for (int distance = 1; distance < kWarpSize; distance *= 2) {
    const int other = __shfl_up_sync(kAllLanes, up_to, distance);
    if (lane >= distance) up_to += other;
  }
  if (lane == kWarpSize - 1) sums[warp] = up_to;
  __syncthreads();
  int before = up_to - value;
  *total = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) before += sums[w];
    *total += sums[w];
  }
  __syncthreads();  // the next call writes here
  return before;
}

template <typename Items>
__global__ void __launch_bounds__(kCountThreads)
    PlaceItems(Items items, int num_items, const int32_t* sums) {
  AwaitEarlierKernels();
  const int block = static_cast<int>(blockIdx.x);
  int rows_before = 0;
  int pairs_before = 0;
  for (int b = static_cast<int>(threadIdx.x); b < block; b += kCountThreads) {
    rows_before += sums[b];
    pairs_before += sums[gridDim.x + b];
  }
  rows_before = BlockSum<kCountThreads>(rows_before);
  pairs_before = BlockSum<kCountThreads>(pairs_before);

  const int item = block * kCountThreads + static_cast<int>(threadIdx.x);
  const int num_pairs = item < num_items ? items.NumPairs(item) : 0;
  int num_rows_here = 0;
  int num_pairs_here = 0;
  const int rows_here_before = BlockSumBefore(num_pairs > 0 ? 1 : 0, &num_rows_here);
  const int pairs_here_before = BlockSumBefore(num_pairs, &num_pairs_here);
  if (item < num_items) {
    items.Place(item, num_pairs, rows_before + rows_here_before, pairs_before + pairs_here_before);
  }
  if (threadIdx.x == 0 && blockIdx.x + 1 == gridDim.x) {
    items.End(rows_before + num_rows_here, pairs_before + num_pairs_here);
  }
}

template <typename Items>
absl::Status CountAndPlace(const Gpu& gpu, absl::string_view name, const Items& items,
                           int64_t num_items, int32_t* scratch) {
  if (num_items > INT32_MAX - kCountThreads) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: %d items; up to 2^31 are possible", name, num_items));
  }
  const dim3 grid(static_cast<unsigned int>(CeilDiv(num_items, kCountThreads)));
  absl::Status status = Launch(gpu, name, SumItems<Items>, grid, kCountThreads, 0, items,
                               static_cast<int>(num_items), scratch);
  if (!status.ok()) return status;
  return Launch(gpu, name, PlaceItems<Items>, grid, kCountThreads, 0, items,
                static_cast<int>(num_items), scratch);
}

// ---- Copying: a warp for each pair

// 16 bytes of a row.
struct alignas(16) RowChunk {
  uint32_t words[4];
};
constexpr int kChunkElements = sizeof(RowChunk) / sizeof(BFloat16);

__device__ inline void CopyRow(const BFloat16* from, BFloat16* to, int hidden) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  if (hidden % kChunkElements == 0) {
    const auto* chunks = reinterpret_cast<const RowChunk*>(from);
    auto* out = reinterpret_cast<RowChunk*>(to);
    for (int i = lane; i < hidden / kChunkElements; i += kWarpSize) out[i] = chunks[i];
  } else {
    for (int i = lane; i < hidden; i += kWarpSize) to[i] = from[i];
  }
}

// The pair that this warp copies: the j-th expert of a row.
struct WarpPair {
  int row;
  int j;
  int holder;
  int before;  // experts of the row at the same holder before this one
};

__device__ inline bool FindPair(const Routes& routes, const Holders& holders, WarpPair* pair) {
  const int index =
      static_cast<int>(blockIdx.x) * kCopyWarps + static_cast<int>(threadIdx.x) / kWarpSize;
  pair->row = index / routes.top_k;
  pair->j = index % routes.top_k;
  if (pair->row >= routes.stride || pair->row >= routes.num_rows[0]) return false;
  const int32_t* ids = routes.expert_ids + int64_t{pair->row} * routes.top_k;
  pair->holder = HolderOf(holders, ids[pair->j]);
  pair->before = 0;
  for (int j = 0; j < pair->j; ++j) {
    pair->before += HolderOf(holders, ids[j]) == pair->holder ? 1 : 0;
  }
  return pair->holder >= 0;
}

dim3 PairGrid(const Routes& routes) {
  return dim3(
      static_cast<unsigned int>(CeilDiv(int64_t{routes.stride} * routes.top_k, kCopyWarps)));
}

__global__ void __launch_bounds__(kCopyWarps* kWarpSize)
    PackPairs(Routes routes, Holders holders, int self, CompactPlaces outgoing,
              CompactPlaces incoming, const BFloat16* rows, int hidden, BFloat16* packed,
              BFloat16* received) {
  AwaitEarlierKernels();
  WarpPair pair;
  // A row that several experts of a rank need goes there once.
  if (!FindPair(routes, holders, &pair) || pair.before > 0) return;
  const int place = outgoing.rows_before[int64_t{pair.holder} * routes.stride + pair.row];
  BFloat16* to = packed + int64_t{place} * hidden;
  if (pair.holder == self) {
    to = received + int64_t{incoming.row_bounds[self] + place - outgoing.row_bounds[self]} * hidden;
  }
  CopyRow(rows + int64_t{pair.row} * hidden, to, hidden);
}

__global__ void __launch_bounds__(kCopyWarps* kWarpSize)
    ScatterPairs(Routes routes, Holders holders, ReturnedPlaces places, const BFloat16* returned,
                 int hidden, BFloat16* out) {
  AwaitEarlierKernels();
  WarpPair pair;
  if (!FindPair(routes, holders, &pair)) return;
  const bool is_own = pair.holder == places.self;
  int64_t place = pair.before;
  if (places.slots != nullptr) {
    place += int64_t{pair.row} * places.slots[pair.holder];
    if (!is_own) place += int64_t{places.slots_before[pair.holder]} * places.num_slot_rows;
  } else {
    place += places.pairs_before[int64_t{pair.holder} * routes.stride + pair.row];
    if (is_own) place -= places.pair_bounds[pair.holder];
  }
  if (is_own) place += places.own_begin;
  CopyRow((is_own ? places.own : returned) + place * hidden,
          out + (int64_t{pair.row} * routes.top_k + pair.j) * hidden, hidden);
}

}  // namespace

int64_t ExchangeScratchSize(int64_t num_items) { return 2 * CeilDiv(num_items, kCountThreads); }

absl::Status CountIncoming(const Gpu& gpu, const Routes& routes, const Holders& holders, int holder,
                           int32_t* scratch, const CompactPlaces& places) {
  return CountAndPlace(gpu, "counting rows that come in",
                       IncomingItems{routes, holders, holder, places},
                       int64_t{routes.num_sources} * routes.stride, scratch);
}

absl::Status CountOutgoing(const Gpu& gpu, const Routes& routes, const Holders& holders,
                           int num_ranks, int32_t* scratch, const CompactPlaces& places) {
  return CountAndPlace(gpu, "counting rows that go out",
                       OutgoingItems{routes, holders, num_ranks, places},
                       int64_t{num_ranks} * routes.stride, scratch);
}

absl::Status SortIncoming(const Gpu& gpu, const Routes& routes, const Holders& holders, int holder,
                          int num_local_experts, const IncomingPlaces& places, int32_t* scratch,
                          int32_t* offsets, ExpertRow* rows) {
  const int64_t num_rows = int64_t{routes.num_sources} * routes.stride;
  return CountAndPlace(gpu, "sorting rows that come in",
                       SortedItems{routes, holders, holder, num_local_experts,
                                   static_cast<int>(num_rows), places, offsets, rows},
                       num_rows * num_local_experts, scratch);
}

absl::Status PackRows(const Gpu& gpu, const Routes& routes, const Holders& holders, int self,
                      const CompactPlaces& outgoing, const CompactPlaces& incoming,
                      const BFloat16* rows, int hidden, BFloat16* packed, BFloat16* received) {
  return Launch(gpu, "packing rows", PackPairs, PairGrid(routes), kCopyWarps * kWarpSize, 0, routes,
                holders, self, outgoing, incoming, rows, hidden, packed, received);
}

absl::Status ScatterReturned(const Gpu& gpu, const Routes& routes, const Holders& holders,
                             const ReturnedPlaces& places, const BFloat16* returned, int hidden,
                             BFloat16* out) {
  return Launch(gpu, "scattering outputs", ScatterPairs, PairGrid(routes), kCopyWarps * kWarpSize,
                0, routes, holders, places, returned, hidden, out);
}

}  // namespace moe::kernels::cuda
