#include "simulator/failures.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"

namespace moe::simulator {

absl::StatusOr<Failure> ParseFailure(absl::string_view text) {
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(text, absl::MaxSplits(':', 1));
  const std::pair<absl::string_view, absl::string_view> what =
      absl::StrSplit(parts.second, absl::MaxSplits('=', 1));
  Failure failure;
  bool is_known = true;
  if (what.first == "rank") {
    failure.kind = Failure::Kind::kRank;
  } else if (what.first == "hang") {
    failure.kind = Failure::Kind::kHang;
  } else if (what.first == "node") {
    failure.kind = Failure::Kind::kNode;
  } else {
    is_known = false;
  }
  if (!is_known || !absl::ParseDuration(parts.first, &failure.at) ||
      failure.at < absl::ZeroDuration() || failure.at == absl::InfiniteDuration() ||
      !absl::SimpleAtoi(what.second, &failure.index) || failure.index < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "failure '", absl::CHexEscape(text.substr(0, 80)),
        "' is none of 20s:rank=3 (a process ends), 20s:hang=3 (it says nothing more) and "
        "20s:node=0 (all ranks of a node are gone)"));
  }
  return failure;
}

std::string DescribeFailure(const Failure& failure) {
  switch (failure.kind) {
    case Failure::Kind::kRank:
      return absl::StrCat("rank ", failure.index, " ends");
    case Failure::Kind::kHang:
      return absl::StrCat("rank ", failure.index, " hangs");
    case Failure::Kind::kNode:
      return absl::StrCat("node ", failure.index, " is gone");
  }
  return "";
}

absl::StatusOr<std::vector<int>> RanksOfFailure(const Failure& failure,
                                                const planner::Layout& layout,
                                                const planner::Network& network) {
  const int64_t num_ranks = int64_t{layout.expert} * layout.data;
  if (failure.kind != Failure::Kind::kNode) {
    if (failure.index >= num_ranks) {
      return absl::InvalidArgumentError(
          absl::StrFormat("there is no rank %d to fail: %s has ranks 0 to %d", failure.index,
                          LayoutName(layout), num_ranks - 1));
    }
    return std::vector<int>{failure.index};
  }
  const int64_t first_gpu = int64_t{failure.index} * network.gpus_per_node;
  if (first_gpu >= layout.num_gpus()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("there is no node %d to fail: %s fills nodes 0 to %d", failure.index,
                        LayoutName(layout), (layout.num_gpus() - 1) / network.gpus_per_node));
  }
  const int64_t last_gpu = std::min(first_gpu + network.gpus_per_node, layout.num_gpus()) - 1;
  std::vector<int> ranks;
  for (int64_t rank = first_gpu / layout.tensor; rank <= last_gpu / layout.tensor; ++rank) {
    ranks.push_back(static_cast<int>(rank));
  }
  return ranks;
}

}  // namespace moe::simulator
