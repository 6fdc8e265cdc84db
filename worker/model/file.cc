#include "worker/model/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/model/bounded_json.h"

namespace moe::model {
namespace {

namespace fs = std::filesystem;

std::string ErrorText(int error) { return std::generic_category().message(error); }

bool IsBelow(const fs::path& path, const fs::path& dir) {
  const fs::path relative = path.lexically_relative(dir);
  return !relative.empty() && *relative.begin() != ".." && *relative.begin() != ".";
}

// models--ORG--NAME of a snapshot folder, or empty.
fs::path CacheRepository(const fs::path& dir) {
  const fs::path snapshots = dir.parent_path();
  const fs::path repository = snapshots.parent_path();
  const bool is_snapshot =
      snapshots.filename() == "snapshots" && repository.filename().string().starts_with("models--");
  return is_snapshot ? repository : fs::path();
}

bool IsPlainName(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos;
}

}  // namespace

File::File(int fd, std::string path, uint64_t num_bytes)
    : fd_(fd), path_(std::move(path)), num_bytes_(num_bytes) {}

File::~File() {
  if (fd_ >= 0) close(fd_);
}

File::File(File&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)),
      path_(std::move(other.path_)),
      num_bytes_(other.num_bytes_) {}

File& File::operator=(File&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(path_, other.path_);
  std::swap(num_bytes_, other.num_bytes_);
  return *this;
}

absl::StatusOr<File> File::OpenResolved(const std::string& path, const std::string& shown) {
  // Without O_NONBLOCK, opening a named pipe would wait for a writer.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    const std::string message = absl::StrCat(shown, ": ", ErrorText(errno));
    return errno == ENOENT ? absl::NotFoundError(message) : absl::InvalidArgumentError(message);
  }
  File file(fd, shown, 0);
  struct stat info;
  if (fstat(fd, &info) != 0) {
    return absl::InvalidArgumentError(absl::StrCat(shown, ": ", ErrorText(errno)));
  }
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(shown, ": not a regular file"));
  }
  file.num_bytes_ = static_cast<uint64_t>(info.st_size);
  return file;
}

absl::StatusOr<File> File::Open(const std::string& path) { return OpenResolved(path, path); }

absl::StatusOr<File> File::OpenInDir(const std::string& dir, const std::string& name) {
  if (!IsPlainName(name)) {
    return absl::InvalidArgumentError(
        absl::StrCat(dir, ": the file name ", QuoteForMessage(name),
                     " is refused; it must name a file in the model folder itself"));
  }
  const std::string shown = (fs::path(dir) / name).string();
  std::error_code error;
  const fs::path real_dir = fs::canonical(dir, error);
  if (error) return absl::NotFoundError(absl::StrCat(dir, ": ", error.message()));
  const fs::path real = fs::canonical(real_dir / name, error);
  if (error == std::errc::no_such_file_or_directory) {
    return absl::NotFoundError(absl::StrCat(shown, ": ", error.message()));
  }
  if (error) return absl::InvalidArgumentError(absl::StrCat(shown, ": ", error.message()));
  const fs::path repository = CacheRepository(real_dir);
  if (!IsBelow(real, real_dir) && (repository.empty() || !IsBelow(real, repository / "blobs"))) {
    return absl::InvalidArgumentError(
        absl::StrCat(shown, ": a link to a file outside the model folder, which is refused"));
  }
  return OpenResolved(real.string(), shown);
}

absl::Status File::ReadAt(uint64_t offset, void* out, size_t num_bytes) const {
  size_t done = 0;
  while (done < num_bytes) {
    const ssize_t count = pread(fd_, static_cast<char*>(out) + done, num_bytes - done,
                                static_cast<off_t>(offset + done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return absl::DataLossError(absl::StrCat(path_, ": ", ErrorText(errno)));
    if (count == 0) {
      return absl::DataLossError(absl::StrCat(path_, ": ends at byte ", offset + done,
                                              "; it became shorter while in use"));
    }
    done += static_cast<size_t>(count);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> File::ReadAll(uint64_t max_bytes) const {
  if (num_bytes_ > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path_, ": ", num_bytes_, " bytes, but at most ", max_bytes, " are read"));
  }
  std::string content(num_bytes_, '\0');
  absl::Status status = ReadAt(0, content.data(), content.size());
  if (!status.ok()) return status;
  return content;
}

absl::Status File::CheckStillHolds(uint64_t end) const {
  struct stat info;
  if (fstat(fd_, &info) != 0) {
    return absl::DataLossError(absl::StrCat(path_, ": ", ErrorText(errno)));
  }
  if (static_cast<uint64_t>(info.st_size) >= end) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(path_, ": now only ", info.st_size, " bytes long, but ",
                                          end, " are needed; it became shorter while in use"));
}

std::string ModelNameOfDir(const std::string& dir) {
  std::error_code error;
  fs::path path = fs::absolute(dir, error).lexically_normal();
  if (path.filename().empty()) path = path.parent_path();  // a slash at the end
  const fs::path repository = CacheRepository(path);
  if (repository.empty()) return path.filename().string();
  const std::string name = repository.filename().string();
  return name.substr(name.rfind("--") + 2);
}

}  // namespace moe::model
