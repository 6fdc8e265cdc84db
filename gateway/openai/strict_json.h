// Parses JSON from strangers: depth at most 64, no key twice in an object, valid UTF-8, finite
// numbers. Only files of gateway/openai include this; JSON types go no further.
//
// nlohmann's parser is iterative, but copying, comparing and dumping a value recurse, so depth is
// limited while parsing.
//
// Tested by tests/gateway/openai/parse_test.cc, fuzzed by tests/fuzz/request_body_fuzz.cc.
#ifndef MOE_GATEWAY_OPENAI_STRICT_JSON_H_
#define MOE_GATEWAY_OPENAI_STRICT_JSON_H_

#include <optional>

#include "absl/strings/string_view.h"
#include "gateway/openai/api_error.h"
#include "nlohmann/json.hpp"

namespace moe::gateway {

inline constexpr int kMaxJsonDepth = 64;

// Fills `value`, or returns what is wrong with the text (then `value` is unspecified).
std::optional<ApiError> ParseStrictJson(absl::string_view text, nlohmann::json* value);

}  // namespace moe::gateway

#endif  // MOE_GATEWAY_OPENAI_STRICT_JSON_H_
