// See rust_call.h.
#include "gateway/text/rust_call.h"

namespace moe::text {

std::string RustBytes::ToString() const {
  if (bytes_.size == 0) return {};
  return std::string(reinterpret_cast<const char*>(bytes_.data), bytes_.size);
}

absl::Status ToStatus(int32_t code, const RustBytes& error) {
  if (code == 0) return absl::OkStatus();
  return absl::Status(static_cast<absl::StatusCode>(code), error.ToString());
}

}  // namespace moe::text
