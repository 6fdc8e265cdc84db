// See field_reader.h.
#include "controller/api/field_reader.h"

#include <cmath>
#include <limits>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "controller/api/quantity.h"
#include "controller/api/timestamp.h"

namespace moe::api {
namespace {

using Json = nlohmann::json;

const Json& EmptyObject() {
  static const auto* const empty = new Json(Json::object());
  return *empty;
}

std::optional<int64_t> AsInteger(const Json& value) {
  if (value.is_number_unsigned()) {
    const auto number = value.get<uint64_t>();
    return number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())
               ? std::nullopt
               : std::optional(static_cast<int64_t>(number));
  }
  if (value.is_number_integer()) {
    return value.get<int64_t>();
  }
  if (value.is_number_float()) {
    const auto number = value.get<double>();
    // Up to 2^53 every whole number is exact.
    if (std::nearbyint(number) == number && std::abs(number) <= 9007199254740992.0) {
      return static_cast<int64_t>(number);
    }
  }
  return std::nullopt;
}

}  // namespace

FieldReader::FieldReader(const Json& value, std::string path, absl::Status* error)
    : object_(&value), path_(std::move(path)), error_(error) {
  if (!value.is_object()) {
    if (!value.is_null()) {
      Fail("must be an object");
    }
    object_ = &EmptyObject();
  }
}

const Json* FieldReader::Find(absl::string_view name) const {
  const auto found = object_->find(std::string(name));
  return found == object_->end() || found->is_null() ? nullptr : &*found;
}

std::string FieldReader::PathOf(absl::string_view name) const {
  return path_.empty() ? std::string(name) : absl::StrCat(path_, ".", name);
}

FieldReader FieldReader::Object(absl::string_view name) const {
  const Json* value = Find(name);
  return FieldReader(value == nullptr ? EmptyObject() : *value, PathOf(name), error_);
}

std::vector<FieldReader> FieldReader::Objects(absl::string_view name, size_t max) const {
  std::vector<FieldReader> readers;
  const Json* value = Find(name);
  if (value == nullptr) {
    return readers;
  }
  if (!value->is_array() || value->size() > max) {
    Fail(name, absl::StrCat("must be a list of at most ", max, " objects"));
    return readers;
  }
  readers.reserve(value->size());
  for (size_t i = 0; i < value->size(); ++i) {
    readers.emplace_back((*value)[i], absl::StrCat(PathOf(name), "[", i, "]"), error_);
  }
  return readers;
}

void FieldReader::Integer(absl::string_view name, int64_t min, int64_t max, int64_t* out) const {
  const Json* value = Find(name);
  if (value == nullptr) {
    return;
  }
  const std::optional<int64_t> number = AsInteger(*value);
  if (!number.has_value() || *number < min || *number > max) {
    Fail(name, absl::StrCat("must be a whole number from ", min, " to ", max));
    return;
  }
  *out = *number;
}

void FieldReader::Integer(absl::string_view name, int64_t min, int64_t max, int* out) const {
  int64_t number = *out;
  Integer(name, min, max, &number);
  *out = static_cast<int>(number);
}

void FieldReader::Integer(absl::string_view name, int64_t min, int64_t max,
                          std::optional<int>* out) const {
  if (Has(name)) {
    int number = 0;
    Integer(name, min, max, &number);
    *out = number;
  }
}

void FieldReader::Count(absl::string_view name, uint64_t* out) const {
  auto number = static_cast<int64_t>(*out);
  Integer(name, 0, std::numeric_limits<int64_t>::max(), &number);
  *out = static_cast<uint64_t>(number);
}

void FieldReader::Number(absl::string_view name, double* out) const {
  const Json* value = Find(name);
  if (value == nullptr) {
    return;
  }
  if (!value->is_number()) {
    Fail(name, "must be a number");
    return;
  }
  *out = value->get<double>();
}

void FieldReader::Boolean(absl::string_view name, bool* out) const {
  const Json* value = Find(name);
  if (value == nullptr) {
    return;
  }
  if (!value->is_boolean()) {
    Fail(name, "must be true or false");
    return;
  }
  *out = value->get<bool>();
}

void FieldReader::String(absl::string_view name, size_t max_bytes, std::string* out) const {
  const Json* value = Find(name);
  if (value == nullptr) {
    return;
  }
  if (!value->is_string()) {
    Fail(name, "must be a string");
    return;
  }
  const auto& text = value->get_ref<const std::string&>();
  if (text.size() > max_bytes) {
    Fail(name, absl::StrCat("must be at most ", max_bytes, " bytes long"));
    return;
  }
  *out = text;
}

void FieldReader::Duration(absl::string_view name, absl::Duration min, absl::Duration max,
                           absl::Duration* out) const {
  std::string text;
  String(name, 64, &text);
  if (!Has(name) || !ok()) {
    return;
  }
  const absl::StatusOr<absl::Duration> duration = ParseDuration(text);
  if (!duration.ok()) {
    Fail(name, duration.status().message());
  } else if (*duration < min || *duration > max) {
    Fail(name, absl::StrCat("must be from ", absl::FormatDuration(min), " to ",
                            absl::FormatDuration(max)));
  } else {
    *out = *duration;
  }
}

void FieldReader::Timestamp(absl::string_view name, absl::Time* out) const {
  std::string text;
  String(name, 64, &text);
  if (!Has(name) || !ok()) {
    return;
  }
  const absl::StatusOr<absl::Time> time = ParseTimestamp(text);
  if (!time.ok()) {
    Fail(name, time.status().message());
    return;
  }
  *out = *time;
}

void FieldReader::Quantity(absl::string_view name, uint64_t* out) const {
  const Json* value = Find(name);
  if (value == nullptr) {
    return;
  }
  int64_t amount = 0;
  if (value->is_string()) {
    const absl::StatusOr<int64_t> parsed = ParseQuantity(value->get_ref<const std::string&>());
    if (!parsed.ok()) {
      Fail(name, parsed.status().message());
      return;
    }
    amount = *parsed;
  } else if (const std::optional<int64_t> number = AsInteger(*value); number.has_value()) {
    amount = *number;
  } else {
    Fail(name, "must be a quantity such as 40Gi");
    return;
  }
  if (amount < 1) {
    Fail(name, "must be above 0");
    return;
  }
  *out = static_cast<uint64_t>(amount);
}

void FieldReader::StringMap(absl::string_view name, size_t max_entries,
                            std::map<std::string, std::string>* out) const {
  const Json* value = Find(name);
  if (value == nullptr) {
    return;
  }
  if (!value->is_object() || value->size() > max_entries) {
    Fail(name, absl::StrCat("must be an object of at most ", max_entries, " strings"));
    return;
  }
  for (const auto& [key, text] : value->items()) {
    if (!text.is_string()) {
      Fail(absl::StrCat(name, "[", key, "]"), "must be a string");
      return;
    }
    (*out)[key] = text.get<std::string>();
  }
}

void FieldReader::Raw(absl::string_view name, Json* out) const {
  const Json* value = Find(name);
  if (value == nullptr) {
    return;
  }
  if (!value->is_object()) {
    Fail(name, "must be an object");
    return;
  }
  *out = *value;
}

void FieldReader::Fail(absl::string_view name, absl::string_view message) const {
  if (error_->ok()) {
    *error_ = absl::InvalidArgumentError(absl::StrCat(PathOf(name), ": ", message));
  }
}

void FieldReader::Fail(absl::string_view message) const {
  if (error_->ok()) {
    *error_ = absl::InvalidArgumentError(absl::StrCat(path_, ": ", message));
  }
}

}  // namespace moe::api
