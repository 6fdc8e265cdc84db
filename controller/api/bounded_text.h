// Text of anywhere (logs, errors) as UTF-8 of a bounded size. Pure.
//
// Tested by tests/controller/api/bounded_text_test.cc.
#ifndef MOE_CONTROLLER_API_BOUNDED_TEXT_H_
#define MOE_CONTROLLER_API_BOUNDED_TEXT_H_

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

namespace moe::api {

// The first or the last `max_bytes`, or a little less so as not to cut a character. A byte that is
// no UTF-8 becomes a question mark, a control character other than newline and tab a blank.
std::string HeadOf(absl::string_view text, size_t max_bytes);
std::string TailOf(absl::string_view text, size_t max_bytes);

}  // namespace moe::api

#endif  // MOE_CONTROLLER_API_BOUNDED_TEXT_H_
