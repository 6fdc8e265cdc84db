#include "identity/worker_id.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace moe::identity {

std::string WorkerId(std::string_view pod_uid, int process, int num_processes) {
  if (num_processes == 1) return std::string(pod_uid);
  return absl::StrCat(std::string(pod_uid), "/", process);
}

std::string_view PodUidOf(std::string_view worker_id) {
  constexpr size_t kMaxDigits = 2;
  const size_t slash = worker_id.rfind('/');
  if (slash == std::string_view::npos) return worker_id;
  const std::string_view process = worker_id.substr(slash + 1);
  const bool is_number =
      !process.empty() && process.size() <= kMaxDigits &&
      std::all_of(process.begin(), process.end(), [](char c) { return c >= '0' && c <= '9'; });
  return is_number ? worker_id.substr(0, slash) : worker_id;
}

}  // namespace moe::identity
