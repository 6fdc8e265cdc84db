// Tests gateway/http/admission.h.
#include "gateway/http/admission.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace moe::gateway {
namespace {

TEST(AdmissionTest, DecidesFromMethodPathAndHeaders) {
  const AdmissionRules with_key{.api_key = "secret", .open_metrics = false};
  struct Case {
    const char* sentence;
    AdmissionRequest request;
    int status;
  };
  const auto make = [](const char* method, const char* target, const char* authorization = "",
                       const char* type = "application/json", const char* encoding = "") {
    AdmissionRequest request;
    request.method = method;
    request.target = target;
    request.authorization = authorization;
    request.content_type = type;
    request.content_encoding = encoding;
    return request;
  };
  const char* key = "Bearer secret";
  const std::vector<Case> cases = {
      {"health needs no key", make("GET", "/health"), 200},
      {"readiness needs no key", make("GET", "/ready"), 200},
      {"no key", make("GET", "/v1/models"), 401},
      {"a wrong key", make("GET", "/v1/models", "Bearer secreT"), 401},
      {"a key that begins right", make("GET", "/v1/models", "Bearer secretsecret"), 401},
      {"an empty key", make("GET", "/v1/models", "Bearer "), 401},
      {"another scheme", make("GET", "/v1/models", "Basic secret"), 401},
      {"the key", make("GET", "/v1/models", key), 200},
      {"the scheme in lower case", make("GET", "/v1/models", "bearer secret"), 200},
      {"metrics need the key", make("GET", "/metrics"), 401},
      {"status needs the key", make("GET", "/moe/status"), 401},
      {"an unknown path without the key does not say that it is unknown", make("GET", "/x"), 401},
      {"an unknown path", make("GET", "/x", key), 404},
      {"two slashes", make("POST", "//v1/completions", key), 404},
      {"two slashes without a key", make("POST", "//v1/completions"), 401},
      {"dots", make("POST", "/v1/../v1/completions", key), 404},
      {"dots to an open path", make("GET", "/health/../v1/models"), 401},
      {"an encoded slash", make("POST", "/v1%2fcompletions", key), 404},
      {"an open path with a query", make("GET", "/health?x=/v1/models"), 200},
      {"an absolute target", make("GET", "http://a/health"), 401},
      {"GET where POST is meant", make("GET", "/v1/completions", key), 405},
      {"POST where GET is meant", make("POST", "/health", key), 405},
      {"DELETE", make("DELETE", "/v1/models", key), 405},
      {"HEAD", make("HEAD", "/health"), 200},
      {"OPTIONS", make("OPTIONS", "/v1/completions", key), 204},
      {"a compressed body", make("POST", "/v1/completions", key, "application/json", "gzip"), 415},
      {"multipart", make("POST", "/v1/completions", key, "multipart/form-data; boundary=x"), 415},
      {"a form", make("POST", "/v1/completions", key, "application/x-www-form-urlencoded"), 415},
      {"JSON with a charset",
       make("POST", "/v1/chat/completions", key, "Application/JSON; charset=utf-8"), 200},
      {"no content type", make("POST", "/v1/chat/completions", key, ""), 200},
      {"a model", make("GET", "/v1/models/a/b", key), 200},
      {"no model's name", make("GET", "/v1/models/", key), 404},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.sentence);
    const Admission admission = Admit(c.request, with_key);
    EXPECT_EQ(admission.status, c.status);
    EXPECT_EQ(admission.message.empty(), c.status < 400);
  }
}

TEST(AdmissionTest, MetricsCanBeOpenedAndWithoutAKeyEverythingIs) {
  AdmissionRequest request;
  request.method = "GET";
  request.target = "/metrics";
  EXPECT_EQ(Admit(request, {.api_key = "k", .open_metrics = true}).status, 200);
  request.target = "/moe/status";
  EXPECT_EQ(Admit(request, {.api_key = "k", .open_metrics = true}).status, 401);
  EXPECT_EQ(Admit(request, {.api_key = "", .open_metrics = false}).status, 200);
}

TEST(AdmissionTest, RoutesInMetricsComeFromAFixedSet) {
  EXPECT_STREQ(RouteName(RouteOf("/v1/models/any-name")), "/v1/models");
  EXPECT_STREQ(RouteName(RouteOf("/whatever")), "other");
  EXPECT_STREQ(RouteName(RouteOf("")), "other");
}

TEST(AdmissionTest, RequestIdsAreEchoedWhenTheyAreHarmless) {
  EXPECT_EQ(EchoedRequestId("req-1%0D%0A", "mine"), "req-1%0D%0A");
  EXPECT_EQ(EchoedRequestId("", "mine"), "mine");
  EXPECT_EQ(EchoedRequestId(std::string(129, 'a'), "mine"), "mine");
  EXPECT_EQ(EchoedRequestId("a b", "mine"), "mine");
  EXPECT_EQ(EchoedRequestId("a\r\nb", "mine"), "mine");
  EXPECT_EQ(EchoedRequestId("\xc3\xa9", "mine"), "mine");
}

}  // namespace
}  // namespace moe::gateway
