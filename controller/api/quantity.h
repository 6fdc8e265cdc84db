// Amounts as Kubernetes writes them: quantities ("40Gi", "500m", "1e3") and durations ("10m",
// "1h30m"). Exact integer arithmetic. Pure.
//
// Tested by tests/controller/api/quantity_test.cc.
#ifndef MOE_CONTROLLER_API_QUANTITY_H_
#define MOE_CONTROLLER_API_QUANTITY_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace moe::api {

// A quantity as a whole number, or in thousandths; what is left over rounds away from zero, as
// Kubernetes does. Fails with InvalidArgument where the text is no quantity or does not fit 64
// bits.
absl::StatusOr<int64_t> ParseQuantity(absl::string_view text);
absl::StatusOr<int64_t> ParseMilliQuantity(absl::string_view text);

// With the largest binary suffix that loses nothing: 40Gi, 1536Mi, 1000.
std::string FormatBytes(uint64_t num_bytes);

// A finite duration of zero or more, as Go writes it: numbers with units h, m, s, ms, us, ns.
absl::StatusOr<absl::Duration> ParseDuration(absl::string_view text);

}  // namespace moe::api

#endif  // MOE_CONTROLLER_API_QUANTITY_H_
