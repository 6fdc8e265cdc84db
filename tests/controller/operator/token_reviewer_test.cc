#include "controller/operator/token_reviewer.h"

#include <memory>
#include <string>

#include "controller/kube/answer.h"
#include "controller/kube/client.h"
#include "controller/kube/resource_types.h"
#include "gtest/gtest.h"
#include "tests/controller/kube/fake_api_server.h"

namespace moe::controller {
namespace {

using kube::Json;

class TokenReviewerTest : public ::testing::Test {
 protected:
  TokenReviewerTest() {
    kube::ClientOptions options;
    options.server = server_.url();
    auto client = kube::Client::Create(options);
    EXPECT_TRUE(client.ok());
    client_ = *std::move(client);
    const Json deployment = objects().Put(kube::kMoeDeployments, Json::parse(R"({
        "metadata": {"namespace": "models", "name": "olmoe", "uid": "d1"}})"));
    objects().Put(kube::kPods, Pod("olmoe-g0-s0-0", "w1", "worker"));
    objects().Put(kube::kPods, Pod("olmoe-gateway-abc", "g1", "gateway"));
    server_.SetTokenReviewer([this](const Json& spec) {
      last_spec_ = spec;
      return review_;
    });
    review_ = Review("olmoe-worker", "olmoe-g0-s0-0", "w1");
  }

  static Json Pod(const std::string& name, const std::string& uid, const std::string& component) {
    Json pod = Json::parse(R"({"metadata": {"namespace": "models"},
                               "status": {"podIP": "10.0.0.7"}})");
    pod["metadata"]["name"] = name;
    pod["metadata"]["uid"] = uid;
    pod["metadata"]["labels"] = {{"app.kubernetes.io/managed-by", "moe-operator"},
                                 {"app.kubernetes.io/component", component},
                                 {"moe-operator.dev/deployment", "olmoe"}};
    pod["metadata"]["ownerReferences"] =
        Json::array({Json{{"uid", component == "worker" ? "d1" : "rs"}, {"controller", true}}});
    pod["spec"]["serviceAccountName"] = "olmoe-" + component;
    return pod;
  }
  static Json Review(const std::string& account, const std::string& pod, const std::string& uid) {
    return Json{{"authenticated", true},
                {"audiences", Json::array({"moe-coordinator"})},
                {"user",
                 {{"username", "system:serviceaccount:models:" + account},
                  {"extra",
                   {{"authentication.kubernetes.io/pod-name", Json::array({pod})},
                    {"authentication.kubernetes.io/pod-uid", Json::array({uid})}}}}}};
  }
  absl::StatusOr<coordinator::PodIdentity> Ask() {
    TokenReviewer reviewer(client_.get(),
                           {.pod = [this](const kube::ObjectKey&) { return cached_; },
                            .deployment =
                                [this](const kube::ObjectKey& key) {
                                  auto found = objects().Find(kube::kMoeDeployments, key);
                                  return found.has_value() ? std::make_shared<const Json>(*found)
                                                           : nullptr;
                                }});
    return reviewer.Review("the token");
  }
  kube::testing::FakeObjects& objects() { return server_.objects(); }
  void EditPod(const std::string& name, const std::function<void(Json&)>& change) {
    ASSERT_TRUE(objects().Edit(kube::kPods, {"models", name}, change));
  }

  kube::testing::FakeApiServer server_;
  std::unique_ptr<kube::Client> client_;
  std::shared_ptr<const Json> cached_;
  Json review_;
  Json last_spec_;
};

TEST_F(TokenReviewerTest, AWorkersTokenIsItsPod) {
  const auto identity = Ask();
  ASSERT_TRUE(identity.ok()) << identity.status();
  EXPECT_EQ(identity->ns, "models");
  EXPECT_EQ(identity->deployment, "olmoe");
  EXPECT_EQ(identity->role, identity::Role::kWorker);
  EXPECT_EQ(identity->pod_uid, "w1");
  EXPECT_EQ(identity->pod_ip, "10.0.0.7");
  EXPECT_EQ(last_spec_, Json::parse(R"({"token": "the token", "audiences": ["moe-coordinator"]})"));
}

TEST_F(TokenReviewerTest, AGatewaysTokenIsItsPod) {
  review_ = Review("olmoe-gateway", "olmoe-gateway-abc", "g1");
  const auto identity = Ask();
  ASSERT_TRUE(identity.ok()) << identity.status();
  EXPECT_EQ(identity->role, identity::Role::kGateway);
}

TEST_F(TokenReviewerTest, ACachedPodIsNotAskedFor) {
  cached_ = std::make_shared<const Json>(Pod("olmoe-g0-s0-0", "w1", "worker"));
  ASSERT_TRUE(Ask().ok());
  EXPECT_EQ(server_.CountRequests("get", "pods"), 0);
  // One of the same name, from before.
  cached_ = std::make_shared<const Json>(Pod("olmoe-g0-s0-0", "w0", "worker"));
  const auto identity = Ask();
  ASSERT_TRUE(identity.ok());
  EXPECT_EQ(identity->pod_uid, "w1");
}

TEST_F(TokenReviewerTest, InvalidTokensAreUnauthenticated) {
  for (const char* review :
       {R"({"authenticated": false})", R"({})",
        R"({"authenticated": true, "audiences": ["another"]})", R"({"authenticated": true})"}) {
    review_ = Json::parse(review);
    EXPECT_EQ(Ask().status().code(), absl::StatusCode::kUnauthenticated) << review;
  }
}

TEST_F(TokenReviewerTest, TokensOfOthersAreDenied) {
  const auto expect_denied = [this](const char* what) {
    EXPECT_EQ(Ask().status().code(), absl::StatusCode::kPermissionDenied) << what;
  };
  review_ = Review("olmoe-worker", "olmoe-g0-s0-0", "another uid");
  expect_denied("of an earlier pod of the same name");
  review_ = Review("olmoe-worker", "nobody", "w1");
  expect_denied("of a pod that is gone");
  review_ = Review("olmoe-worker", "olmoe-g0-s0-0", "w1");
  review_["user"]["extra"] = Json::object();
  expect_denied("that is bound to no pod");
  review_ = Review("olmoe-worker", "olmoe-g0-s0-0", "w1");
  review_["user"]["username"] = "somebody";
  expect_denied("of a person");

  review_ = Review("olmoe-worker", "olmoe-g0-s0-0", "w1");
  EditPod("olmoe-g0-s0-0", [](Json& pod) { pod["metadata"].erase("ownerReferences"); });
  expect_denied("of a pod that only says it is a worker");
  review_ = Review("default", "olmoe-gateway-abc", "g1");
  expect_denied("of a pod that only says it is a gateway");
  review_ = Review("olmoe-gateway", "olmoe-gateway-abc", "g1");
  EditPod("olmoe-gateway-abc",
          [](Json& pod) { pod["metadata"]["labels"]["moe-operator.dev/deployment"] = "another"; });
  expect_denied("of a gateway of another deployment");
}

TEST_F(TokenReviewerTest, WhatCantBeToldNowIsUnavailable) {
  server_.Inject({.verb = "create", .plural = "tokenreviews", .code = 500});
  EXPECT_EQ(Ask().status().code(), absl::StatusCode::kUnavailable);
  server_.Inject({.verb = "get", .plural = "pods", .code = 500});
  EXPECT_EQ(Ask().status().code(), absl::StatusCode::kUnavailable);
  EditPod("olmoe-g0-s0-0", [](Json& pod) { pod["status"].erase("podIP"); });
  EXPECT_EQ(Ask().status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(TokenReviewerTest, TheTokenIsInNoMessage) {
  review_ = Json::parse(R"({"authenticated": false, "error": "the token has expired"})");
  EXPECT_EQ(Ask().status().ToString().find("the token has expired"), std::string::npos);
}

}  // namespace
}  // namespace moe::controller
