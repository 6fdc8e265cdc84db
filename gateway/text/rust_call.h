// Calls into the Rust crate from C++: owners for what it returns, and its errors as absl::Status.
//
// Private to this folder. Tested by tests/gateway/text/tokenizer_test.cc and chat_template_test.cc.
#ifndef GATEWAY_TEXT_RUST_CALL_H_
#define GATEWAY_TEXT_RUST_CALL_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "gateway/text/moe_text.h"

namespace moe::text {

// Bytes that the crate allocated; released with this object.
class RustBytes {
 public:
  RustBytes() = default;
  ~RustBytes() { moe_text_bytes_free(&bytes_); }
  RustBytes(const RustBytes&) = delete;
  RustBytes& operator=(const RustBytes&) = delete;

  MoeTextBytes* out() { return &bytes_; }
  std::string ToString() const;

 private:
  MoeTextBytes bytes_ = {};
};

// `text` must outlive the view.
inline MoeTextView View(std::string_view text) { return {text.data(), text.size()}; }

// The status of a call that returned `code`, with the message it left in `error`.
absl::Status ToStatus(int32_t code, const RustBytes& error);

}  // namespace moe::text

#endif  // GATEWAY_TEXT_RUST_CALL_H_
