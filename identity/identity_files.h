// The files in which a process keeps its identity.
//
// Tested by tests/identity/identity_files_test.cc.
#ifndef MOE_IDENTITY_IDENTITY_FILES_H_
#define MOE_IDENTITY_IDENTITY_FILES_H_

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace moe::identity {

// Paths of PEM files; the key's is readable by its owner alone.
struct IdentityFiles {
  std::string certificate;
  std::string key;
  std::string authority;

  // cert.pem, key.pem and ca.pem.
  static IdentityFiles In(const std::string& folder);
};

// Makes `folder` with mode 0700 if it is missing. FailedPrecondition if something else has the
// name.
absl::Status MakePrivateFolder(const std::string& folder);

// Replaces `path` as a whole, mode 0600: a reader sees the old or the new content.
absl::Status WritePrivateFile(const std::string& path, std::string_view content);

// ResourceExhausted if the file is larger than `max_bytes`.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path, size_t max_bytes);

}  // namespace moe::identity

#endif  // MOE_IDENTITY_IDENTITY_FILES_H_
