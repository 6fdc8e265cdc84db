#include "worker/exchange/tcp_frame.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "worker/exchange/segment.h"

namespace moe::exchange {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr uint32_t kFrameMagic = 0x31465845;  // "EXF1"

absl::Status Malformed(const FrameHeader& header, absl::string_view what) {
  return absl::InternalError(
      absl::StrCat("a malformed frame of type ", static_cast<uint32_t>(header.type), ": ", what));
}

// What each type may carry; everything else must be 0.
struct Uses {
  bool step = false;
  bool layer = false;
  bool rows = false;
  bool pairs = false;
  bool digest = false;
};

absl::Status CheckUses(const FrameHeader& header, const Uses& uses) {
  if ((!uses.step && header.step != 0) || (!uses.layer && header.layer != 0) ||
      (!uses.rows && header.num_rows != 0) || (!uses.pairs && header.num_pairs != 0) ||
      (!uses.digest && header.digest != 0) || header.unused != 0) {
    return Malformed(header, "a field that it does not have is set");
  }
  return absl::OkStatus();
}

absl::Status CheckCounts(const GroupShape& shape, const FrameHeader& header, const Uses& uses) {
  const int64_t max_pairs = int64_t{shape.max_rows} * shape.top_k;
  if (header.type == FrameType::kLastWords) {
    if (header.num_pairs >= 0 && header.num_pairs <= shape.num_layers && header.num_rows >= 0 &&
        header.num_rows <= shape.num_ranks && (header.layer == 0 || header.layer == 1)) {
      return absl::OkStatus();
    }
    return Malformed(header, absl::StrCat("rank ", int64_t{header.num_rows} - 1, " after ",
                                          header.num_pairs, " layers"));
  }
  if (uses.layer && (header.layer < 0 || header.layer >= shape.num_layers)) {
    return Malformed(header, absl::StrCat("layer ", header.layer, " of ", shape.num_layers));
  }
  if (uses.pairs && (header.num_pairs < 1 || header.num_pairs > max_pairs)) {
    return Malformed(header, absl::StrCat(header.num_pairs, " pairs, not in [1, ", max_pairs, "]"));
  }
  if (uses.rows && uses.pairs &&
      (header.num_rows < 1 || header.num_rows > std::min(shape.max_rows, header.num_pairs))) {
    return Malformed(header, absl::StrCat(header.num_rows, " rows for ", header.num_pairs,
                                          " pairs, of at most ", shape.max_rows));
  }
  return absl::OkStatus();
}

absl::Status CheckSize(const FrameHeader& header, size_t low, size_t high) {
  if (header.num_bytes >= low && header.num_bytes <= high) return absl::OkStatus();
  return Malformed(header, absl::StrCat(header.num_bytes, " bytes"));
}

}  // namespace

FrameHeader MakeFrame(FrameType type, uint64_t epoch, uint64_t step, int layer) {
  FrameHeader header;
  header.magic = kFrameMagic;
  header.type = type;
  header.epoch = epoch;
  header.step = step;
  header.layer = layer;
  return header;
}

absl::Status CheckFrame(const GroupShape& shape, uint64_t epoch, const FrameHeader& header) {
  if (header.magic != kFrameMagic) return absl::InternalError("what it sent is no frame");
  if (header.epoch != epoch) {
    return absl::InternalError(
        absl::StrCat("unexpected epoch: a frame of epoch ", header.epoch, " in epoch ", epoch));
  }
  Uses uses;
  size_t low = 0;
  size_t high = 0;
  switch (header.type) {
    case FrameType::kCanary:
    case FrameType::kEcho:
      low = high = RowBytes(shape, 1);
      break;
    case FrameType::kReady:
    case FrameType::kStart:
      break;
    case FrameType::kMissing:
      uses = {.rows = true};
      if (header.num_rows < 0 || header.num_rows >= shape.num_ranks) {
        return Malformed(header, absl::StrCat("no rank ", header.num_rows));
      }
      break;
    case FrameType::kPlan:
      uses = {.step = true};
      high = kMaxPlanBytes;
      break;
    case FrameType::kResult:
      uses = {.step = true};
      high = kMaxResultBytes;
      break;
    case FrameType::kDispatch:
      uses = {.step = true, .layer = true, .rows = true, .pairs = true};
      break;
    case FrameType::kOutputs:
      uses = {.step = true, .layer = true, .pairs = true};
      break;
    case FrameType::kShare:
      uses = {.step = true, .layer = true, .pairs = true, .digest = true};
      break;
    case FrameType::kLastWords:
      uses = {.step = true, .layer = true, .rows = true, .pairs = true};
      break;
    default:
      return Malformed(header, "there is no such type");
  }
  if (absl::Status status = CheckUses(header, uses); !status.ok()) return status;
  if (absl::Status status = CheckCounts(shape, header, uses); !status.ok()) return status;
  if (header.type == FrameType::kDispatch) {
    low = high = PairBytes(header.num_pairs) + RowBytes(shape, header.num_rows);
  } else if (uses.pairs && header.type != FrameType::kLastWords) {
    low = high = RowBytes(shape, header.num_pairs);
  }
  return CheckSize(header, low, high);
}

absl::Status ReadPairs(const GroupShape& shape, int rank, const FrameHeader& header,
                       const char* body, std::vector<RoutedRow>* pairs) {
  pairs->clear();
  int32_t last_expert = -1;
  for (int32_t i = 0; i < header.num_pairs; ++i) {
    WirePair pair;
    std::memcpy(&pair, body + sizeof(WirePair) * i, sizeof(pair));
    if (pair.expert < 0 || pair.expert >= shape.num_experts ||
        shape.rank_of_expert[pair.expert] != rank) {
      return Malformed(header, absl::StrCat("expert ", pair.expert, " is not held here"));
    }
    if (pair.row < 0 || pair.row >= header.num_rows) {
      return Malformed(header, absl::StrCat("row ", pair.row, " of ", header.num_rows));
    }
    if (pair.expert < last_expert) return Malformed(header, "its pairs are out of order");
    last_expert = pair.expert;
    pairs->push_back({pair.expert, pair.row, i});
  }
  return absl::OkStatus();
}

}  // namespace moe::exchange
