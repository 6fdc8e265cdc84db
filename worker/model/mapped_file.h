// A safetensors file, mapped read-only and shared.
//
// Tested by tests/worker/model/load_test.cc.
#ifndef MOE_WORKER_MODEL_MAPPED_FILE_H_
#define MOE_WORKER_MODEL_MAPPED_FILE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/model/file.h"
#include "worker/model/mapping_fault.h"
#include "worker/model/model_files.h"

namespace moe::model {

// Immutable; unmaps when destroyed. A fault in it is reported by name (mapping_fault.h).
class MappedFile {
 public:
  // Maps the whole file. Reads nothing.
  static absl::StatusOr<std::unique_ptr<MappedFile>> Map(WeightFile file);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::byte* data() const { return data_; }  // page-aligned
  const File& file() const { return file_; }

  // Asks the kernel to read [begin, end), rounded to pages, in the background.
  void ReadAhead(uint64_t begin, uint64_t end) const;

 private:
  MappedFile(File file, const std::byte* data);

  File file_;
  const std::byte* data_;
  std::optional<MappingFaultRange> fault_range_;
};

}  // namespace moe::model

#endif  // MOE_WORKER_MODEL_MAPPED_FILE_H_
