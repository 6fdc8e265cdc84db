// See api_error.h.
#include "gateway/openai/api_error.h"

#include <cstddef>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace moe::gateway {
namespace {

using Json = nlohmann::ordered_json;

Json OrNull(const std::string& text) { return text.empty() ? Json(nullptr) : Json(text); }

}  // namespace

ApiError InvalidField(absl::string_view param, std::string message) {
  ApiError error;
  error.message = std::move(message);
  error.param = std::string(param);
  return error;
}

ApiError ModelNotFound(absl::string_view model) {
  ApiError error;
  error.status = 404;
  error.message = absl::StrCat("The model '", Shortened(model), "' is not served here.");
  error.param = "model";
  error.code = "model_not_found";
  return error;
}

ApiError HttpError(int status, std::string message) {
  ApiError error;
  error.status = status;
  error.message = std::move(message);
  switch (status) {
    case 401:
      error.type = "authentication_error";
      error.code = "invalid_api_key";
      break;
    case 429:
      error.type = "rate_limit_error";
      error.code = "rate_limit_exceeded";
      break;
    default:
      if (status >= 500) {
        error.type = "server_error";
      }
      break;
  }
  return error;
}

ApiError QueueFull() {
  ApiError error = HttpError(429, "The server's queue is full. Try again in a moment.");
  error.retry_after_seconds = 1;
  return error;
}

ApiError Unavailable(std::string message) {
  ApiError error = HttpError(503, std::move(message));
  error.code = "engine_unavailable";
  error.retry_after_seconds = 2;
  return error;
}

ApiError InternalError() {
  return HttpError(500, "The server had an error while it processed your request.");
}

ApiError FromStatus(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kResourceExhausted:
      return QueueFull();
    case absl::StatusCode::kInvalidArgument: {
      ApiError error;
      error.message = std::string(status.message());
      return error;
    }
    case absl::StatusCode::kUnavailable:
      return Unavailable("The engine can't go on with this request. Try again.");
    case absl::StatusCode::kFailedPrecondition:
      return Unavailable(
          "The engine changed while it worked on this request, which can't go on elsewhere with "
          "the "
          "same tokens. Try again.");
    default:
      return InternalError();
  }
}

std::string Shortened(absl::string_view text) {
  constexpr size_t kMaxBytes = 64;
  size_t end = text.size();
  if (end > kMaxBytes) {
    end = kMaxBytes;
    while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) {
      --end;
    }
  }
  std::string result(text.substr(0, end));
  for (char& c : result) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
      c = '?';
    }
  }
  if (end < text.size()) {
    result += "...";
  }
  return result;
}

std::string ErrorJson(const ApiError& error) {
  const Json body = {{"error",
                      {{"message", error.message},
                       {"type", error.type},
                       {"param", OrNull(error.param)},
                       {"code", OrNull(error.code)}}}};
  return body.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace moe::gateway
