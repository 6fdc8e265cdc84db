#include "worker/model/safetensors.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "worker/model/bounded_json.h"

namespace moe::model {
namespace {

struct DTypeRow {
  DType dtype;
  std::string_view name;
  int num_bytes;
};

constexpr std::array<DTypeRow, 17> kDTypes = {{
    {DType::kBool, "BOOL", 1},
    {DType::kU8, "U8", 1},
    {DType::kI8, "I8", 1},
    {DType::kF8E5M2, "F8_E5M2", 1},
    {DType::kF8E4M3, "F8_E4M3", 1},
    {DType::kF8E8M0, "F8_E8M0", 1},
    {DType::kI16, "I16", 2},
    {DType::kU16, "U16", 2},
    {DType::kF16, "F16", 2},
    {DType::kBF16, "BF16", 2},
    {DType::kI32, "I32", 4},
    {DType::kU32, "U32", 4},
    {DType::kF32, "F32", 4},
    {DType::kI64, "I64", 8},
    {DType::kU64, "U64", 8},
    {DType::kF64, "F64", 8},
    {DType::kC64, "C64", 8},
}};

constexpr std::string_view kMetadataKey = "__metadata__";
// No tensor of any published model comes near; it keeps messages and shape vectors short.
constexpr size_t kMaxRank = 32;

uint64_t ReadLittleEndian64(std::string_view bytes) {
  uint64_t value = 0;
  for (size_t i = 0; i < 8; ++i) {
    value |= uint64_t{static_cast<unsigned char>(bytes[i])} << (8 * i);
  }
  return value;
}

// Builds the index while the JSON streams by. Every value that the format does not have at its
// place is an error, so only three kinds of nesting exist: the top object, a tensor (or the
// metadata), and an array of numbers in a tensor.
class HeaderReader final : public nlohmann::json_sax<nlohmann::json> {
 public:
  HeaderReader(const std::string& file, SafetensorsIndex* index) : file_(file), index_(index) {}

  const absl::Status& status() const { return status_; }

  bool null() override { return Unexpected("null"); }
  bool boolean(bool) override { return Unexpected("a boolean"); }
  bool number_integer(number_integer_t value) override {
    return place_ == Place::kShape || place_ == Place::kOffsets
               ? Fail(absl::StrCat(FieldName(), " has the negative value ", value))
               : Unexpected("a number");
  }
  bool number_float(number_float_t, const string_t& text) override {
    return Unexpected(absl::StrCat("the number ", text.substr(0, 40)));
  }
  bool binary(binary_t&) override { return Unexpected("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    switch (place_) {
      case Place::kShape:
        if (tensor_.shape.size() == kMaxRank) {
          return Fail(absl::StrCat("shape has more than ", kMaxRank, " dimensions"));
        }
        if (value > static_cast<uint64_t>(INT64_MAX)) {
          return Fail(absl::StrCat("shape has the dimension ", value, ", which is too large"));
        }
        tensor_.shape.push_back(static_cast<int64_t>(value));
        return true;
      case Place::kOffsets:
        if (num_offsets_ == 2) return Fail("data_offsets has more than two numbers");
        (num_offsets_++ == 0 ? tensor_.begin : tensor_.end) = value;
        return true;
      default:
        return Unexpected("a number");
    }
  }

  bool string(string_t& value) override {
    if (place_ == Place::kMetadata) {
      if (index_->metadata.emplace(field_, std::move(value)).second) return true;
      return Fail(absl::StrCat("the key ", QuoteForMessage(field_), " appears twice"));
    }
    if (place_ != Place::kTensor || field_ != "dtype") return Unexpected("a string");
    const std::optional<DType> dtype = ParseDType(value);
    if (!dtype.has_value()) {
      return Fail(absl::StrCat("dtype ", QuoteForMessage(value), " is unknown"));
    }
    tensor_.dtype = *dtype;
    return true;
  }

  bool start_object(size_t) override {
    switch (place_) {
      case Place::kStart:
        place_ = Place::kTop;
        return true;
      case Place::kTop:
        tensor_ = TensorInfo();
        has_dtype_ = has_shape_ = has_offsets_ = false;
        place_ = name_ == kMetadataKey ? Place::kMetadata : Place::kTensor;
        return true;
      default:
        return Unexpected("an object");
    }
  }

  bool end_object() override {
    switch (place_) {
      case Place::kMetadata:
        place_ = Place::kTop;
        return true;
      case Place::kTensor:
        if (!has_dtype_ || !has_shape_ || !has_offsets_) {
          return Fail("dtype, shape or data_offsets is missing");
        }
        index_->tensors.emplace(name_, std::move(tensor_));
        place_ = Place::kTop;
        return true;
      default:
        place_ = Place::kEnd;
        return true;
    }
  }

  bool start_array(size_t) override {
    if (place_ != Place::kTensor || (field_ != "shape" && field_ != "data_offsets")) {
      return Unexpected("an array");
    }
    place_ = field_ == "shape" ? Place::kShape : Place::kOffsets;
    num_offsets_ = 0;
    return true;
  }

  bool end_array() override {
    if (place_ == Place::kOffsets && num_offsets_ != 2) {
      return Fail("data_offsets has fewer than two numbers");
    }
    place_ = Place::kTensor;
    return true;
  }

  bool key(string_t& key) override {
    if (place_ == Place::kTop) {
      name_ = std::move(key);
      const bool is_metadata = name_ == kMetadataKey;
      const bool is_new = is_metadata ? !has_metadata_ : !index_->tensors.contains(name_);
      has_metadata_ = has_metadata_ || is_metadata;
      return is_new || Fail("appears twice");
    }
    field_ = std::move(key);
    if (place_ == Place::kMetadata) return true;
    bool* seen = field_ == "dtype"          ? &has_dtype_
                 : field_ == "shape"        ? &has_shape_
                 : field_ == "data_offsets" ? &has_offsets_
                                            : nullptr;
    if (seen == nullptr) {
      return Fail(absl::StrCat("the key ", QuoteForMessage(field_), " is unknown"));
    }
    if (*seen) return Fail(absl::StrCat(field_, " appears twice"));
    *seen = true;
    return true;
  }

  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    status_ = absl::InvalidArgumentError(
        absl::StrCat(file_, ": the header is not valid JSON at byte ", position, ": ",
                     absl::CHexEscape(std::string(error.what()).substr(0, 200))));
    return false;
  }

 private:
  enum class Place { kStart, kTop, kMetadata, kTensor, kShape, kOffsets, kEnd };

  std::string FieldName() const {
    return place_ == Place::kShape ? "shape" : place_ == Place::kOffsets ? "data_offsets" : field_;
  }

  bool Unexpected(const std::string& what) {
    if (place_ == Place::kStart) {
      return Fail(absl::StrCat("the header is ", what, ", not an object"));
    }
    if (place_ == Place::kTop) return Fail(absl::StrCat("is ", what, ", not an object"));
    return Fail(absl::StrCat(FieldName(), " holds ", what));
  }

  bool Fail(const std::string& message) {
    status_ = absl::InvalidArgumentError(
        place_ == Place::kStart
            ? absl::StrCat(file_, ": ", message)
            : absl::StrCat(file_, ": tensor ", QuoteForMessage(name_), ": ", message));
    return false;
  }

  const std::string& file_;
  SafetensorsIndex* const index_;
  absl::Status status_;
  Place place_ = Place::kStart;
  std::string name_;   // key in the top object
  std::string field_;  // key in a tensor or in the metadata
  TensorInfo tensor_;  // being read; begin and end relative to the data section
  int num_offsets_ = 0;
  bool has_metadata_ = false;
  bool has_dtype_ = false;
  bool has_shape_ = false;
  bool has_offsets_ = false;
};

absl::Status TensorError(const std::string& file, std::string_view name,
                         const std::string& message) {
  return absl::InvalidArgumentError(
      absl::StrCat(file, ": tensor ", QuoteForMessage(name), ": ", message));
}

// Offsets in order, within the file, and equal to shape x dtype; then from data section to file.
absl::Status CheckTensor(const std::string& file, std::string_view name, uint64_t data_begin,
                         uint64_t data_bytes, TensorInfo* tensor) {
  if (tensor->begin > tensor->end) {
    return TensorError(file, name,
                       absl::StrCat("data_offsets [", tensor->begin, ", ", tensor->end,
                                    "] are in the wrong order"));
  }
  if (tensor->end > data_bytes) {
    return TensorError(file, name,
                       absl::StrCat("data_offsets end at ", tensor->end, ", but the file has only ",
                                    data_bytes, " bytes of data"));
  }
  auto num_bytes = static_cast<uint64_t>(DTypeBytes(tensor->dtype));
  for (const int64_t dimension : tensor->shape) {
    if (__builtin_mul_overflow(num_bytes, static_cast<uint64_t>(dimension), &num_bytes)) {
      return TensorError(
          file, name,
          absl::StrCat("the size of shape ", ShapeToString(tensor->shape), " exceeds 64 bits"));
    }
  }
  if (num_bytes != tensor->end - tensor->begin) {
    return TensorError(file, name,
                       absl::StrCat("shape ", ShapeToString(tensor->shape), " of ",
                                    std::string(DTypeName(tensor->dtype)), " takes ", num_bytes,
                                    " bytes, but data_offsets give ", tensor->end - tensor->begin));
  }
  tensor->begin += data_begin;
  tensor->end += data_begin;
  return absl::OkStatus();
}

// Ranges must tile the data section: this excludes overlaps (two names for one memory), holes and
// trailing bytes (places to hide something), as the format demands.
absl::Status CheckTiling(const std::string& file, const SafetensorsIndex& index,
                         uint64_t file_bytes) {
  std::vector<std::pair<const TensorInfo*, std::string_view>> order;
  order.reserve(index.tensors.size());
  for (const auto& [name, tensor] : index.tensors) order.emplace_back(&tensor, name);
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return std::pair(a.first->begin, a.first->end) < std::pair(b.first->begin, b.first->end);
  });
  uint64_t end = index.data_begin;
  std::string_view previous;
  for (const auto& [tensor, name] : order) {
    if (tensor->begin < end) {
      return TensorError(file, name, absl::StrCat("overlaps tensor ", QuoteForMessage(previous)));
    }
    if (tensor->begin > end) {
      return TensorError(file, name,
                         absl::StrCat("begins ", tensor->begin - end, " bytes after the end of ",
                                      previous.empty() ? "the header" : QuoteForMessage(previous)));
    }
    end = tensor->end;
    previous = name;
  }
  if (end != file_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": ", file_bytes - end, " bytes follow the last tensor",
                     previous.empty() ? "" : absl::StrCat(" ", QuoteForMessage(previous)),
                     "; there may be none"));
  }
  return absl::OkStatus();
}

}  // namespace

std::string_view DTypeName(DType dtype) { return kDTypes[static_cast<size_t>(dtype)].name; }

std::optional<DType> ParseDType(std::string_view name) {
  for (const DTypeRow& row : kDTypes) {
    if (row.name == name) return row.dtype;
  }
  return std::nullopt;
}

int DTypeBytes(DType dtype) { return kDTypes[static_cast<size_t>(dtype)].num_bytes; }

std::string ShapeToString(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

absl::StatusOr<uint64_t> SafetensorsHeaderEnd(std::string_view prefix, uint64_t file_bytes,
                                              const std::string& file_name) {
  if (file_bytes < kSafetensorsPrefixBytes || prefix.size() < kSafetensorsPrefixBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(file_name, ": ", file_bytes,
                     " bytes long; a safetensors file begins with 8 bytes of header length"));
  }
  const uint64_t header_bytes = ReadLittleEndian64(prefix);
  if (header_bytes > kMaxSafetensorsHeaderBytes) {
    return absl::InvalidArgumentError(absl::StrCat(file_name, ": header length ", header_bytes,
                                                   "; at most ", kMaxSafetensorsHeaderBytes,
                                                   " bytes are read"));
  }
  if (header_bytes > file_bytes - kSafetensorsPrefixBytes) {
    return absl::InvalidArgumentError(absl::StrCat(file_name, ": header length ", header_bytes,
                                                   ", but the file is only ", file_bytes,
                                                   " bytes long"));
  }
  return kSafetensorsPrefixBytes + header_bytes;
}

absl::StatusOr<SafetensorsIndex> ParseSafetensorsHeader(std::string_view head, uint64_t file_bytes,
                                                        const std::string& file_name) {
  absl::StatusOr<uint64_t> header_end = SafetensorsHeaderEnd(head, file_bytes, file_name);
  if (!header_end.ok()) return header_end.status();
  if (head.size() < *header_end) {
    return absl::InvalidArgumentError(
        absl::StrCat(file_name, ": the header is cut after ", head.size(), " bytes"));
  }
  const std::string_view json =
      head.substr(kSafetensorsPrefixBytes, *header_end - kSafetensorsPrefixBytes);
  if (!json.starts_with('{')) {
    return absl::InvalidArgumentError(
        absl::StrCat(file_name, ": the header does not begin with '{'"));
  }
  // The parser takes a NUL byte for the end of its input and would ignore what follows.
  if (json.find('\0') != std::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrCat(file_name, ": the header contains a NUL byte"));
  }
  SafetensorsIndex index;
  index.data_begin = *header_end;
  HeaderReader reader(file_name, &index);
  if (!nlohmann::json::sax_parse(json.begin(), json.end(), &reader)) return reader.status();
  for (auto& [name, tensor] : index.tensors) {
    absl::Status status =
        CheckTensor(file_name, name, index.data_begin, file_bytes - index.data_begin, &tensor);
    if (!status.ok()) return status;
  }
  absl::Status status = CheckTiling(file_name, index, file_bytes);
  if (!status.ok()) return status;
  return index;
}

std::string MakeSafetensorsHeader(const std::vector<NamedTensor>& tensors,
                                  const std::map<std::string, std::string, std::less<>>& metadata) {
  constexpr size_t kAlignment = 64;
  nlohmann::json json = nlohmann::json::object();
  if (!metadata.empty()) json[std::string(kMetadataKey)] = metadata;
  uint64_t offset = 0;
  for (const NamedTensor& tensor : tensors) {
    auto num_bytes = static_cast<uint64_t>(DTypeBytes(tensor.dtype));
    for (const int64_t dimension : tensor.shape) num_bytes *= static_cast<uint64_t>(dimension);
    json[tensor.name] = {{"dtype", DTypeName(tensor.dtype)},
                         {"shape", tensor.shape},
                         {"data_offsets", {offset, offset + num_bytes}}};
    offset += num_bytes;
  }
  std::string text = json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  text.append((kAlignment - (kSafetensorsPrefixBytes + text.size()) % kAlignment) % kAlignment,
              ' ');
  std::string header(kSafetensorsPrefixBytes, '\0');
  for (size_t i = 0; i < kSafetensorsPrefixBytes; ++i) {
    header[i] = static_cast<char>((uint64_t{text.size()} >> (8 * i)) & 0xff);
  }
  return header + text;
}

}  // namespace moe::model
