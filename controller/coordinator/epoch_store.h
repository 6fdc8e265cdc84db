// Keeps the term and the last claimed epoch in a file, so that no (term, epoch) is ever used twice,
// also when the controller is started again over the same file.
//
// A claim is durable (written beside, fsync, rename, fsync of the folder) before it returns. The
// file is locked while the store lives: two controllers over one file would both lead.
//
// Not thread-safe. Tested by tests/controller/coordinator/epoch_store_test.cc.
#ifndef MOE_CONTROLLER_COORDINATOR_EPOCH_STORE_H_
#define MOE_CONTROLLER_COORDINATOR_EPOCH_STORE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace moe::coordinator {

class EpochStore {
 public:
  // Reads `path` (an absent file counts as term 0, epoch 0), raises the term by one and writes it
  // back. DataLoss if the file has another form: guessing could repeat an epoch.
  // FailedPrecondition if another process holds it.
  static absl::StatusOr<std::unique_ptr<EpochStore>> Open(const std::string& path);

  ~EpochStore();
  EpochStore(const EpochStore&) = delete;
  EpochStore& operator=(const EpochStore&) = delete;

  uint64_t term() const { return term_; }
  uint64_t last_epoch() const { return last_epoch_; }

  // After OK, (term(), epoch) is durable. After an error it may or may not be; claim a higher one.
  // InvalidArgument unless epoch > last_epoch().
  absl::Status Claim(uint64_t epoch);

 private:
  EpochStore(std::string path, int lock_fd, uint64_t term, uint64_t last_epoch)
      : path_(std::move(path)), lock_fd_(lock_fd), term_(term), last_epoch_(last_epoch) {}
  absl::Status Write();

  std::string path_;
  int lock_fd_;
  uint64_t term_;
  uint64_t last_epoch_;
};

}  // namespace moe::coordinator

#endif  // MOE_CONTROLLER_COORDINATOR_EPOCH_STORE_H_
