// Which group gets a sequence. Pure.
//
// Of the groups that can take it, the one with the fewest outstanding tokens: those that this
// gateway waits for, which it knows exactly, and an estimate for the sequences of other gateways,
// of which leaders only tell the number.
//
// Tested by tests/gateway/journal/routing_test.cc.
#ifndef MOE_GATEWAY_JOURNAL_ROUTING_H_
#define MOE_GATEWAY_JOURNAL_ROUTING_H_

#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace moe::gateway {

// What counts of a group.
struct RouteGroup {
  bool connected = false;  // a leader was accepted
  bool serving = false;    // and it speaks, and is not between epochs
  bool draining = false;
  bool full = false;  // its queue refused a sequence a moment ago
  absl::string_view model_digest;
  absl::string_view numerics_id;
  int64_t max_sequence_tokens = 0;  // of its longest sequence; 0: not known
  int64_t outstanding_tokens = 0;   // that this gateway waits for
  int64_t num_own = 0;              // sequences of this gateway in it
  int64_t num_reported = 0;         // sequences of all gateways, when the leader last said so
};

// What counts of a sequence.
struct RouteSequence {
  // Tokens of it were seen: it goes on with the same bits only under these two, and not to finish
  // it would break what was begun, so a draining group may take it if no other can.
  bool begun = false;
  absl::string_view model_digest;
  absl::string_view numerics_id;
  // It has a place that may yet come back. It leaves it only for a group that serves and has room.
  bool placed = false;
  int64_t num_tokens = 0;  // prompt and longest answer
  uint64_t turn = 0;       // equals go round, so that they don't all choose the first
};

// The index of the group; nullopt: none can take it now. A sequence that has no place yet is given
// to a group that is full or too small for it when there is no better one: the leader then says so,
// in words for the client.
std::optional<size_t> ChooseGroup(absl::Span<const RouteGroup> groups,
                                  const RouteSequence& sequence);

}  // namespace moe::gateway

#endif  // MOE_GATEWAY_JOURNAL_ROUTING_H_
