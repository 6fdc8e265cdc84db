// See admission.h.
#include "gateway/http/admission.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/strip.h"

namespace moe::gateway {
namespace {

constexpr absl::string_view kModelPrefix = "/v1/models/";

absl::string_view PathOf(absl::string_view target) {
  return target.substr(0, std::min(target.find_first_of("?#"), target.size()));
}

bool TakesPost(Route route) {
  return route == Route::kCompletions || route == Route::kChatCompletions;
}

}  // namespace

Route RouteOf(absl::string_view target) {
  const absl::string_view path = PathOf(target);
  if (path == "/v1/completions") {
    return Route::kCompletions;
  }
  if (path == "/v1/chat/completions") {
    return Route::kChatCompletions;
  }
  if (path == "/v1/models") {
    return Route::kModels;
  }
  if (absl::StartsWith(path, kModelPrefix) && path.size() > kModelPrefix.size()) {
    return Route::kModel;
  }
  if (path == "/health") {
    return Route::kHealth;
  }
  if (path == "/ready") {
    return Route::kReady;
  }
  if (path == "/metrics") {
    return Route::kMetrics;
  }
  if (path == "/moe/status") {
    return Route::kStatus;
  }
  if (path == "/version") {
    return Route::kVersion;
  }
  return Route::kNone;
}

absl::string_view ModelOf(absl::string_view target) {
  return absl::StripPrefix(PathOf(target), kModelPrefix);
}

const char* RouteName(Route route) {
  switch (route) {
    case Route::kCompletions:
      return "/v1/completions";
    case Route::kChatCompletions:
      return "/v1/chat/completions";
    case Route::kModels:
    case Route::kModel:
      return "/v1/models";
    case Route::kHealth:
      return "/health";
    case Route::kReady:
      return "/ready";
    case Route::kMetrics:
      return "/metrics";
    case Route::kStatus:
      return "/moe/status";
    case Route::kVersion:
      return "/version";
    case Route::kNone:
      break;
  }
  return "other";
}

bool SameSecret(absl::string_view given, absl::string_view expected) {
  if (expected.empty()) {
    return false;
  }
  size_t difference = given.size() ^ expected.size();
  for (size_t i = 0; i < given.size(); ++i) {
    difference |= static_cast<unsigned char>(given[i]) ^
                  static_cast<unsigned char>(expected[i % expected.size()]);
  }
  return difference == 0;
}

Admission Admit(const AdmissionRequest& request, const AdmissionRules& rules) {
  Admission admission;
  admission.route = RouteOf(request.target);
  const auto refuse = [&](int status, const char* message) {
    admission.status = status;
    admission.message = message;
    return admission;
  };
  const bool open = admission.route == Route::kHealth || admission.route == Route::kReady ||
                    (admission.route == Route::kMetrics && rules.open_metrics);
  if (!rules.api_key.empty() && !open) {
    absl::string_view key = request.authorization;
    constexpr absl::string_view kScheme = "bearer ";
    const bool is_bearer = absl::StartsWithIgnoreCase(key, kScheme);
    key.remove_prefix(is_bearer ? kScheme.size() : key.size());
    if (!SameSecret(absl::StripAsciiWhitespace(key), rules.api_key)) {
      return refuse(401, "A valid API key is needed: 'Authorization: Bearer KEY'.");
    }
  }
  if (admission.route == Route::kNone) {
    return refuse(404, "There is nothing at this path.");
  }
  const bool takes_post = TakesPost(admission.route);
  admission.allow = takes_post ? "POST, OPTIONS" : "GET, HEAD, OPTIONS";
  if (request.method == "OPTIONS") {
    admission.status = 204;
    return admission;
  }
  const bool allowed =
      takes_post ? request.method == "POST" : request.method == "GET" || request.method == "HEAD";
  if (!allowed) {
    return refuse(405, "This path does not take this method.");
  }
  if (!takes_post) {
    return admission;
  }
  if (!request.content_encoding.empty() &&
      !absl::EqualsIgnoreCase(request.content_encoding, "identity")) {
    return refuse(415, "A compressed body is not supported.");
  }
  const absl::string_view media = absl::StripAsciiWhitespace(request.content_type.substr(
      0, std::min(request.content_type.find(';'), request.content_type.size())));
  // Some small clients send none.
  if (!media.empty() && !absl::EqualsIgnoreCase(media, "application/json")) {
    return refuse(415, "The body must be application/json.");
  }
  return admission;
}

std::string EchoedRequestId(absl::string_view given, absl::string_view fallback) {
  const bool usable =
      !given.empty() && given.size() <= 128 &&
      std::all_of(given.begin(), given.end(), [](char c) { return c > 0x20 && c < 0x7F; });
  return std::string(usable ? given : fallback);
}

}  // namespace moe::gateway
