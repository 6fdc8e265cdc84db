// Keeps the term and the last claimed epoch in a file, for a controller of one machine that is
// started again over the same file.
//
// A claim is durable (written beside, fsync, rename, fsync of the folder) before it returns. The
// file is locked while the store lives: two controllers over one file would both lead.
//
// Not thread-safe. Tested by tests/controller/coordinator/file_epoch_store_test.cc.
#ifndef MOE_CONTROLLER_COORDINATOR_FILE_EPOCH_STORE_H_
#define MOE_CONTROLLER_COORDINATOR_FILE_EPOCH_STORE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "controller/coordinator/epoch_store.h"

namespace moe::coordinator {

class FileEpochStore : public EpochStore {
 public:
  // Reads `path` (an absent file counts as term 0, epoch 0), raises the term by one and writes it
  // back. DataLoss if the file has another form: guessing could repeat an epoch.
  // FailedPrecondition if another process holds it.
  static absl::StatusOr<std::unique_ptr<FileEpochStore>> Open(const std::string& path);

  ~FileEpochStore() override;
  FileEpochStore(const FileEpochStore&) = delete;
  FileEpochStore& operator=(const FileEpochStore&) = delete;

  uint64_t term() const override { return term_; }
  uint64_t last_epoch() const override { return last_epoch_; }
  absl::Status Claim(uint64_t epoch) override;

 private:
  FileEpochStore(std::string path, int lock_fd, uint64_t term, uint64_t last_epoch)
      : path_(std::move(path)), lock_fd_(lock_fd), term_(term), last_epoch_(last_epoch) {}
  absl::Status Write();

  std::string path_;
  int lock_fd_;
  uint64_t term_;
  uint64_t last_epoch_;
};

}  // namespace moe::coordinator

#endif  // MOE_CONTROLLER_COORDINATOR_FILE_EPOCH_STORE_H_
