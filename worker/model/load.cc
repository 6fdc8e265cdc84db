// Checkpoint::Load: brings a rank's own byte ranges into memory and checks their values.

#include <algorithm>
#include <chrono>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "worker/model/bounded_json.h"
#include "worker/model/checkpoint.h"
#include "worker/model/finite.h"
#include "worker/model/mapped_file.h"

namespace moe::model {
namespace {

// Large enough to read at full speed, small enough for a smooth progress display.
constexpr uint64_t kChunkBytes = uint64_t{4} << 20;
constexpr size_t kMaxNamedTensors = 20;

struct NonFinite {
  std::string file;
  std::string tensor;
  NonFiniteCount count;
};

std::vector<std::string> ToWarnings(const std::vector<NonFinite>& found) {
  std::vector<std::string> warnings;
  for (const NonFinite& item : found) {
    if (warnings.size() == kMaxNamedTensors) {
      warnings.push_back(absl::StrCat("and ", found.size() - kMaxNamedTensors,
                                      " more tensors have NaN or infinite values"));
      break;
    }
    warnings.push_back(absl::StrCat(item.file, ": tensor ", QuoteForMessage(item.tensor), " has ",
                                    item.count.num_nan, " NaN and ", item.count.num_infinite,
                                    " infinite values"));
  }
  return warnings;
}

}  // namespace

absl::StatusOr<LoadReport> Checkpoint::Load(const TensorSet& set, const Progress& progress,
                                            const Sink& sink) const {
  const auto start = std::chrono::steady_clock::now();
  LoadReport report;
  std::vector<NonFinite> found;
  for (size_t r = 0; r < set.ranges.size(); ++r) {
    const TensorSet::Range& range = set.ranges[r];
    const MappedFile& file = *files_[static_cast<size_t>(range.file_idx)];
    absl::Status status = file.file().CheckStillHolds(range.end);
    if (!status.ok()) {
      return absl::Status(status.code(), absl::StrCat(status.message(), " (tensor ",
                                                      QuoteForMessage(range.tensor), ")"));
    }
    if (r == 0) file.ReadAhead(range.begin, range.end);
    if (r + 1 < set.ranges.size()) {
      const TensorSet::Range& next = set.ranges[r + 1];
      files_[static_cast<size_t>(next.file_idx)]->ReadAhead(next.begin, next.end);
    }
    NonFiniteCount count;
    for (uint64_t begin = range.begin; begin < range.end; begin += kChunkBytes) {
      const uint64_t num_bytes = std::min(kChunkBytes, range.end - begin);
      const auto* values = reinterpret_cast<const kernels::BFloat16*>(file.data() + begin);
      const size_t num_values = num_bytes / sizeof(kernels::BFloat16);
      count += CountNonFinite(values, num_values);
      if (sink) {
        absl::Status stored = sink({values, num_values});
        if (!stored.ok()) return stored;
      }
      report.num_bytes += num_bytes;
      if (progress) progress(report.num_bytes, set.num_bytes);
    }
    if (count.num_nan == 0 && count.num_infinite == 0) continue;
    // The parts of a fused tensor that lie side by side are one entry.
    if (!found.empty() && found.back().tensor == range.tensor) {
      found.back().count += count;
    } else {
      found.push_back({file.file().path(), range.tensor, count});
    }
  }
  report.warnings = ToWarnings(found);
  report.resident_bytes = ResidentBytes();
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

// Sums "Rss:" of the mappings in /proc/self/smaps that belong to the files. mincore() would not do:
// it tells what the page cache holds, which all processes of the machine share.
uint64_t Checkpoint::ResidentBytes() const {
  std::ifstream smaps("/proc/self/smaps");
  uint64_t resident_kib = 0;
  bool is_ours = false;
  for (std::string line; std::getline(smaps, line);) {
    uint64_t begin = 0;
    uint64_t end = 0;
    uint64_t kib = 0;
    if (std::sscanf(line.c_str(), "%" SCNx64 "-%" SCNx64 " ", &begin, &end) == 2) {
      is_ours = std::any_of(files_.begin(), files_.end(), [&](const auto& file) {
        const auto first = reinterpret_cast<uintptr_t>(file->data());
        return begin >= first && begin < first + file->file().num_bytes();
      });
    } else if (is_ours && std::sscanf(line.c_str(), "Rss: %" SCNu64 " kB", &kib) == 1) {
      resident_kib += kib;
    }
  }
  return resident_kib * 1024;
}

}  // namespace moe::model
