// JSON from files that are not trusted: bounded in size and depth, without duplicate keys.
//
// Tested by tests/worker/model/config_test.cc.
#ifndef MOE_WORKER_MODEL_BOUNDED_JSON_H_
#define MOE_WORKER_MODEL_BOUNDED_JSON_H_

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace moe::model {

struct JsonLimits {
  size_t max_bytes = size_t{16} << 20;
  int max_depth = 64;  // copying and printing a document recurse
};

// Parses a whole document that must be an object. InvalidArgument starts with `what` (a file name)
// and says where the error is. Checks size, depth, UTF-8 and duplicate keys before anything is
// kept.
absl::StatusOr<nlohmann::json> ParseJsonObject(std::string_view text, const std::string& what,
                                               const JsonLimits& limits = {});

// `text` for a message: control characters escaped, cut after 80 bytes, in quotes.
std::string QuoteForMessage(std::string_view text);

}  // namespace moe::model

#endif  // MOE_WORKER_MODEL_BOUNDED_JSON_H_
