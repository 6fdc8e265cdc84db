// Times as RFC 3339 text in UTC, as Kubernetes writes them. Pure.
//
// Tested by tests/controller/api/timestamp_test.cc.
#ifndef MOE_CONTROLLER_API_TIMESTAMP_H_
#define MOE_CONTROLLER_API_TIMESTAMP_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace moe::api {

// 2026-11-28T16:05:00Z, with as many digits of a second as it takes. What lies outside of the years
// 1 to 9999, as infinite times do, becomes the first or the last second of them.
std::string FormatTimestamp(absl::Time time);

// Any offset is accepted. The first and the last second become the infinite times again. Fails with
// InvalidArgument.
absl::StatusOr<absl::Time> ParseTimestamp(absl::string_view text);

}  // namespace moe::api

#endif  // MOE_CONTROLLER_API_TIMESTAMP_H_
