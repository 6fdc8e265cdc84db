// See strict_json.h.
#include "gateway/openai/strict_json.h"

#include <cmath>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace moe::gateway {
namespace {

using Json = nlohmann::json;

// Builds the value event by event and stops at the first thing that is not allowed.
class StrictBuilder : public nlohmann::json_sax<Json> {
 public:
  explicit StrictBuilder(Json* root) : root_(root) {}

  bool null() override { return Put(Json(nullptr)) != nullptr; }
  bool boolean(bool value) override { return Put(Json(value)) != nullptr; }
  bool number_integer(number_integer_t value) override { return Put(Json(value)) != nullptr; }
  bool number_unsigned(number_unsigned_t value) override { return Put(Json(value)) != nullptr; }
  bool number_float(number_float_t value, const string_t& /*text*/) override {
    if (!std::isfinite(value)) {
      return Fail(InvalidField("", "The body holds a number that is not finite."));
    }
    return Put(Json(value)) != nullptr;
  }
  bool string(string_t& value) override { return Put(Json(std::move(value))) != nullptr; }
  bool binary(binary_t& /*value*/) override { return Fail(InvalidField("", "Not JSON.")); }
  bool start_object(size_t /*size*/) override { return Open(Json::object()); }
  bool start_array(size_t /*size*/) override { return Open(Json::array()); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }

  bool key(string_t& name) override {
    auto [slot, is_new] = open_.back()->get_ref<Json::object_t&>().try_emplace(name, nullptr);
    if (!is_new) {
      return Fail(InvalidField(
          Shortened(name),
          absl::StrCat("The body holds the key '", Shortened(name), "' twice in one object.")));
    }
    member_ = &slot->second;
    if (open_.size() == 1) {
      field_ = name;
    }
    return true;
  }

  bool parse_error(size_t position, const std::string& /*last_token*/,
                   const nlohmann::detail::exception& /*error*/) override {
    return Fail(
        InvalidField("", absl::StrCat("The body is not valid JSON (at byte ", position, ").")));
  }

  std::optional<ApiError> TakeError() { return std::move(error_); }

 private:
  Json* Put(Json&& value) {
    if (open_.empty()) {
      *root_ = std::move(value);
      return root_;
    }
    Json* parent = open_.back();
    if (parent->is_array()) {
      auto& items = parent->get_ref<Json::array_t&>();
      items.push_back(std::move(value));
      return &items.back();
    }
    *member_ = std::move(value);
    return member_;
  }

  bool Open(Json&& container) {
    if (open_.size() >= kMaxJsonDepth) {
      // The field is known where the body is an object: what fails here may be a schema.
      return Fail(InvalidField(
          Shortened(field_),
          absl::StrCat(field_.empty() ? "The body" : absl::StrCat("'", Shortened(field_), "'"),
                       " is nested deeper than ", kMaxJsonDepth, " levels.")));
    }
    open_.push_back(Put(std::move(container)));
    return true;
  }

  bool Close() {
    open_.pop_back();
    return true;
  }

  bool Fail(ApiError error) {
    error_ = std::move(error);
    return false;
  }

  Json* root_;
  // The containers that are open. Pointers stay valid: a container grows only while it is the
  // innermost one.
  std::vector<Json*> open_;
  Json* member_ = nullptr;  // where the value of the last key goes
  std::string field_;       // the last key of the outermost object
  std::optional<ApiError> error_;
};

}  // namespace

std::optional<ApiError> ParseStrictJson(absl::string_view text, Json* value) {
  StrictBuilder builder(value);
  if (Json::sax_parse(text.begin(), text.end(), &builder)) {
    return std::nullopt;
  }
  std::optional<ApiError> error = builder.TakeError();
  return error.has_value() ? error : InvalidField("", "The body is not valid JSON.");
}

}  // namespace moe::gateway
