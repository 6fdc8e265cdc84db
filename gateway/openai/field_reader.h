// Reads typed fields of one JSON object and keeps the first error. Internal to gateway/openai.
//
// A field that is absent or null leaves the output as it was. After an error further reads do
// nothing, so a caller checks once at the end.
#ifndef MOE_GATEWAY_OPENAI_FIELD_READER_H_
#define MOE_GATEWAY_OPENAI_FIELD_READER_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "gateway/openai/api_error.h"
#include "nlohmann/json.hpp"

namespace moe::gateway {

class FieldReader {
 public:
  // `object` is a JSON object and outlives this. `prefix` is put before field names in errors, for
  // example "messages[3].".
  explicit FieldReader(const nlohmann::json& object, std::string prefix = "")
      : object_(object), prefix_(std::move(prefix)) {}

  // nullptr when absent or null.
  const nlohmann::json* Find(absl::string_view name) const;

  // min and max are allowed values. Integers written as 5.0 are accepted.
  void Integer(absl::string_view name, int64_t min, int64_t max, std::optional<int64_t>* out);
  void Integer(absl::string_view name, int64_t min, int64_t max, int64_t* out);
  // `min_excluded`: min itself is refused.
  void Number(absl::string_view name, double min, double max, bool min_excluded, double* out);
  void Boolean(absl::string_view name, bool* out);
  // Refuses text with a NUL.
  void String(absl::string_view name, std::string* out);

  // The first error stays.
  void Fail(absl::string_view name, std::string message);
  // `name` is known and not built.
  void Unsupported(absl::string_view name);

  bool ok() const { return !error_.has_value(); }
  std::optional<ApiError> TakeError() { return std::move(error_); }

 private:
  const nlohmann::json& object_;
  std::string prefix_;
  std::optional<ApiError> error_;
};

// An integer of any JSON form (-5, 5, 5.0) that fits int64; nullopt for all else.
std::optional<int64_t> AsInteger(const nlohmann::json& value);

}  // namespace moe::gateway

#endif  // MOE_GATEWAY_OPENAI_FIELD_READER_H_
