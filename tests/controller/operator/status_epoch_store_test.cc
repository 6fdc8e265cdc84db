#include "controller/operator/status_epoch_store.h"

#include <string>
#include <utility>

#include "controller/kube/resource_types.h"
#include "gtest/gtest.h"
#include "tests/controller/kube/fake_api.h"

namespace moe::controller {
namespace {

using kube::Json;

class StatusEpochStoreTest : public ::testing::Test {
 protected:
  StatusEpochStoreTest() {
    const Json object = objects_.Put(kube::kMoeDeployments, Json::parse(R"({
      "metadata": {"namespace": "models", "name": "olmoe"},
      "spec": {"replicas": 2},
      "status": {"term": 3, "later": "kept",
                 "groups": [{"index": 0, "epoch": 8}, {"index": 1, "epoch": 5}]}})"));
    uid_ = object["metadata"]["uid"];
  }

  StatusEpochStore Store(uint64_t term = 3, uint64_t last_epoch = 5) {
    return StatusEpochStore(&api_, {.deployment = key_,
                                    .uid = uid_,
                                    .group = 1,
                                    .term = term,
                                    .last_epoch = last_epoch,
                                    .on_written = [this](Json object) { written_ = object; },
                                    .max_attempts = 4,
                                    .retry_delay = absl::ZeroDuration()});
  }
  Json Status() { return (*objects_.Find(kube::kMoeDeployments, key_))["status"]; }
  void FailBefore(const std::string& verb, int times, absl::Status status) {
    api_.SetBefore([=, left = times](const std::string& v, const kube::ResourceType&) mutable {
      return v == verb && left-- > 0 ? status : absl::OkStatus();
    });
  }

  const kube::ObjectKey key_{"models", "olmoe"};
  std::string uid_;
  kube::testing::FakeObjects objects_;
  kube::testing::FakeApi api_{objects_};
  Json written_;
};

TEST_F(StatusEpochStoreTest, ClaimsAnEpochOfItsGroupAndTouchesNothingElse) {
  StatusEpochStore store = Store();
  EXPECT_EQ(store.term(), 3u);
  EXPECT_EQ(store.last_epoch(), 5u);
  EXPECT_EQ(store.Claim(6), absl::OkStatus());
  EXPECT_EQ(store.last_epoch(), 6u);
  EXPECT_EQ(Status(), Json::parse(R"({"term": 3, "later": "kept",
      "groups": [{"index": 0, "epoch": 8}, {"index": 1, "epoch": 6}]})"));
  EXPECT_EQ(written_["status"], Status());
}

TEST_F(StatusEpochStoreTest, NeverClaimsANumberTwice) {
  StatusEpochStore store = Store();
  EXPECT_EQ(store.Claim(5).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(store.Claim(6), absl::OkStatus());
  EXPECT_EQ(store.Claim(6).code(), absl::StatusCode::kInvalidArgument);
  // Somebody else's claim of the same term: two groups' numbers were mixed up, say.
  StatusEpochStore second = Store();
  EXPECT_EQ(second.Claim(6).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(second.Claim(7), absl::OkStatus());
}

TEST_F(StatusEpochStoreTest, IsRefusedOnceAnotherControllerHasItsTerm) {
  StatusEpochStore store = Store();
  objects_.Edit(kube::kMoeDeployments, key_, [](Json& object) { object["status"]["term"] = 4; });
  EXPECT_EQ(store.Claim(6).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Status()["groups"][1]["epoch"], 5);
}

TEST_F(StatusEpochStoreTest, IsRefusedWhenItsDeploymentOrGroupIsGone) {
  objects_.Edit(kube::kMoeDeployments, key_, [](Json& object) {
    object["status"]["groups"] = Json::array({Json{{"index", 0}}});
  });
  EXPECT_EQ(Store().Claim(6).code(), absl::StatusCode::kFailedPrecondition);
  objects_.Finish(kube::kMoeDeployments, key_);
  EXPECT_EQ(Store().Claim(6).code(), absl::StatusCode::kFailedPrecondition);
  // Another one of the same name.
  objects_.Put(kube::kMoeDeployments, Json::parse(R"({
      "metadata": {"namespace": "models", "name": "olmoe", "uid": "another"},
      "status": {"term": 3, "groups": [{"index": 1}]}})"));
  EXPECT_EQ(Store().Claim(6).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(StatusEpochStoreTest, LooksAgainAfterAConflict) {
  // Between the read and the write, a status is written by another thread of this controller.
  int left = 2;
  api_.SetBefore([&](const std::string& verb, const kube::ResourceType&) {
    if (verb == "update" && left-- > 0) {
      objects_.Edit(kube::kMoeDeployments, key_,
                    [&](Json& object) { object["status"]["round"] = left; });
    }
    return absl::OkStatus();
  });
  EXPECT_EQ(Store().Claim(6), absl::OkStatus());
  EXPECT_EQ(Status()["groups"][1]["epoch"], 6);
  EXPECT_EQ(Status()["round"], 0);
}

TEST_F(StatusEpochStoreTest, AConflictWithANewLeaderEndsIt) {
  bool taken_over = false;
  api_.SetBefore([&](const std::string& verb, const kube::ResourceType&) {
    if (verb == "update" && !std::exchange(taken_over, true)) {
      objects_.Edit(kube::kMoeDeployments, key_, [](Json& object) {
        object["status"]["term"] = 4;
        object["status"]["groups"][1]["epoch"] = 6;
      });
    }
    return absl::OkStatus();
  });
  EXPECT_EQ(Store().Claim(6).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Status()["term"], 4);
}

TEST_F(StatusEpochStoreTest, ALostAnswerOfItsOwnWriteIsAClaim) {
  int left = 1;
  api_.SetAfter([&](const std::string& verb, const kube::ResourceType&) {
    return verb == "update" && left-- > 0 ? absl::UnavailableError("connection lost")
                                          : absl::OkStatus();
  });
  EXPECT_EQ(Store().Claim(6), absl::OkStatus());
  EXPECT_EQ(Status()["groups"][1]["epoch"], 6);
}

TEST_F(StatusEpochStoreTest, GivesUpInAnOutageAndGoesOnWithAHigherNumber) {
  FailBefore("get", 100, absl::UnavailableError("down"));
  StatusEpochStore store = Store();
  EXPECT_EQ(store.Claim(6).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(store.last_epoch(), 6u);
  api_.SetBefore(nullptr);
  EXPECT_EQ(store.Claim(7), absl::OkStatus());
}

TEST_F(StatusEpochStoreTest, OtherErrorsAreNotTriedAgain) {
  int num_gets = 0;
  api_.SetBefore([&](const std::string& verb, const kube::ResourceType&) -> absl::Status {
    if (verb != "get") return absl::OkStatus();
    ++num_gets;
    return absl::PermissionDeniedError("no");
  });
  EXPECT_EQ(Store().Claim(6).code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(num_gets, 1);
}

}  // namespace
}  // namespace moe::controller
