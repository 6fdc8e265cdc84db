// What travels on a connection of the Tcp exchange: frames, each a fixed header and a body whose
// size follows from the header and the group's shape.
//
// A header is checked here before anything in it is used as a size or an index; what only the state
// of the epoch can say (is this the step and layer that can come now, from this rank?) is checked
// by the group. Both ends run the same program on the same architecture, which the numerics id
// guarantees, so numbers travel as they lie in memory (little-endian).
//
// Tested by tests/worker/exchange/tcp_frame_test.cc and tests/fuzz/tcp_frame_fuzz.cc.
#ifndef MOE_WORKER_EXCHANGE_TCP_FRAME_H_
#define MOE_WORKER_EXCHANGE_TCP_FRAME_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "worker/exchange/exchange.h"

namespace moe::exchange {

enum class FrameType : uint32_t {
  // Joining. A canary is one row; its echo has every bit changed in a way that depends on the rank.
  kCanary = 1,
  kEcho = 2,
  kReady = 3,    // to rank 0: all connections and canaries of this rank are good
  kStart = 4,    // from rank 0: so are those of all ranks
  kMissing = 5,  // from rank 0: `num_rows` is the rank without which it can't start
  // Steps.
  kPlan = 6,      // from rank 0
  kResult = 7,    // to rank 0
  kDispatch = 8,  // from an owner: [num_pairs] WirePair, padded; [num_rows, hidden] bf16
  kOutputs = 9,   // the answer: [num_pairs, hidden] bf16, in the order of the pairs
  kShare = 10,    // replicated: outputs of this rank's experts, for rows that all ranks have
  // The sender ends the epoch or, if layer is 1, only waits for too long. num_pairs: layers of
  // `step` that it began; num_rows: 1 + the rank that it suspects, 0 for none.
  kLastWords = 11,
};

struct FrameHeader {
  uint32_t magic = 0;
  FrameType type{};
  uint64_t epoch = 0;
  uint64_t step = 0;
  uint64_t digest = 0;     // kShare: of what was dispatched
  uint64_t num_bytes = 0;  // of the body
  int32_t layer = 0;
  int32_t num_rows = 0;
  int32_t num_pairs = 0;
  int32_t unused = 0;
};
static_assert(sizeof(FrameHeader) == 56);

// A pair of a kDispatch: a row of the same frame and an expert of the receiver. Sorted by expert.
struct WirePair {
  int32_t expert;
  int32_t row;
};
static_assert(sizeof(WirePair) == 8);

// Rows begin on a cache line of the body.
inline constexpr size_t kBodyAlignment = 64;
inline constexpr size_t kPairsPerLine = kBodyAlignment / sizeof(WirePair);

// Bytes that num_pairs take in a body.
constexpr size_t PairBytes(int32_t num_pairs) {
  return (static_cast<size_t>(num_pairs) + kPairsPerLine - 1) / kPairsPerLine * kBodyAlignment;
}
inline size_t RowBytes(const GroupShape& shape, int64_t num_rows) {
  return sizeof(kernels::BFloat16) * static_cast<size_t>(shape.hidden) *
         static_cast<size_t>(num_rows);
}

// A header with its magic; the counts and num_bytes are the caller's.
FrameHeader MakeFrame(FrameType type, uint64_t epoch, uint64_t step = 0, int layer = 0);

// Internal, saying what is wrong, unless the header is one that a rank of this epoch and shape can
// send: then num_bytes is bounded by the shape, kMaxPlanBytes or kMaxResultBytes, and fits the
// counts, which are in range.
absl::Status CheckFrame(const GroupShape& shape, uint64_t epoch, const FrameHeader& header);

// The pairs of a kDispatch for `rank`, whose header passed CheckFrame, as what LocalExperts::Run
// takes: the outputs lie in the order of the pairs. body: aligned, [header.num_bytes].
absl::Status ReadPairs(const GroupShape& shape, int rank, const FrameHeader& header,
                       const char* body, std::vector<RoutedRow>* pairs);

}  // namespace moe::exchange

#endif  // MOE_WORKER_EXCHANGE_TCP_FRAME_H_
