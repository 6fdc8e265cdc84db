// Errors as the OpenAI API shows them: {"error": {"message", "type", "param", "code"}}.
//
// Messages never hold a path, an address or more than a short piece of what the client sent.
//
// Tested by tests/gateway/openai/response_test.cc.
#ifndef MOE_GATEWAY_OPENAI_API_ERROR_H_
#define MOE_GATEWAY_OPENAI_API_ERROR_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace moe::gateway {

struct ApiError {
  int status = 400;  // HTTP
  std::string type = "invalid_request_error";
  std::string message;
  std::string param;            // the field at fault; empty: null
  std::string code;             // machine-readable; empty: null
  int retry_after_seconds = 0;  // above 0: sent as Retry-After
};

// 400: the field `param` is wrong.
ApiError InvalidField(absl::string_view param, std::string message);
// 404: no such model.
ApiError ModelNotFound(absl::string_view model);
// 401, 404 (route), 405, 413, 415 and so on: the kind follows from the status.
ApiError HttpError(int status, std::string message);
// 429: the engine's queue is full.
ApiError QueueFull();
// 503: nothing computes right now.
ApiError Unavailable(std::string message);
// 500, with a fixed message.
ApiError InternalError();
// What a generation that ended with `status` means for the client.
ApiError FromStatus(const absl::Status& status);

// At most 64 bytes of client text, cut at a character, control characters replaced.
std::string Shortened(absl::string_view text);

// The JSON body.
std::string ErrorJson(const ApiError& error);

}  // namespace moe::gateway

#endif  // MOE_GATEWAY_OPENAI_API_ERROR_H_
