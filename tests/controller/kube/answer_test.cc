#include "controller/kube/answer.h"

#include <string>
#include <vector>

#include "controller/kube/resource_types.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::kube {
namespace {

using ::testing::HasSubstr;

std::string StatusBody(const std::string& message) {
  return Json({{"kind", "Status"}, {"message", message}}).dump();
}

TEST(AnswerTest, EveryCodeHasItsStatus) {
  struct Case {
    const char* sentence;
    int code;
    std::string message;
    bool is_create;
    absl::StatusCode expected;
  };
  const std::vector<Case> cases = {
      {"no such object", 404, "pods \"a\" not found", false, absl::StatusCode::kNotFound},
      {"a create of what exists", 409, "already exists", true, absl::StatusCode::kAlreadyExists},
      {"an update of what has changed", 409, "modified", false, absl::StatusCode::kAborted},
      {"no valid token", 401, "Unauthorized", false, absl::StatusCode::kPermissionDenied},
      {"no right", 403, "pods is forbidden", true, absl::StatusCode::kPermissionDenied},
      {"a quota that is used up", 403, "pods \"a\" is forbidden: exceeded quota: gpus", true,
       absl::StatusCode::kResourceExhausted},
      {"a field that is wrong", 422, "spec.a: Invalid value", true,
       absl::StatusCode::kInvalidArgument},
      {"a body that is wrong", 400, "json: cannot unmarshal", true,
       absl::StatusCode::kInvalidArgument},
      {"a body that is too large", 413, "too large", true, absl::StatusCode::kInvalidArgument},
      {"a version that is too old", 410, "too old resource version", false,
       absl::StatusCode::kOutOfRange},
      {"too many requests", 429, "slow down", false, absl::StatusCode::kUnavailable},
      {"an error of the server", 500, "etcdserver: no leader", false,
       absl::StatusCode::kUnavailable},
      {"a server that is starting", 503, "apiserver not ready", true,
       absl::StatusCode::kUnavailable},
      {"a server that is slow", 504, "timeout", true, absl::StatusCode::kUnavailable},
      {"a redirect", 302, "", false, absl::StatusCode::kUnavailable},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.sentence);
    const absl::Status status =
        ErrorOf(c.code, StatusBody(c.message), "get pods default/a", c.is_create);
    EXPECT_EQ(status.code(), c.expected);
    EXPECT_THAT(std::string(status.message()), HasSubstr("get pods default/a: "));
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.message));
  }
}

TEST(AnswerTest, AnErrorWithoutAStatusObjectSaysItsCode) {
  const absl::Status status = ErrorOf(502, "<html>Bad Gateway</html>", "get pods a/b", false);
  EXPECT_EQ(status.message(), "get pods a/b: HTTP status 502");
}

TEST(AnswerTest, AnEndlessMessageIsCut) {
  const absl::Status status = ErrorOf(422, StatusBody(std::string(1 << 20, 'x')), "w", true);
  EXPECT_LT(status.message().size(), 3000);
}

TEST(AnswerTest, RetryAfterIsCarriedAndBounded) {
  EXPECT_EQ(RetryAfter(ErrorOf(429, "", "w", false, absl::Seconds(7))), absl::Seconds(7));
  EXPECT_EQ(RetryAfter(ErrorOf(429, "", "w", false)), std::nullopt);
  EXPECT_EQ(ParseRetryAfter("3"), absl::Seconds(3));
  EXPECT_EQ(ParseRetryAfter("99999999"), absl::Minutes(1));
  EXPECT_EQ(ParseRetryAfter("-1"), std::nullopt);
  EXPECT_EQ(ParseRetryAfter("Wed, 21 Oct 2026 07:28:00 GMT"), std::nullopt);
}

TEST(AnswerTest, ANamespaceThatIsBeingDeletedIsTold) {
  const Json body = {{"message", "is being terminated"},
                     {"details", {{"causes", {{{"reason", "NamespaceTerminating"}}}}}}};
  EXPECT_TRUE(IsNamespaceTerminating(ErrorOf(403, body.dump(), "w", true)));
  EXPECT_FALSE(IsNamespaceTerminating(ErrorOf(403, StatusBody("forbidden"), "w", true)));
}

TEST(AnswerTest, OnlyObjectsOfBoundedDepthAreParsed) {
  const auto nested = [](int depth) {
    std::string text;
    for (int i = 0; i < depth; ++i) text += "{\"a\":";
    text += "1";
    text.append(static_cast<size_t>(depth), '}');
    return text;
  };
  EXPECT_TRUE(ParseObject(nested(kMaxJsonDepth)).ok());
  EXPECT_EQ(ParseObject(nested(kMaxJsonDepth + 1)).status().code(), absl::StatusCode::kInternal);
  EXPECT_FALSE(ParseObject(std::string(100000, '[')).ok());
  EXPECT_FALSE(ParseObject("[1]").ok());
  EXPECT_FALSE(ParseObject("{\"a\":").ok());
  EXPECT_FALSE(ParseObject("{} {}").ok());
  EXPECT_FALSE(ParseObject("").ok());
}

TEST(AnswerTest, MembersOfAnotherTypeReadAsEmpty) {
  const Json object = {{"metadata", {{"name", 3}, {"labels", {{"a", 1}, {"b", "c"}}}}}};
  EXPECT_EQ(MetadataString(object, "name"), "");
  EXPECT_EQ(MetadataString(Json::object(), "name"), "");
  EXPECT_EQ(MetadataString({{"metadata", "x"}}, "name"), "");
  EXPECT_EQ(LabelOf(object, "a"), "");
  EXPECT_EQ(LabelOf(object, "b"), "c");
  EXPECT_EQ(Describe(kPods, {.ns = "n", .name = "p"}), "pods n/p");
  EXPECT_EQ(Describe(kNodes, {.ns = "", .name = "n0"}), "nodes n0");
  EXPECT_EQ(Describe(kPods, {.ns = "n", .name = ""}), "pods n");
  EXPECT_EQ(Describe(kPods, {.ns = "", .name = ""}), "pods");
}

}  // namespace
}  // namespace moe::kube
