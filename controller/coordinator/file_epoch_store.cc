#include "controller/coordinator/file_epoch_store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace moe::coordinator {
namespace {

// One line: "moe-epochs 1 TERM EPOCH\n".
constexpr char kMagic[] = "moe-epochs";
constexpr char kVersion[] = "1";
constexpr size_t kMaxFileBytes = 128;

absl::Status ErrnoStatus(absl::string_view what, const std::string& path) {
  return absl::ErrnoToStatus(errno, absl::StrCat(what, " ", path));
}

struct Record {
  uint64_t term = 0;
  uint64_t epoch = 0;
};

std::string Format(const Record& record) {
  return absl::StrCat(kMagic, " ", kVersion, " ", record.term, " ", record.epoch, "\n");
}

absl::StatusOr<Record> Parse(absl::string_view text, const std::string& path) {
  Record record;
  const std::vector<absl::string_view> words = absl::StrSplit(text, ' ');
  // Only the one form that is ever written: SimpleAtoi alone would allow spaces and signs.
  if (words.size() != 4 || !absl::SimpleAtoi(words[2], &record.term) ||
      !absl::SimpleAtoi(words[3], &record.epoch) || Format(record) != text) {
    return absl::DataLossError(absl::StrCat(
        path, " is not a term file of this version; remove it if no worker of its group runs"));
  }
  return record;
}

absl::StatusOr<Record> ReadFile(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    if (errno == ENOENT) return Record{};
    return ErrnoStatus("cannot read", path);
  }
  std::string text(kMaxFileBytes + 1, '\0');
  size_t size = 0;
  while (size < text.size()) {
    const ssize_t n = read(fd, text.data() + size, text.size() - size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      absl::Status status = ErrnoStatus("cannot read", path);
      close(fd);
      return status;
    }
    if (n == 0) break;
    size += static_cast<size_t>(n);
  }
  close(fd);
  return Parse(absl::string_view(text).substr(0, size), path);
}

absl::Status WriteAll(int fd, absl::string_view text, const std::string& path) {
  while (!text.empty()) {
    const ssize_t n = write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus("cannot write", path);
    text.remove_prefix(static_cast<size_t>(n));
  }
  if (fsync(fd) != 0) return ErrnoStatus("cannot sync", path);
  return absl::OkStatus();
}

std::string FolderOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace

absl::StatusOr<std::unique_ptr<FileEpochStore>> FileEpochStore::Open(const std::string& path) {
  // The lock is a file of its own, because rename replaces the file that holds the record.
  const std::string lock_path = path + ".lock";
  const int lock_fd = open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (lock_fd < 0) return ErrnoStatus("cannot open", lock_path);
  if (flock(lock_fd, LOCK_EX | LOCK_NB) != 0) {
    absl::Status status =
        errno == EWOULDBLOCK
            ? absl::FailedPreconditionError(absl::StrCat("another controller uses ", path))
            : ErrnoStatus("cannot lock", lock_path);
    close(lock_fd);
    return status;
  }
  absl::StatusOr<Record> record = ReadFile(path);
  if (!record.ok()) {
    close(lock_fd);
    return record.status();
  }
  std::unique_ptr<FileEpochStore> store(
      new FileEpochStore(path, lock_fd, record->term + 1, record->epoch));
  if (absl::Status status = store->Write(); !status.ok()) return status;
  return store;
}

FileEpochStore::~FileEpochStore() { close(lock_fd_); }

absl::Status FileEpochStore::Claim(uint64_t epoch) {
  if (epoch <= last_epoch_) {
    return absl::InvalidArgumentError(absl::StrCat("epoch ", epoch, " is not above ", last_epoch_));
  }
  // Even if writing fails, the number may have reached the disk and must not be claimed again.
  last_epoch_ = epoch;
  return Write();
}

absl::Status FileEpochStore::Write() {
  const std::string beside = path_ + ".new";
  const int fd = open(beside.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) return ErrnoStatus("cannot create", beside);
  absl::Status status = WriteAll(fd, Format({.term = term_, .epoch = last_epoch_}), beside);
  if (close(fd) != 0 && status.ok()) status = ErrnoStatus("cannot close", beside);
  if (!status.ok()) return status;
  if (rename(beside.c_str(), path_.c_str()) != 0) return ErrnoStatus("cannot replace", path_);

  const std::string folder = FolderOf(path_);
  const int folder_fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder_fd < 0) return ErrnoStatus("cannot open", folder);
  if (fsync(folder_fd) != 0) status = ErrnoStatus("cannot sync", folder);
  close(folder_fd);
  return status;
}

}  // namespace moe::coordinator
