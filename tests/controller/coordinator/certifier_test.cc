#include "controller/coordinator/certifier.h"

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "identity/key_pair.h"

namespace moe::coordinator {
namespace {

using ::testing::HasSubstr;

// Knows one token; may be held up.
class FakeAuthenticator : public Authenticator {
 public:
  absl::StatusOr<PodIdentity> Review(std::string_view token) override {
    absl::MutexLock lock(&mu_);
    ++num_reviews_;
    mu_.Await(absl::Condition(&open_));
    if (token == "apiserver-down") return absl::UnavailableError("no answer");
    if (token == "stranger") return absl::PermissionDeniedError("not a pod of a MoEDeployment");
    if (token == "odd") {
      return PodIdentity{.ns = "ns", .deployment = "a/b", .pod_uid = "uid-1", .pod_ip = "10.0.0.1"};
    }
    if (token != "good") return absl::UnauthenticatedError("the token is not valid");
    return PodIdentity{.ns = "ns",
                       .deployment = "a",
                       .role = identity::Role::kGateway,
                       .pod_uid = "uid-1",
                       .pod_ip = "10.0.0.1"};
  }
  void SetOpen(bool open) {
    absl::MutexLock lock(&mu_);
    open_ = open;
  }
  int num_reviews() {
    absl::MutexLock lock(&mu_);
    return num_reviews_;
  }
  void WaitForReviews(int count) {
    absl::MutexLock lock(&mu_);
    const auto enough = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return num_reviews_ >= count; };
    mu_.Await(absl::Condition(&enough));
  }

 private:
  absl::Mutex mu_;
  bool open_ ABSL_GUARDED_BY(mu_) = true;
  int num_reviews_ ABSL_GUARDED_BY(mu_) = 0;
};

class CertifierTest : public ::testing::Test {
 protected:
  void Make(CertifierOptions options = {}) {
    options.now = [this] { return absl::FromUnixSeconds(seconds_.load()); };
    certifier_ = std::make_unique<Certifier>(options, &authenticator_, authority_);
  }
  v1::CertifyRequest Request(const std::string& token) const {
    v1::CertifyRequest request;
    request.set_token(token);
    request.set_signing_request(*key_.SigningRequest());
    return request;
  }
  absl::StatusOr<v1::CertifyReply> Certify(const v1::CertifyRequest& request) {
    absl::StatusOr<v1::CertifyReply> answer;
    absl::Notification done;
    certifier_->Certify(request, [&](absl::StatusOr<v1::CertifyReply> a) {
      answer = std::move(a);
      done.Notify();
    });
    done.WaitForNotification();
    return answer;
  }

  std::atomic<int64_t> seconds_ = 1'700'000'000;
  const identity::KeyPair key_ = *identity::KeyPair::Generate();
  FakeAuthenticator authenticator_;
  const std::shared_ptr<const identity::CertificateAuthority> authority_ =
      *identity::CertificateAuthority::Create("test", absl::FromUnixSeconds(seconds_));
  std::unique_ptr<Certifier> certifier_;
};

TEST_F(CertifierTest, AGoodTokenBuysACertificateForADay) {
  Make();
  const auto reply = Certify(Request("good"));
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_THAT(reply->certificate_chain_pem(), HasSubstr("BEGIN CERTIFICATE"));
  EXPECT_EQ(reply->ca_bundle_pem(), authority_->certificate_pem());
  EXPECT_EQ(reply->valid_seconds(), 24 * 3600);
}

TEST_F(CertifierTest, RefusalsSayWhyAndCostNoReviewWhereNoneIsNeeded) {
  Make();
  v1::CertifyRequest garbage = Request("good");
  garbage.set_signing_request("garbage");
  v1::CertifyRequest huge = Request("good");
  huge.set_signing_request(std::string(1 << 20, 'x'));
  struct Case {
    const char* what;
    v1::CertifyRequest request;
    absl::StatusCode code;
    int num_reviews;
  };
  const std::vector<Case> cases = {
      {"no token", Request(""), absl::StatusCode::kInvalidArgument, 0},
      {"a token of a megabyte", Request(std::string(1 << 20, 't')),
       absl::StatusCode::kInvalidArgument, 0},
      {"garbage for a signing request", garbage, absl::StatusCode::kInvalidArgument, 0},
      {"a signing request of a megabyte", huge, absl::StatusCode::kInvalidArgument, 0},
      {"a bad token", Request("bad"), absl::StatusCode::kUnauthenticated, 1},
      {"a token of a pod that is not ours", Request("stranger"),
       absl::StatusCode::kPermissionDenied, 1},
      {"an API server that does not answer", Request("apiserver-down"),
       absl::StatusCode::kUnavailable, 1},
      {"a deployment whose name would forge another", Request("odd"), absl::StatusCode::kInternal,
       1}};
  for (const Case& c : cases) {
    const int before = authenticator_.num_reviews();
    EXPECT_EQ(Certify(c.request).status().code(), c.code) << c.what;
    EXPECT_EQ(authenticator_.num_reviews() - before, c.num_reviews) << c.what;
  }
}

TEST_F(CertifierTest, TheRateIsBounded) {
  Make({.rate = 2, .burst = 3});
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(Certify(Request("good")).ok()) << i;
  EXPECT_EQ(Certify(Request("good")).status().code(), absl::StatusCode::kResourceExhausted);
  seconds_ += 1;
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(Certify(Request("good")).ok()) << i;
  EXPECT_EQ(Certify(Request("good")).status().code(), absl::StatusCode::kResourceExhausted);
  // A clock that was set back neither fills nor empties the bucket.
  seconds_ -= 1000;
  EXPECT_EQ(Certify(Request("good")).status().code(), absl::StatusCode::kResourceExhausted);
  seconds_ += 1000;
  EXPECT_TRUE(Certify(Request("good")).ok());
}

TEST_F(CertifierTest, NoMoreThanSoManyWaitAndTheEndAnswersThem) {
  Make({.num_threads = 1, .max_waiting = 2});
  authenticator_.SetOpen(false);
  absl::Mutex mu;
  std::map<absl::StatusCode, int> answers;
  const auto send = [&] {
    certifier_->Certify(Request("good"), [&](const absl::StatusOr<v1::CertifyReply>& answer) {
      absl::MutexLock lock(&mu);
      ++answers[answer.status().code()];
    });
  };
  send();
  authenticator_.WaitForReviews(1);  // the thread has taken it
  for (int i = 0; i < 5; ++i) send();
  {
    absl::MutexLock lock(&mu);
    EXPECT_EQ(answers[absl::StatusCode::kResourceExhausted], 3);
  }
  std::thread end([this] { certifier_.reset(); });
  {
    absl::MutexLock lock(&mu);
    const auto answered = [&] { return answers[absl::StatusCode::kUnavailable] == 2; };
    mu.Await(absl::Condition(&answered));
  }
  authenticator_.SetOpen(true);
  end.join();
  absl::MutexLock lock(&mu);
  EXPECT_EQ(answers[absl::StatusCode::kOk], 1);
}

}  // namespace
}  // namespace moe::coordinator
