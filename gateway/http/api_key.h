// The key that clients must send, from a file that may change while the gateway runs (a Secret that
// is rotated).
//
// Tested by tests/gateway/http/api_key_test.cc.
#ifndef MOE_GATEWAY_HTTP_API_KEY_H_
#define MOE_GATEWAY_HTTP_API_KEY_H_

#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace moe::gateway {

// The first line of a file without the blanks around it. InvalidArgument if it is empty, longer
// than 4096 bytes or can't be read; messages never hold the key.
absl::StatusOr<std::string> ReadApiKeyFile(const std::string& path);

// Used by one thread.
class ApiKeyFile {
 public:
  // `key` is what was read from it before.
  ApiKeyFile(std::string path, std::string key) : path_(std::move(path)), key_(std::move(key)) {}

  // The new key when it has changed. A file that can't be read or holds no key changes nothing, as
  // it may be in the middle of a rotation: the old key stays valid, never none. Reading a small
  // file is cheap, and a mounted Secret changes by a symbolic link, so nothing but its content
  // counts.
  std::optional<std::string> Poll();
  // Of the last Poll.
  const absl::Status& status() const { return status_; }

 private:
  const std::string path_;
  std::string key_;
  absl::Status status_;
};

}  // namespace moe::gateway

#endif  // MOE_GATEWAY_HTTP_API_KEY_H_
