// Many groups in one view, for /health, /metrics and people. Pure.
//
// Tested by tests/gateway/journal/engine_view_test.cc.
#ifndef MOE_GATEWAY_JOURNAL_ENGINE_VIEW_H_
#define MOE_GATEWAY_JOURNAL_ENGINE_VIEW_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "gateway/journal/generation.h"

namespace moe::gateway {

// The last part of "namespace/deployment/index"; 0 for a name without one.
int GroupIndex(absl::string_view name);

// Tokens of the longest sequence, prompt and answer, that a group takes: the model's context, or
// what one owner's KV cache can hold if that is less. 0: not known.
int64_t SequenceLimit(const engine::v1::Welcome& welcome);

// A view of `groups`, which it sorts by index. `last` is the welcome that limits new requests when
// no group has one. Counters are left 0.
EngineView Summarize(std::vector<GroupView> groups, const engine::v1::Welcome& last);

}  // namespace moe::gateway

#endif  // MOE_GATEWAY_JOURNAL_ENGINE_VIEW_H_
