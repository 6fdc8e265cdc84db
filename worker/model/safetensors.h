// The header of a safetensors file: 8 bytes of length (little-endian), then a JSON object that
// gives dtype, shape and byte range of each tensor
// (https://github.com/huggingface/safetensors#format).
//
// The file is not trusted. The header is read by a streaming parser straight into the index, so the
// memory it takes is bounded by the header's own size. Pure: no I/O.
//
// Tested by tests/worker/model/safetensors_test.cc and tests/fuzz/safetensors_fuzz.cc.
#ifndef MOE_WORKER_MODEL_SAFETENSORS_H_
#define MOE_WORKER_MODEL_SAFETENSORS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace moe::model {

// Element types of the format whose elements are whole bytes.
enum class DType {
  kBool,
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kF8E8M0,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kI64,
  kU64,
  kF64,
  kC64,
};

// "BF16", as in the file.
std::string_view DTypeName(DType dtype);
std::optional<DType> ParseDType(std::string_view name);
// Of one element.
int DTypeBytes(DType dtype);

struct TensorInfo {
  DType dtype = DType::kBF16;
  std::vector<int64_t> shape;
  // [begin, end) in the file, not in its data section. end - begin == product(shape) * DTypeBytes.
  uint64_t begin = 0;
  uint64_t end = 0;
};

struct SafetensorsIndex {
  std::map<std::string, TensorInfo, std::less<>> tensors;
  std::map<std::string, std::string, std::less<>> metadata;  // "__metadata__"
  uint64_t data_begin = 0;                                   // 8 + header length
};

// The length prefix, and the limit that the format's own reader has for the header.
inline constexpr uint64_t kSafetensorsPrefixBytes = 8;
inline constexpr uint64_t kMaxSafetensorsHeaderBytes = 100'000'000;

// Reads the prefix: how many bytes of the file (prefix and header) ParseSafetensorsHeader needs.
// `prefix` is the first 8 bytes of the file, fewer if it is shorter. InvalidArgument names the
// file.
absl::StatusOr<uint64_t> SafetensorsHeaderEnd(std::string_view prefix, uint64_t file_bytes,
                                              const std::string& file_name);

// Parses and checks a whole header. `head` holds at least SafetensorsHeaderEnd() bytes from the
// file's start; `file_bytes` is the size of the file; `file_name` is for messages.
// Every tensor has a known dtype, a shape whose bytes equal its range, and the ranges cover the
// data section without overlap or hole. InvalidArgument names the file and the tensor.
absl::StatusOr<SafetensorsIndex> ParseSafetensorsHeader(std::string_view head, uint64_t file_bytes,
                                                        const std::string& file_name);

// Prefix and header for tensors that lie one after the other in the given order; begin and end of
// the TensorInfos are ignored. The data section starts at a multiple of 64 bytes.
// REQUIRES: distinct names, shapes >= 0 whose bytes fit 63 bits.
struct NamedTensor {
  std::string name;
  DType dtype = DType::kBF16;
  std::vector<int64_t> shape;
};
std::string MakeSafetensorsHeader(const std::vector<NamedTensor>& tensors,
                                  const std::map<std::string, std::string, std::less<>>& metadata);

// Shapes in messages: "[64, 2048]".
std::string ShapeToString(const std::vector<int64_t>& shape);

}  // namespace moe::model

#endif  // MOE_WORKER_MODEL_SAFETENSORS_H_
