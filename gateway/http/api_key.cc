// See api_key.h.
#include "gateway/http/api_key.h"

#include <cstddef>
#include <fstream>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace moe::gateway {
namespace {

constexpr size_t kMaxKeyBytes = 4096;

}  // namespace

absl::StatusOr<std::string> ReadApiKeyFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text(kMaxKeyBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (!file.is_open() || file.bad()) {
    return absl::InvalidArgumentError(absl::StrCat(path, " can't be read"));
  }
  text.resize(static_cast<size_t>(file.gcount()));
  const size_t end = text.find('\n');
  if (end == std::string::npos && text.size() > kMaxKeyBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": the key is longer than ", kMaxKeyBytes, " bytes"));
  }
  const absl::string_view line = absl::string_view(text).substr(0, end);
  std::string key(absl::StripAsciiWhitespace(line));
  if (key.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(path, " holds no key"));
  }
  return key;
}

std::optional<std::string> ApiKeyFile::Poll() {
  absl::StatusOr<std::string> key = ReadApiKeyFile(path_);
  status_ = key.status();
  if (!key.ok() || *key == key_) {
    return std::nullopt;
  }
  key_ = *std::move(key);
  return key_;
}

}  // namespace moe::gateway
