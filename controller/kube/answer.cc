#include "controller/kube/answer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace moe::kube {
namespace {

constexpr char kRetryAfterUrl[] = "moe-operator.dev/kube-retry-after-seconds";
constexpr char kTerminatingUrl[] = "moe-operator.dev/kube-namespace-terminating";
constexpr size_t kMaxMessageBytes = 2048;
constexpr int kMaxRetryAfterSeconds = 60;

// Counts the depth; builds nothing.
class DepthCheck : public nlohmann::json_sax<Json> {
 public:
  bool null() override { return true; }
  bool boolean(bool /*value*/) override { return true; }
  bool number_integer(number_integer_t /*value*/) override { return true; }
  bool number_unsigned(number_unsigned_t /*value*/) override { return true; }
  bool number_float(number_float_t /*value*/, const string_t& /*text*/) override { return true; }
  bool string(string_t& /*value*/) override { return true; }
  bool binary(binary_t& /*value*/) override { return false; }
  bool key(string_t& /*value*/) override { return true; }
  bool start_object(size_t /*size*/) override { return ++depth_ <= kMaxJsonDepth; }
  bool end_object() override { return --depth_ >= 0; }
  bool start_array(size_t /*size*/) override { return ++depth_ <= kMaxJsonDepth; }
  bool end_array() override { return --depth_ >= 0; }
  bool parse_error(size_t /*position*/, const std::string& /*token*/,
                   const nlohmann::detail::exception& /*error*/) override {
    return false;
  }
  bool too_deep() const { return depth_ > kMaxJsonDepth; }

 private:
  int depth_ = 0;
};

// A member that is a string, or "".
std::string StringOf(const Json& object, const char* name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

bool HasCause(const Json& status, absl::string_view reason) {
  const auto details = status.find("details");
  if (details == status.end() || !details->is_object()) {
    return false;
  }
  const auto causes = details->find("causes");
  return causes != details->end() && causes->is_array() &&
         std::any_of(causes->begin(), causes->end(), [reason](const Json& cause) {
           return cause.is_object() && StringOf(cause, "reason") == reason;
         });
}

absl::StatusCode CodeOf(int code, absl::string_view message, bool is_create) {
  switch (code) {
    case 401:
      return absl::StatusCode::kPermissionDenied;
    case 403:
      return absl::StrContains(message, "exceeded quota") ? absl::StatusCode::kResourceExhausted
                                                          : absl::StatusCode::kPermissionDenied;
    case 404:
      return absl::StatusCode::kNotFound;
    case 409:
      return is_create ? absl::StatusCode::kAlreadyExists : absl::StatusCode::kAborted;
    case 408:
    case 429:
      return absl::StatusCode::kUnavailable;
    case 410:
      return absl::StatusCode::kOutOfRange;
    default:
      // Redirects are not followed, so 3xx is an answer of something that is no API server.
      return code >= 500 || code < 400 ? absl::StatusCode::kUnavailable
                                       : absl::StatusCode::kInvalidArgument;
  }
}

}  // namespace

absl::StatusOr<Json> ParseObject(absl::string_view text) {
  DepthCheck check;
  if (!Json::sax_parse(text, &check)) {
    return absl::InternalError(check.too_deep() ? "the JSON is nested too deep"
                                                : "the answer is not JSON");
  }
  Json object = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) {
    return absl::InternalError("the answer is no JSON object");
  }
  return object;
}

absl::Status ErrorOf(int code, absl::string_view body, absl::string_view what, bool is_create,
                     std::optional<absl::Duration> retry_after) {
  std::string message;
  bool terminating = false;
  if (const absl::StatusOr<Json> status = ParseObject(body); status.ok()) {
    message = StringOf(*status, "message");
    terminating = HasCause(*status, "NamespaceTerminating");
  }
  if (message.empty()) {
    message = absl::StrCat("HTTP status ", code);
  }
  if (message.size() > kMaxMessageBytes) {
    message = absl::StrCat(message.substr(0, kMaxMessageBytes), "...");
  }
  absl::Status error(CodeOf(code, message, is_create), absl::StrCat(what, ": ", message));
  if (retry_after.has_value()) {
    // A view: Cord's template for strings has another symbol in clang than in the distribution's
    // GCC.
    const std::string seconds = absl::StrCat(absl::ToInt64Seconds(*retry_after));
    error.SetPayload(kRetryAfterUrl, absl::Cord(absl::string_view(seconds)));
  }
  if (terminating) {
    error.SetPayload(kTerminatingUrl, absl::Cord("1"));
  }
  return error;
}

std::optional<absl::Duration> ParseRetryAfter(absl::string_view header) {
  int64_t seconds = 0;
  if (!absl::SimpleAtoi(header, &seconds) || seconds < 0) {
    return std::nullopt;
  }
  return absl::Seconds(std::min<int64_t>(seconds, kMaxRetryAfterSeconds));
}

std::optional<absl::Duration> RetryAfter(const absl::Status& status) {
  const auto payload = status.GetPayload(kRetryAfterUrl);
  return payload.has_value() ? ParseRetryAfter(std::string(*payload)) : std::nullopt;
}

bool IsNamespaceTerminating(const absl::Status& status) {
  return status.GetPayload(kTerminatingUrl).has_value();
}

std::string MetadataString(const Json& object, absl::string_view field) {
  const auto metadata = object.find("metadata");
  if (metadata == object.end() || !metadata->is_object()) {
    return "";
  }
  return StringOf(*metadata, std::string(field).c_str());
}

std::string LabelOf(const Json& object, absl::string_view name) {
  const auto metadata = object.find("metadata");
  if (metadata == object.end() || !metadata->is_object()) {
    return "";
  }
  const auto labels = metadata->find("labels");
  if (labels == metadata->end() || !labels->is_object()) {
    return "";
  }
  return StringOf(*labels, std::string(name).c_str());
}

ObjectKey KeyOf(const Json& object) {
  return {.ns = MetadataString(object, "namespace"), .name = MetadataString(object, "name")};
}

std::string Describe(const ResourceType& type, const ObjectKey& key) {
  const bool both = !key.ns.empty() && !key.name.empty();
  return absl::StrCat(type.plural, key.ns.empty() && key.name.empty() ? "" : " ", key.ns,
                      both ? "/" : "", key.name);
}

}  // namespace moe::kube
