// See routing.h.
#include "gateway/journal/routing.h"

#include <algorithm>
#include <tuple>

namespace moe::gateway {
namespace {

bool Fits(const RouteGroup& group, const RouteSequence& sequence) {
  return group.max_sequence_tokens == 0 || sequence.num_tokens <= group.max_sequence_tokens;
}

bool MayTake(const RouteGroup& group, const RouteSequence& sequence) {
  if (!group.connected || (group.draining && !sequence.begun)) {
    return false;
  }
  if (sequence.begun &&
      (group.model_digest != sequence.model_digest || group.numerics_id != sequence.numerics_id)) {
    return false;
  }
  return !sequence.placed || (group.serving && !group.full && Fits(group, sequence));
}

// What a sequence of this gateway still needs on average stands for those of others. Before there
// is one, any number does: only the counts of others are compared then.
int64_t TypicalTokens(absl::Span<const RouteGroup> groups) {
  int64_t tokens = 0;
  int64_t sequences = 0;
  for (const RouteGroup& group : groups) {
    tokens += group.outstanding_tokens;
    sequences += group.num_own;
  }
  return sequences == 0 ? 1 : std::max<int64_t>(1, tokens / sequences);
}

}  // namespace

std::optional<size_t> ChooseGroup(absl::Span<const RouteGroup> groups,
                                  const RouteSequence& sequence) {
  const int64_t typical = TypicalTokens(groups);
  std::optional<size_t> best;
  std::tuple<bool, bool, bool, bool, int64_t> best_key;
  for (size_t i = 0; i < groups.size(); ++i) {
    const size_t index = (i + sequence.turn) % groups.size();
    const RouteGroup& group = groups[index];
    if (!MayTake(group, sequence)) {
      continue;
    }
    // The leader's count is a second old: it may lack sequences that were just sent.
    const int64_t num_others = std::max<int64_t>(0, group.num_reported - group.num_own);
    const std::tuple key(!Fits(group, sequence), !group.serving, group.draining, group.full,
                         group.outstanding_tokens + num_others * typical);
    if (!best.has_value() || key < best_key) {
      best = index;
      best_key = key;
    }
  }
  return best;
}

}  // namespace moe::gateway
