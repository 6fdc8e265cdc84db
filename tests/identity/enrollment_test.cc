// Enrollment against coordinators in this process, over TLS.
#include "identity/enrollment.h"

#include <grpcpp/grpcpp.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "identity/coordinator_route.h"
#include "identity/credentials.h"
#include "proto/coordinator.grpc.pb.h"
#include "tests/identity/test_authority.h"

namespace moe::identity {
namespace {

using coordinator::v1::CertifyReply;
using coordinator::v1::CertifyRequest;
using coordinator::v1::Coordinator;
using ::testing::Each;
using ::testing::ElementsAre;

constexpr absl::Duration kPatience = absl::Seconds(60);

class FakeCoordinator : public Coordinator::Service {
 public:
  explicit FakeCoordinator(TestAuthority* authority) : authority_(authority) {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort(
        "127.0.0.1:0", MakeServerCredentials(authority->IssueServer(), PeerCertificate::kOptional),
        &port);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    EXPECT_NE(server_, nullptr);
    address_ = absl::StrCat("127.0.0.1:", port);
  }
  ~FakeCoordinator() override { server_->Shutdown(); }

  const std::string& address() const { return address_; }

  void Lead(const std::string& other) {
    absl::MutexLock lock(&mu_);
    leader_ = other;
  }
  void SetValidity(absl::Duration validity) {
    absl::MutexLock lock(&mu_);
    validity_ = validity;
  }
  // The tokens of the first `count` calls.
  std::vector<std::string> WaitForTokens(size_t count) {
    absl::MutexLock lock(&mu_);
    const auto enough = [&]()
                            ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return tokens_.size() >= count; };
    EXPECT_TRUE(mu_.AwaitWithTimeout(absl::Condition(&enough), kPatience));
    return tokens_;
  }
  std::vector<std::string> requests() {
    absl::MutexLock lock(&mu_);
    return requests_;
  }

 private:
  grpc::Status Certify(grpc::ServerContext* context, const CertifyRequest* request,
                       CertifyReply* reply) override {
    absl::MutexLock lock(&mu_);
    tokens_.push_back(request->token());
    requests_.push_back(request->signing_request());
    if (!leader_.empty()) {
      context->AddTrailingMetadata(kLeaderMetadata, leader_);
      return {grpc::StatusCode::UNAVAILABLE, "this one does not lead"};
    }
    if (request->token() != "good") return {grpc::StatusCode::UNAUTHENTICATED, "a bad token"};
    const auto certificate = authority_->authority()->Sign(request->signing_request(),
                                                           {.common_name = "peer",
                                                            .uri = "moe://ns/a/gateway/uid-1",
                                                            .dns_names = {},
                                                            .ip_addresses = {}},
                                                           absl::Now(), validity_);
    if (!certificate.ok()) return {grpc::StatusCode::INVALID_ARGUMENT, "a bad request"};
    reply->set_certificate_chain_pem(certificate->chain_pem);
    reply->set_ca_bundle_pem(authority_->authority()->certificate_pem());
    reply->set_valid_seconds(absl::ToDoubleSeconds(validity_));
    return grpc::Status::OK;
  }

  TestAuthority* const authority_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
  absl::Mutex mu_;
  std::string leader_ ABSL_GUARDED_BY(mu_);
  absl::Duration validity_ ABSL_GUARDED_BY(mu_) = absl::Hours(24);
  std::vector<std::string> tokens_ ABSL_GUARDED_BY(mu_);
  std::vector<std::string> requests_ ABSL_GUARDED_BY(mu_);
};

class EnrollmentTest : public ::testing::Test {
 protected:
  std::unique_ptr<Enrollment> Start(const std::string& coordinator) {
    EnrollmentOptions options;
    options.coordinator = coordinator;
    options.token_file = authority_.folder() + "/token";
    options.ca_file = authority_.ca_file();
    options.identity_dir = authority_.folder() + "/mine";
    options.first_retry = absl::Milliseconds(10);
    options.max_retry = absl::Milliseconds(100);
    auto enrollment = Enrollment::Start(std::move(options));
    EXPECT_TRUE(enrollment.ok()) << enrollment.status();
    return *std::move(enrollment);
  }
  void WriteToken(const std::string& token) {
    ASSERT_TRUE(WritePrivateFile(authority_.folder() + "/token", token).ok());
  }
  // Who a server believes that we are.
  std::string WhoAreWe(const Enrollment& enrollment) {
    class WhoAmI : public Coordinator::Service {
      grpc::Status Certify(grpc::ServerContext* context, const CertifyRequest* /*request*/,
                           CertifyReply* reply) override {
        const auto peer = PeerOf(*context->auth_context());
        reply->set_certificate_chain_pem(peer.ok() ? peer->Uri() : "nobody");
        return grpc::Status::OK;
      }
    } service;
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort(
        "127.0.0.1:0", MakeServerCredentials(authority_.IssueServer(), PeerCertificate::kRequired),
        &port);
    builder.RegisterService(&service);
    const auto server = builder.BuildAndStart();
    const auto stub = Coordinator::NewStub(grpc::CreateChannel(
        absl::StrCat("127.0.0.1:", port), MakeChannelCredentials(enrollment.files())));
    grpc::ClientContext context;
    CertifyReply reply;
    const grpc::Status status = stub->Certify(&context, CertifyRequest(), &reply);
    return status.ok() ? reply.certificate_chain_pem() : status.error_message();
  }

  TestAuthority authority_;
};

TEST_F(EnrollmentTest, ATokenBuysACertificateThatOthersBelieve) {
  FakeCoordinator coordinator(&authority_);
  WriteToken("good\n");
  const auto enrollment = Start(coordinator.address());
  ASSERT_TRUE(enrollment->WaitForCertificate());
  EXPECT_EQ(WhoAreWe(*enrollment), "moe://ns/a/gateway/uid-1");
  for (const std::string& path :
       {enrollment->files().key, enrollment->files().certificate, enrollment->files().authority}) {
    struct stat info = {};
    ASSERT_EQ(stat(path.c_str(), &info), 0) << path;
    EXPECT_EQ(info.st_mode & 07777, 0600u) << path;
  }
}

TEST_F(EnrollmentTest, ABadTokenIsTriedAgainFromItsFile) {
  FakeCoordinator coordinator(&authority_);
  WriteToken("bad");
  const auto enrollment = Start(coordinator.address());
  coordinator.WaitForTokens(2);
  EXPECT_FALSE(std::filesystem::exists(enrollment->files().certificate));
  WriteToken("good");
  EXPECT_TRUE(enrollment->WaitForCertificate());
}

TEST_F(EnrollmentTest, ATokenThatIsNotThereYetIsWaitedFor) {
  FakeCoordinator coordinator(&authority_);
  const auto enrollment = Start(coordinator.address());
  std::thread writer([this] { WriteToken("good"); });
  EXPECT_TRUE(enrollment->WaitForCertificate());
  writer.join();
}

TEST_F(EnrollmentTest, ItFollowsTheCoordinatorThatLeads) {
  FakeCoordinator follower(&authority_);
  FakeCoordinator leader(&authority_);
  follower.Lead(leader.address());
  WriteToken("good");
  const auto enrollment = Start(follower.address());
  ASSERT_TRUE(enrollment->WaitForCertificate());
  EXPECT_THAT(leader.WaitForTokens(1), ElementsAre("good"));
}

TEST_F(EnrollmentTest, ItRenewsAtHalfOfTheLifeWithTheSameKeyAndTheTokenOfThatTime) {
  FakeCoordinator coordinator(&authority_);
  coordinator.SetValidity(absl::Seconds(1));
  WriteToken("good");
  const auto enrollment = Start(coordinator.address());
  ASSERT_TRUE(enrollment->WaitForCertificate());
  const std::string key = *ReadSmallFile(enrollment->files().key, 10000);
  const std::string first = *ReadSmallFile(enrollment->files().certificate, 10000);
  coordinator.WaitForTokens(3);
  WriteToken("rotated");
  for (size_t count = 4;; ++count) {
    if (coordinator.WaitForTokens(count).back() == "rotated") break;
  }
  EXPECT_EQ(*ReadSmallFile(enrollment->files().key, 10000), key);
  EXPECT_NE(*ReadSmallFile(enrollment->files().certificate, 10000), first);
  const std::vector<std::string> requests = coordinator.requests();
  EXPECT_THAT(requests, Each(requests.front()));
}

TEST_F(EnrollmentTest, ACoordinatorOfAnotherAuthorityIsNotGivenTheToken) {
  TestAuthority impostor;
  FakeCoordinator coordinator(&impostor);
  WriteToken("good");
  const auto enrollment = Start(coordinator.address());
  absl::SleepFor(absl::Milliseconds(500));  // a few attempts
  EXPECT_TRUE(coordinator.requests().empty());
  enrollment->Stop();
  EXPECT_FALSE(enrollment->WaitForCertificate());
}

TEST_F(EnrollmentTest, StopEndsTheWait) {
  WriteToken("good");
  const auto enrollment = Start("127.0.0.1:1");
  std::thread stopper([&] { enrollment->Stop(); });
  EXPECT_FALSE(enrollment->WaitForCertificate());
  stopper.join();
}

}  // namespace
}  // namespace moe::identity
