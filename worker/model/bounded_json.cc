#include "worker/model/bounded_json.h"

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace moe::model {
namespace {

using Json = nlohmann::json;

// First pass: looks at the document without building it.
class Checker final : public nlohmann::json_sax<Json> {
 public:
  Checker(const std::string& what, int max_depth) : what_(what), max_depth_(max_depth) {}

  const absl::Status& status() const { return status_; }

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(size_t) override {
    keys_.emplace_back();
    return Enter();
  }
  bool end_object() override {
    keys_.pop_back();
    --depth_;
    return true;
  }
  bool start_array(size_t) override { return Enter(); }
  bool end_array() override {
    --depth_;
    return true;
  }
  bool key(string_t& name) override {
    if (keys_.back().insert(name).second) return true;
    return Fail(absl::StrCat("the key ", QuoteForMessage(name), " appears twice in one object"));
  }
  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    return Fail(
        absl::StrCat("not valid JSON at byte ", position, ": ", absl::CHexEscape(error.what())));
  }

 private:
  bool Enter() {
    if (++depth_ <= max_depth_) return true;
    return Fail(absl::StrCat("nested deeper than ", max_depth_, " levels"));
  }
  bool Fail(const std::string& message) {
    status_ = absl::InvalidArgumentError(absl::StrCat(what_, ": ", message));
    return false;
  }

  const std::string what_;
  const int max_depth_;
  int depth_ = 0;
  std::vector<std::set<std::string, std::less<>>> keys_;  // of each open object
  absl::Status status_;
};

}  // namespace

std::string QuoteForMessage(std::string_view text) {
  constexpr size_t kMaxBytes = 80;
  const bool cut = text.size() > kMaxBytes;
  return absl::StrCat("\"", absl::Utf8SafeCHexEscape(std::string(text.substr(0, kMaxBytes))),
                      cut ? "..." : "", "\"");
}

absl::StatusOr<Json> ParseJsonObject(std::string_view text, const std::string& what,
                                     const JsonLimits& limits) {
  if (text.size() > limits.max_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(what, ": ", text.size(), " bytes, but at most ",
                                                   limits.max_bytes, " are read"));
  }
  // The parser takes a NUL byte for the end of its input and would ignore what follows.
  if (text.find('\0') != std::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrCat(what, ": contains a NUL byte"));
  }
  Checker checker(what, limits.max_depth);
  if (!Json::sax_parse(text.begin(), text.end(), &checker)) return checker.status();
  Json document = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!document.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(what, ": not a JSON object"));
  }
  return document;
}

}  // namespace moe::model
