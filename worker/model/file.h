// Files of a model folder, opened for reading.
//
// Tested by tests/worker/model/checkpoint_test.cc.
#ifndef MOE_WORKER_MODEL_FILE_H_
#define MOE_WORKER_MODEL_FILE_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace moe::model {

// An open regular file. Movable; closes when destroyed. Reads may run in several threads.
class File {
 public:
  // Opens `path`, following symlinks. For paths that this program's user gave.
  static absl::StatusOr<File> Open(const std::string& path);
  // Opens `dir`/`name`, where `name` comes from the model and is not trusted. It must be a plain
  // file name. A symlink must lead to a file inside `dir`, with one exception: the cache of
  // huggingface_hub keeps a snapshot as symlinks
  //   models--ORG--NAME/snapshots/REVISION/FILE -> ../../blobs/HASH
  // so for a folder of this form the repository's own blobs are allowed, too.
  // NotFound if there is no such file; InvalidArgument if it may not be read.
  static absl::StatusOr<File> OpenInDir(const std::string& dir, const std::string& name);

  ~File();
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;

  int fd() const { return fd_; }
  const std::string& path() const { return path_; }  // for messages
  uint64_t num_bytes() const { return num_bytes_; }  // when it was opened

  // Exactly `num_bytes` at `offset`; DataLoss if the file ends before.
  absl::Status ReadAt(uint64_t offset, void* out, size_t num_bytes) const;
  // The whole file, which may have at most `max_bytes`.
  absl::StatusOr<std::string> ReadAll(uint64_t max_bytes) const;
  // DataLoss if the file is shorter now than `end`.
  absl::Status CheckStillHolds(uint64_t end) const;

 private:
  File(int fd, std::string path, uint64_t num_bytes);
  static absl::StatusOr<File> OpenResolved(const std::string& path, const std::string& shown);

  int fd_ = -1;
  std::string path_;
  uint64_t num_bytes_ = 0;
};

// The folder's name as users know the model: the last component of its path, or the repository's
// name for a snapshot in the cache of huggingface_hub.
std::string ModelNameOfDir(const std::string& dir);

}  // namespace moe::model

#endif  // MOE_WORKER_MODEL_FILE_H_
