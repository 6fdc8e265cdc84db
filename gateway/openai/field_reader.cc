// See field_reader.h.
#include "gateway/openai/field_reader.h"

#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"

namespace moe::gateway {

using Json = nlohmann::json;

std::optional<int64_t> AsInteger(const Json& value) {
  if (value.is_number_unsigned()) {
    const uint64_t number = value.get<uint64_t>();
    if (number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return std::nullopt;
    }
    return static_cast<int64_t>(number);
  }
  if (value.is_number_integer()) {
    return value.get<int64_t>();
  }
  if (value.is_number_float()) {
    const double number = value.get<double>();
    // Up to 2^53 every whole number is exact.
    if (std::nearbyint(number) == number && std::abs(number) <= 9007199254740992.0) {
      return static_cast<int64_t>(number);
    }
  }
  return std::nullopt;
}

const Json* FieldReader::Find(absl::string_view name) const {
  const auto found = object_.find(std::string(name));
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

void FieldReader::Integer(absl::string_view name, int64_t min, int64_t max,
                          std::optional<int64_t>* out) {
  const Json* value = Find(name);
  if (value == nullptr) {
    return;
  }
  const std::optional<int64_t> number = AsInteger(*value);
  if (!number.has_value()) {
    Fail(name,
         absl::StrCat("'", prefix_, name, "' must be an integer from ", min, " to ", max, "."));
  } else if (*number < min || *number > max) {
    Fail(name, absl::StrCat("'", prefix_, name, "' must be from ", min, " to ", max, ", not ",
                            *number, "."));
  } else {
    *out = number;
  }
}

void FieldReader::Integer(absl::string_view name, int64_t min, int64_t max, int64_t* out) {
  std::optional<int64_t> number;
  Integer(name, min, max, &number);
  *out = number.value_or(*out);
}

void FieldReader::Number(absl::string_view name, double min, double max, bool min_excluded,
                         double* out) {
  const Json* value = Find(name);
  if (value == nullptr) {
    return;
  }
  if (!value->is_number()) {
    Fail(name, absl::StrCat("'", prefix_, name, "' must be a number."));
    return;
  }
  const double number = value->get<double>();
  if (!(number >= min && number <= max) || (min_excluded && number == min)) {
    Fail(name, absl::StrCat("'", prefix_, name, "' must be ", min_excluded ? "above " : "from ",
                            min, min_excluded ? " and at most " : " to ", max, "."));
    return;
  }
  *out = number;
}

void FieldReader::Boolean(absl::string_view name, bool* out) {
  const Json* value = Find(name);
  if (value == nullptr) {
    return;
  }
  if (!value->is_boolean()) {
    Fail(name, absl::StrCat("'", prefix_, name, "' must be true or false."));
    return;
  }
  *out = value->get<bool>();
}

void FieldReader::String(absl::string_view name, std::string* out) {
  const Json* value = Find(name);
  if (value == nullptr) {
    return;
  }
  if (!value->is_string()) {
    Fail(name, absl::StrCat("'", prefix_, name, "' must be a string."));
    return;
  }
  const auto& text = value->get_ref<const std::string&>();
  if (text.find('\0') != std::string::npos) {
    Fail(name, absl::StrCat("'", prefix_, name, "' must not hold a NUL character."));
    return;
  }
  *out = text;
}

void FieldReader::Fail(absl::string_view name, std::string message) {
  if (!error_.has_value()) {
    error_ = InvalidField(absl::StrCat(prefix_, name), std::move(message));
  }
}

void FieldReader::Unsupported(absl::string_view name) {
  if (!error_.has_value()) {
    error_ = InvalidField(absl::StrCat(prefix_, name),
                          absl::StrCat("'", prefix_, name, "' is not supported."));
    error_->code = "unsupported_parameter";
  }
}

}  // namespace moe::gateway
