#include "identity/identity_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "absl/strings/str_cat.h"

namespace moe::identity {
namespace {

absl::Status ErrnoStatus(const char* what, const std::string& path) {
  return absl::ErrnoToStatus(errno, absl::StrCat(what, " ", path));
}

absl::Status WriteAll(int fd, std::string_view content, const std::string& path) {
  while (!content.empty()) {
    const ssize_t n = write(fd, content.data(), content.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus("cannot write", path);
    content.remove_prefix(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

}  // namespace

IdentityFiles IdentityFiles::In(const std::string& folder) {
  return {.certificate = folder + "/cert.pem",
          .key = folder + "/key.pem",
          .authority = folder + "/ca.pem"};
}

absl::Status MakePrivateFolder(const std::string& folder) {
  if (mkdir(folder.c_str(), 0700) == 0) return absl::OkStatus();
  if (errno != EEXIST) return ErrnoStatus("cannot make", folder);
  struct stat info = {};
  if (stat(folder.c_str(), &info) != 0) return ErrnoStatus("cannot look at", folder);
  if (!S_ISDIR(info.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(folder, " is not a folder"));
  }
  return absl::OkStatus();
}

absl::Status WritePrivateFile(const std::string& path, std::string_view content) {
  const std::string beside = path + ".new";
  // A leftover may have been made with other permissions.
  unlink(beside.c_str());
  const int fd = open(beside.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return ErrnoStatus("cannot create", beside);
  absl::Status status = WriteAll(fd, content, beside);
  if (close(fd) != 0 && status.ok()) status = ErrnoStatus("cannot close", beside);
  if (status.ok() && rename(beside.c_str(), path.c_str()) != 0) {
    status = ErrnoStatus("cannot replace", path);
  }
  return status;
}

absl::StatusOr<std::string> ReadSmallFile(const std::string& path, size_t max_bytes) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return ErrnoStatus("cannot read", path);
  std::string content(max_bytes + 1, '\0');
  size_t size = 0;
  absl::Status status;
  while (size < content.size()) {
    const ssize_t n = read(fd, content.data() + size, content.size() - size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) status = ErrnoStatus("cannot read", path);
    if (n <= 0) break;
    size += static_cast<size_t>(n);
  }
  close(fd);
  if (!status.ok()) return status;
  if (size > max_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat(path, " is larger than ", max_bytes, " bytes"));
  }
  content.resize(size);
  return content;
}

}  // namespace moe::identity
