#include "worker/model/mapped_file.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"

namespace moe::model {

MappedFile::MappedFile(File file, const std::byte* data) : file_(std::move(file)), data_(data) {}

absl::StatusOr<std::unique_ptr<MappedFile>> MappedFile::Map(WeightFile file) {
  const uint64_t num_bytes = file.file.num_bytes();
  void* data = mmap(nullptr, num_bytes, PROT_READ, MAP_SHARED, file.file.fd(), 0);
  if (data == MAP_FAILED) {
    return absl::InternalError(absl::StrCat(
        file.file.path(), ": cannot be mapped: ", std::generic_category().message(errno)));
  }
  std::vector<MappingFaultRange::Tensor> tensors;
  tensors.reserve(file.index.tensors.size());
  for (const auto& [name, info] : file.index.tensors) tensors.push_back({info.end, name});
  std::sort(tensors.begin(), tensors.end(),
            [](const auto& a, const auto& b) { return a.end < b.end; });
  auto mapped =
      absl::WrapUnique(new MappedFile(std::move(file.file), static_cast<const std::byte*>(data)));
  mapped->fault_range_.emplace(data, num_bytes, mapped->file_.path(), std::move(tensors));
  return mapped;
}

MappedFile::~MappedFile() {
  fault_range_.reset();
  munmap(const_cast<std::byte*>(data_), file_.num_bytes());
}

void MappedFile::ReadAhead(uint64_t begin, uint64_t end) const {
  const auto page_bytes = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  const uint64_t first = begin / page_bytes * page_bytes;
  // Only a hint: a failure costs time, nothing else.
  madvise(const_cast<std::byte*>(data_) + first, end - first, MADV_WILLNEED);
}

}  // namespace moe::model
