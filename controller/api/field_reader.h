// Reads typed fields of a JSON object and of the objects in it; keeps the first error. Internal to
// controller/api.
//
// A field that is absent or null leaves the output as it was. After an error the outputs mean
// nothing, so a caller checks once at the end.
#ifndef MOE_CONTROLLER_API_FIELD_READER_H_
#define MOE_CONTROLLER_API_FIELD_READER_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "nlohmann/json.hpp"

namespace moe::api {

class FieldReader {
 public:
  using Json = nlohmann::json;

  // `path` names `value` in errors, for example "spec.worker". A `value` that is null reads as an
  // empty object, anything else that is no object is an error. Both pointees outlive this.
  FieldReader(const Json& value, std::string path, absl::Status* error);

  // nullptr when absent or null.
  const Json* Find(absl::string_view name) const;
  bool Has(absl::string_view name) const { return Find(name) != nullptr; }

  FieldReader Object(absl::string_view name) const;
  // A reader for each entry of the list `name`; at most `max` of them.
  std::vector<FieldReader> Objects(absl::string_view name, size_t max) const;

  // min and max are allowed values. Integers written as 5.0 are accepted.
  void Integer(absl::string_view name, int64_t min, int64_t max, int64_t* out) const;
  void Integer(absl::string_view name, int64_t min, int64_t max, int* out) const;
  void Integer(absl::string_view name, int64_t min, int64_t max, std::optional<int>* out) const;
  void Count(absl::string_view name, uint64_t* out) const;  // 0 to 2^63 - 1
  void Number(absl::string_view name, double* out) const;
  void Boolean(absl::string_view name, bool* out) const;
  void String(absl::string_view name, size_t max_bytes, std::string* out) const;
  // `names` are the allowed texts and what they stand for.
  template <typename Enum>
  void Choice(absl::string_view name, const std::vector<std::pair<absl::string_view, Enum>>& names,
              Enum* out) const;
  void Duration(absl::string_view name, absl::Duration min, absl::Duration max,
                absl::Duration* out) const;
  void Timestamp(absl::string_view name, absl::Time* out) const;
  // At least 1; a number or a text such as 40Gi.
  void Quantity(absl::string_view name, uint64_t* out) const;
  void StringMap(absl::string_view name, size_t max_entries,
                 std::map<std::string, std::string>* out) const;
  // An object as it is.
  void Raw(absl::string_view name, Json* out) const;

  // "spec.worker.spares: MESSAGE". The first error stays.
  void Fail(absl::string_view name, absl::string_view message) const;
  // Of the object itself.
  void Fail(absl::string_view message) const;
  std::string PathOf(absl::string_view name) const;
  bool ok() const { return error_->ok(); }

 private:
  const Json* object_;
  std::string path_;
  absl::Status* error_;
};

template <typename Enum>
void FieldReader::Choice(absl::string_view name,
                         const std::vector<std::pair<absl::string_view, Enum>>& names,
                         Enum* out) const {
  std::string text;
  String(name, 64, &text);
  if (!Has(name) || !ok()) {
    return;
  }
  std::string allowed;
  for (const auto& [known, value] : names) {
    if (text == known) {
      *out = value;
      return;
    }
    absl::StrAppend(&allowed, allowed.empty() ? "" : " or ", known);
  }
  Fail(name, absl::StrCat("write ", allowed));
}

}  // namespace moe::api

#endif  // MOE_CONTROLLER_API_FIELD_READER_H_
