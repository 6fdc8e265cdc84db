#include "worker/model/convert.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/bf16.h"
#include "worker/model/bounded_json.h"
#include "worker/model/model_files.h"

namespace moe::model {
namespace {

using kernels::BFloat16;

// Elements converted at a time: at most 4 MiB read and 2 MiB written.
constexpr uint64_t kChunkElements = uint64_t{1} << 20;

std::string ErrorText(int error) { return std::generic_category().message(error); }

// IEEE binary16 to binary32, exact. Integer arithmetic for subnormals, so that it is right also
// where the thread flushes denormal floats.
float HalfToFloat(uint16_t half) {
  const uint32_t sign = (uint32_t{half} & 0x8000U) << 16;
  const uint32_t magnitude = half & 0x7fffU;
  const uint32_t normal = (magnitude << 13) + (112U << 23);     // exponent bias 15 -> 127
  const uint32_t special = (magnitude << 13) | (0xffU << 23);   // infinity, NaN
  const float tiny = static_cast<float>(magnitude) * 0x1p-24F;  // below 2^-14
  const uint32_t bits = magnitude < 0x0400U   ? std::bit_cast<uint32_t>(tiny)
                        : magnitude < 0x7c00U ? normal
                                              : special;
  return std::bit_cast<float>(bits | sign);
}

void ConvertChunk(DType dtype, const std::byte* in, uint64_t count, BFloat16* out) {
  switch (dtype) {
    case DType::kF32:
      for (uint64_t i = 0; i < count; ++i) {
        float value;
        std::memcpy(&value, in + i * sizeof(value), sizeof(value));
        out[i] = kernels::ToBFloat16(value);
      }
      return;
    case DType::kF16:
      for (uint64_t i = 0; i < count; ++i) {
        uint16_t half;
        std::memcpy(&half, in + i * sizeof(half), sizeof(half));
        out[i] = kernels::ToBFloat16(HalfToFloat(half));
      }
      return;
    default:  // bf16 at an odd offset
      std::memcpy(out, in, count * sizeof(BFloat16));
  }
}

// MemAvailable of /proc/meminfo in bytes; UINT64_MAX where it cannot be told.
uint64_t AvailableMemory() {
  std::ifstream meminfo("/proc/meminfo");
  for (std::string line; std::getline(meminfo, line);) {
    uint64_t kib = 0;
    if (std::sscanf(line.c_str(), "MemAvailable: %" SCNu64 " kB", &kib) == 1) return kib * 1024;
  }
  return UINT64_MAX;
}

absl::Status WriteAll(int fd, const void* data, size_t num_bytes) {
  size_t done = 0;
  while (done < num_bytes) {
    const ssize_t count = write(fd, static_cast<const char*>(data) + done, num_bytes - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      return absl::ResourceExhaustedError(
          absl::StrCat("no memory for converted weights: ", ErrorText(errno)));
    }
    done += static_cast<size_t>(count);
  }
  return absl::OkStatus();
}

// Appends one tensor to the image.
absl::Status ConvertTensor(const File& file, const TensorInfo& info, int fd,
                           const std::function<void(uint64_t)>& wrote) {
  const auto element_bytes = static_cast<uint64_t>(DTypeBytes(info.dtype));
  const uint64_t num_elements = (info.end - info.begin) / element_bytes;
  std::vector<std::byte> in(std::min(kChunkElements, num_elements) * element_bytes);
  std::vector<BFloat16> out(std::min(kChunkElements, num_elements));
  for (uint64_t i = 0; i < num_elements; i += kChunkElements) {
    const uint64_t count = std::min(kChunkElements, num_elements - i);
    absl::Status status =
        file.ReadAt(info.begin + i * element_bytes, in.data(), count * element_bytes);
    if (!status.ok()) return status;
    ConvertChunk(info.dtype, in.data(), count, out.data());
    status = WriteAll(fd, out.data(), count * sizeof(BFloat16));
    if (!status.ok()) return status;
    wrote(count * sizeof(BFloat16));
  }
  return absl::OkStatus();
}

}  // namespace

ConvertedWeights::ConvertedWeights(int fd, uint64_t num_bytes, double seconds)
    : fd_(fd), num_bytes_(num_bytes), seconds_(seconds) {}

ConvertedWeights::~ConvertedWeights() {
  if (fd_ >= 0) close(fd_);
}

ConvertedWeights::ConvertedWeights(ConvertedWeights&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), num_bytes_(other.num_bytes_), seconds_(other.seconds_) {}

ConvertedWeights& ConvertedWeights::operator=(ConvertedWeights&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(num_bytes_, other.num_bytes_);
  std::swap(seconds_, other.seconds_);
  return *this;
}

std::string ConvertedWeights::path() const { return absl::StrCat("/proc/", getpid(), "/fd/", fd_); }

absl::StatusOr<bool> NeedsConversion(const std::string& dir) {
  absl::StatusOr<ModelFiles> model = ReadModelFiles(dir);
  if (!model.ok()) return model.status();
  return model->NeedsConversion();
}

absl::StatusOr<ConvertedWeights> ConvertToBf16(
    const std::string& dir, const std::function<void(uint64_t, uint64_t)>& progress) {
  absl::StatusOr<ModelFiles> model = ReadModelFiles(dir);
  if (!model.ok()) return model.status();
  return ConvertTensors(*model, progress);
}

absl::StatusOr<ConvertedWeights> ConvertTensors(
    const ModelFiles& model, const std::function<void(uint64_t, uint64_t)>& progress) {
  const auto start = std::chrono::steady_clock::now();
  std::vector<const ModelTensor*> sources;
  std::vector<NamedTensor> images;
  uint64_t total = 0;
  for (const ModelTensor& tensor : model.tensors) {
    if (!tensor.NeedsConversion()) continue;
    sources.push_back(&tensor);
    images.push_back({tensor.name, DType::kBF16, tensor.info.shape});
    total += (tensor.info.end - tensor.info.begin) /
             static_cast<uint64_t>(DTypeBytes(tensor.info.dtype)) * sizeof(BFloat16);
  }
  if (const uint64_t available = AvailableMemory(); total > available) {
    return absl::ResourceExhaustedError(
        absl::StrCat("converting model ", QuoteForMessage(model.name), " to bf16 takes ", total,
                     " bytes of memory, but only ", available, " are available"));
  }
  const int fd = memfd_create("moe-converted-weights", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) {
    return absl::InternalError(absl::StrCat("cannot create a memory file: ", ErrorText(errno)));
  }
  ConvertedWeights unfinished(fd, total, 0);  // closes fd on every return
  const std::string header = MakeSafetensorsHeader(images, {{kConvertedSourceKey, model.digest}});
  absl::Status status = WriteAll(fd, header.data(), header.size());
  if (!status.ok()) return status;
  uint64_t done = 0;
  for (const ModelTensor* tensor : sources) {
    const File& file = model.files[static_cast<size_t>(tensor->file_idx)].file;
    status = ConvertTensor(file, tensor->info, fd, [&](uint64_t num_bytes) {
      done += num_bytes;
      if (progress) progress(done, total);
    });
    if (!status.ok()) {
      return absl::Status(status.code(), absl::StrCat(status.message(), " (tensor ",
                                                      QuoteForMessage(tensor->name), ")"));
    }
  }
  if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) != 0) {
    return absl::InternalError(absl::StrCat("cannot seal converted weights: ", ErrorText(errno)));
  }
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return std::move(unfinished).Finished(seconds);
}

}  // namespace moe::model
