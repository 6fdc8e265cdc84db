// Which requests are let in, decided from method, path and headers alone. Pure.
//
// Everything but /health and /ready needs the API key when there is one; /metrics may be opened
// too. Paths compare byte for byte with what the client sent, undecoded and unnormalised, so there
// is one spelling for each route and no way around the check.
//
// Tested by tests/gateway/http/admission_test.cc.
#ifndef MOE_GATEWAY_HTTP_ADMISSION_H_
#define MOE_GATEWAY_HTTP_ADMISSION_H_

#include <string>

#include "absl/strings/string_view.h"

namespace moe::gateway {

enum class Route {
  kNone,  // unknown
  kCompletions,
  kChatCompletions,
  kModels,
  kModel,  // /v1/models/NAME
  kHealth,
  kReady,
  kMetrics,
  kStatus,
  kVersion,
};

struct AdmissionRules {
  std::string api_key;        // empty: none needed
  bool open_metrics = false;  // /metrics without the key
};

// The parts of a request that matter here.
struct AdmissionRequest {
  absl::string_view method;
  absl::string_view target;
  absl::string_view authorization;
  absl::string_view content_type;
  absl::string_view content_encoding;
};

struct Admission {
  Route route = Route::kNone;
  int status = 200;  // else the request is refused with it
  std::string message;
  const char* allow = "";  // for 405 and OPTIONS
};

Admission Admit(const AdmissionRequest& request, const AdmissionRules& rules);

// The name of a route in metrics.
const char* RouteName(Route route);
// The route of a target, whatever its method.
Route RouteOf(absl::string_view target);
// What follows /v1/models/ in a target.
absl::string_view ModelOf(absl::string_view target);

// Compares in a time that does not depend on where they differ.
bool SameSecret(absl::string_view given, absl::string_view expected);

// The request id to send back: the client's if it is 1 to 128 visible ASCII characters, else
// `fallback`.
std::string EchoedRequestId(absl::string_view given, absl::string_view fallback);

}  // namespace moe::gateway

#endif  // MOE_GATEWAY_HTTP_ADMISSION_H_
