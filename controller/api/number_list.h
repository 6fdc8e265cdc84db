// Lists of numbers as text that is short and that people can read. Pure.
//
// Tested by tests/controller/api/number_list_test.cc.
#ifndef MOE_CONTROLLER_API_NUMBER_LIST_H_
#define MOE_CONTROLLER_API_NUMBER_LIST_H_

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace moe::api {

// For numbers of 0 and more that mostly rise by 1: {0, 1, 2, 40, 3} is "0-2,40,3".
std::string FormatRanges(const std::vector<int>& numbers);
// For numbers of -1 and more that mostly repeat: {0, 0, 0, 1, -1} is "0*3,1,-1".
std::string FormatRuns(const std::vector<int>& numbers);

// The list again; of at most `max_size` numbers. Fail with InvalidArgument.
absl::StatusOr<std::vector<int>> ParseRanges(absl::string_view text, size_t max_size);
absl::StatusOr<std::vector<int>> ParseRuns(absl::string_view text, size_t max_size);

}  // namespace moe::api

#endif  // MOE_CONTROLLER_API_NUMBER_LIST_H_
