// The client against an API server in this process, with everything that can go wrong between them.
#include "controller/kube/client.h"

#include <atomic>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "controller/kube/answer.h"
#include "controller/kube/resource_types.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/controller/kube/fake_api_server.h"

namespace moe::kube {
namespace {

using testing::FakeApiServer;
using testing::Fault;
using ::testing::HasSubstr;
using ::testing::Not;

const ObjectKey kKey{.ns = "n", .name = "a"};

Json Object(const ResourceType& type, const std::string& name) {
  return {{"apiVersion", type.ApiVersion()},
          {"kind", type.kind},
          {"metadata", {{"namespace", "n"}, {"name", name}}},
          {"spec", {{"x", 1}}}};
}

class ClientTest : public ::testing::Test {
 protected:
  ClientTest() { options_.server = server_.url(); }

  Client& client() {
    if (client_ == nullptr) {
      absl::StatusOr<std::unique_ptr<Client>> made = Client::Create(options_);
      EXPECT_TRUE(made.ok()) << made.status();
      client_ = *std::move(made);
    }
    return *client_;
  }
  absl::StatusCode GetCode() { return client().Get(kPods, kKey).status().code(); }

  FakeApiServer server_;
  ClientOptions options_;
  std::unique_ptr<Client> client_;
};

TEST_F(ClientTest, AnObjectLivesFromCreateToDelete) {
  const absl::StatusOr<Json> made =
      client().Create(kMoeDeployments, "n", Object(kMoeDeployments, "a"));
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(client().Create(kMoeDeployments, "n", Object(kMoeDeployments, "a")).status().code(),
            absl::StatusCode::kAlreadyExists);

  Json object = *client().Get(kMoeDeployments, kKey);
  object["spec"]["x"] = 2;
  ASSERT_TRUE(client().Update(kMoeDeployments, object).ok());
  EXPECT_EQ(client().Update(kMoeDeployments, object).status().code(), absl::StatusCode::kAborted);

  object = *client().Get(kMoeDeployments, kKey);
  object["status"] = {{"term", 7}};
  ASSERT_TRUE(client().UpdateStatus(kMoeDeployments, object).ok());
  // Fencing: whoever acts on the older version is refused.
  object["status"]["term"] = 3;
  EXPECT_EQ(client().UpdateStatus(kMoeDeployments, object).status().code(),
            absl::StatusCode::kAborted);

  ASSERT_TRUE(client()
                  .MergePatch(kMoeDeployments, kKey,
                              {{"metadata", {{"annotations", {{"paused", "true"}}}}}})
                  .ok());
  object = *client().Get(kMoeDeployments, kKey);
  EXPECT_EQ(object["metadata"]["annotations"]["paused"], "true");
  EXPECT_EQ(object["status"]["term"], 7);

  EXPECT_EQ(client().Delete(kMoeDeployments, kKey, {.uid = "another"}).code(),
            absl::StatusCode::kAborted);
  EXPECT_TRUE(client().Delete(kMoeDeployments, kKey, {.uid = MetadataString(object, "uid")}).ok());
  EXPECT_EQ(client().Delete(kMoeDeployments, kKey, {}).code(), absl::StatusCode::kNotFound);
}

TEST_F(ClientTest, ADeleteCarriesItsGraceAndPropagation) {
  Json pod = Object(kPods, "a");
  pod["spec"]["nodeName"] = "node-0";
  server_.objects().Put(kPods, pod);
  ASSERT_TRUE(client().Delete(kPods, kKey, {.grace = absl::Seconds(3), .foreground = true}).ok());
  const Json body = server_.requests().back().body;
  EXPECT_EQ(body["gracePeriodSeconds"], 3);
  EXPECT_EQ(body["propagationPolicy"], "Foreground");
  EXPECT_EQ((*server_.objects().Find(kPods, kKey))["metadata"]["deletionGracePeriodSeconds"], 3);
}

TEST_F(ClientTest, ApplyCreatesAndTakesOverAsOneFieldManager) {
  ASSERT_TRUE(client().Apply(kServices, Object(kServices, "a")).ok());
  Json changed = Object(kServices, "a");
  changed["spec"]["x"] = 5;
  EXPECT_EQ((*client().Apply(kServices, changed))["spec"]["x"], 5);
  EXPECT_THAT(server_.requests().back().target, HasSubstr("force=true&fieldManager=moe-operator"));
}

TEST_F(ClientTest, ADryRunIsCheckedAndNotKept) {
  EXPECT_TRUE(client().Create(kPods, "n", Object(kPods, "a"), /*dry_run=*/true).ok());
  EXPECT_EQ(GetCode(), absl::StatusCode::kNotFound);
}

TEST_F(ClientTest, TokenReviewsAreAskedWithoutAName) {
  server_.SetTokenReviewer([](const Json& spec) {
    return Json({{"authenticated", spec["token"] == "good"}, {"audiences", spec["audiences"]}});
  });
  const Json review = {{"apiVersion", kTokenReviews.ApiVersion()},
                       {"kind", kTokenReviews.kind},
                       {"spec", {{"token", "good"}, {"audiences", {"moe-coordinator"}}}}};
  const absl::StatusOr<Json> answer = client().Create(kTokenReviews, "", review);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ((*answer)["status"]["authenticated"], true);
}

TEST_F(ClientTest, AnEmptyNameIsNeverSent) {
  server_.objects().Put(kPods, Object(kPods, "a"));
  EXPECT_EQ(client().Delete(kPods, {.ns = "n", .name = ""}, {}).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(client().Get(kPods, {.ns = "n", .name = "../services"}).status().code(),
            absl::StatusCode::kInvalidArgument);
  Json object = Object(kPods, "a");
  EXPECT_EQ(client().Update(kPods, object).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(server_.CountRequests("", ""), 0);
}

TEST_F(ClientTest, ErrorsNameTheVerbTheTypeAndTheObjectAndCarryTheServersWords) {
  server_.Inject({.code = 422, .reason = "Invalid", .message = "spec.x: Invalid value: 1"});
  const absl::Status status = client().Create(kPods, "n", Object(kPods, "a")).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "create pods n/a: spec.x: Invalid value: 1");
}

TEST_F(ClientTest, AListIsReadPageByPageAsOneMoment) {
  options_.page_size = 7;
  for (int i = 0; i < 30; ++i) {
    Json pod = Object(kPods, absl::StrCat("p", i));
    pod["metadata"]["labels"] = {{"even", i % 2 == 0 ? "yes" : "no"}};
    server_.objects().Put(kPods, pod);
  }
  const absl::StatusOr<Json> all = client().List(kPods, "", "");
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_EQ((*all)["items"].size(), 30);
  EXPECT_EQ((*all)["items"][0]["kind"], "Pod");
  EXPECT_EQ((*all)["items"][29]["apiVersion"], "v1");
  EXPECT_EQ(MetadataString(*all, "resourceVersion"), absl::StrCat(server_.objects().version()));
  EXPECT_EQ(MetadataString(*all, "continue"), "");
  EXPECT_EQ(server_.CountRequests("list", "pods"), 5);
  EXPECT_EQ((*client().List(kPods, "n", "even=yes"))["items"].size(), 15);
  EXPECT_EQ((*client().List(kPods, "other", ""))["items"].size(), 0);
}

// Fault 60: 410 on page 2.
TEST_F(ClientTest, AListThatExpiresBetweenTwoPagesIsBegunAnew) {
  options_.page_size = 2;
  for (int i = 0; i < 5; ++i) {
    server_.objects().Put(kPods, Object(kPods, absl::StrCat("p", i)));
  }
  const Fault expired = {
      .verb = "list", .skip = 1, .code = 410, .reason = "Expired", .message = "too old"};
  server_.Inject(expired);
  const absl::StatusOr<Json> list = client().List(kPods, "", "");
  ASSERT_TRUE(list.ok()) << list.status();
  EXPECT_EQ((*list)["items"].size(), 5);
  EXPECT_EQ(server_.CountRequests("list", "pods"), 2 + 3);

  Fault always = expired;
  always.skip = 0;
  always.count = 1000;
  server_.Inject(always);
  EXPECT_EQ(client().List(kPods, "", "").status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(server_.CountRequests("list", "pods"), 5 + 4);
}

// Fault 61: 429 with Retry-After.
TEST_F(ClientTest, AServerThatIsBusySaysWhenToComeBack) {
  server_.Inject({.code = 429, .reason = "TooManyRequests", .retry_after_seconds = 9});
  const absl::Status status = client().Get(kPods, kKey).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(RetryAfter(status), absl::Seconds(9));
}

// Fault 61: a rotated token.
TEST_F(ClientTest, ARotatedTokenIsPickedUpByTheRequestThatTheServerRefuses) {
  options_.token_file = ::testing::TempDir() + "/client-token";
  std::ofstream(options_.token_file) << "first-secret";
  server_.SetToken("first-secret");
  server_.objects().Put(kPods, Object(kPods, "a"));
  EXPECT_EQ(GetCode(), absl::StatusCode::kOk);
  server_.SetToken("second-secret");
  const absl::Status refused = client().Get(kPods, kKey).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(std::string(refused.message()), Not(HasSubstr("secret")));
  std::ofstream(options_.token_file) << "second-secret";
  // Also a write: a request that was refused for its token was not done.
  EXPECT_TRUE(client().Create(kServices, "n", Object(kServices, "a")).ok());
  EXPECT_EQ(GetCode(), absl::StatusCode::kOk);
}

// Fault 63: the create succeeded and its answer was lost.
TEST_F(ClientTest, ALostAnswerIsUnavailableAndTheNextTryFindsWhatWasMade) {
  server_.Inject({.verb = "create", .kind = Fault::kReplyLost});
  EXPECT_EQ(client().Create(kPods, "n", Object(kPods, "a")).status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(server_.CountRequests("create", "pods"), 1);  // not tried twice behind our back
  EXPECT_EQ(client().Create(kPods, "n", Object(kPods, "a")).status().code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(server_.objects().All(kPods).size(), 1);
}

TEST_F(ClientTest, ADroppedRequestWasNotDone) {
  server_.Inject({.verb = "create", .kind = Fault::kDropped});
  EXPECT_EQ(client().Create(kPods, "n", Object(kPods, "a")).status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_TRUE(server_.objects().All(kPods).empty());
}

TEST_F(ClientTest, AServerThatNeverAnswersIsGivenUp) {
  options_.request_timeout = absl::Milliseconds(200);
  server_.Inject({.kind = Fault::kNeverAnswer});
  EXPECT_EQ(GetCode(), absl::StatusCode::kUnavailable);
}

TEST_F(ClientTest, NobodyThereIsUnavailable) {
  options_.server = "http://127.0.0.1:1";
  EXPECT_EQ(GetCode(), absl::StatusCode::kUnavailable);
}

TEST_F(ClientTest, AnswersThatAreNoObjectsAreErrorsAndTheNextRequestWorks) {
  struct Case {
    const char* sentence;
    std::string body;
    absl::StatusCode expected;
  };
  options_.max_response_bytes = 300000;
  const std::vector<Case> cases = {
      {"half an object", "{\"metadata\":", absl::StatusCode::kInternal},
      {"nothing", "", absl::StatusCode::kInternal},
      {"an array", "[]", absl::StatusCode::kInternal},
      {"a proxy's page", "<html>", absl::StatusCode::kInternal},
      {"200,000 brackets", std::string(200000, '['), absl::StatusCode::kInternal},
      {"above the limit", "{\"a\":\"" + std::string(300000, 'x') + "\"}",
       absl::StatusCode::kFailedPrecondition},
  };
  server_.objects().Put(kPods, Object(kPods, "a"));
  for (const Case& c : cases) {
    SCOPED_TRACE(c.sentence);
    server_.Inject({.kind = Fault::kBody, .text = c.body});
    EXPECT_EQ(GetCode(), c.expected);
    EXPECT_EQ(GetCode(), absl::StatusCode::kOk);
  }
}

TEST_F(ClientTest, AListWithoutItemsOrWithOddOnesIsAnError) {
  for (const char* body : {"{}", "{\"items\":3}", "{\"items\":[1]}"}) {
    server_.Inject({.verb = "list", .kind = Fault::kBody, .text = body});
    EXPECT_EQ(client().List(kPods, "", "").status().code(), absl::StatusCode::kInternal) << body;
  }
  server_.Inject({.verb = "list", .kind = Fault::kBody, .text = "{\"items\":null}"});
  EXPECT_EQ((*client().List(kPods, "", ""))["items"].size(), 0);
}

TEST_F(ClientTest, AListThatNeverEndsIsGivenUp) {
  options_.max_list_pages = 20;
  server_.Inject({.verb = "list",
                  .kind = Fault::kBody,
                  .count = 1000,
                  .text = "{\"metadata\":{\"continue\":\"x\"},\"items\":[]}"});
  EXPECT_EQ(client().List(kPods, "", "").status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(server_.CountRequests("list", "pods"), 20);
}

TEST_F(ClientTest, AReadGoesOnOverANewConnectionWhenTheServerHasClosedTheOldOne) {
  server_.objects().Put(kPods, Object(kPods, "a"));
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(GetCode(), absl::StatusCode::kOk);
    // Ends the connection behind the answer of the next request, which is an error.
    server_.Inject({.verb = "create", .kind = Fault::kDropped});
    EXPECT_EQ(client().Create(kPods, "n", Object(kPods, "b")).status().code(),
              absl::StatusCode::kUnavailable);
  }
  EXPECT_EQ(GetCode(), absl::StatusCode::kOk);
}

TEST_F(ClientTest, ManyThreadsShareOneClient) {
  client();
  std::vector<std::thread> threads;
  std::atomic<int> failed{0};
  threads.reserve(8);
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 25; ++i) {
        const std::string name = absl::StrCat("p-", t, "-", i);
        if (!client_->Create(kPods, "n", Object(kPods, name)).ok() ||
            !client_->Get(kPods, {.ns = "n", .name = name}).ok()) {
          failed.fetch_add(1);
        }
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(failed.load(), 0);
  EXPECT_EQ(server_.objects().All(kPods).size(), 200);
}

TEST_F(ClientTest, MoreRequestsThanTheRateAllowsAreRefusedHereRatherThanQueuedForEver) {
  options_.qps = 0.001;
  options_.burst = 2;
  server_.objects().Put(kPods, Object(kPods, "a"));
  EXPECT_EQ(GetCode(), absl::StatusCode::kOk);
  EXPECT_EQ(GetCode(), absl::StatusCode::kOk);
  EXPECT_EQ(GetCode(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(server_.CountRequests("", ""), 2);
}

TEST_F(ClientTest, ShutdownEndsARequestInProgressAndRefusesLaterOnes) {
  server_.Inject({.kind = Fault::kNeverAnswer});
  client();
  std::thread thread([this] { EXPECT_EQ(GetCode(), absl::StatusCode::kCancelled); });
  while (server_.CountRequests("get", "pods") == 0) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  client().Shutdown();
  thread.join();
  EXPECT_EQ(GetCode(), absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace moe::kube
