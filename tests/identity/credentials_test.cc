// Real TLS connections over 127.0.0.1, with good and bad certificates on both sides.
#include "identity/credentials.h"

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "identity/peer_identity.h"
#include "proto/coordinator.grpc.pb.h"
#include "tests/identity/test_authority.h"

namespace moe::identity {
namespace {

using coordinator::v1::CertifyReply;
using coordinator::v1::CertifyRequest;
using coordinator::v1::Coordinator;

// Answers Certify with who the caller is.
class WhoAmI : public Coordinator::Service {
 public:
  grpc::Status Certify(grpc::ServerContext* context, const CertifyRequest* /*request*/,
                       CertifyReply* reply) override {
    const auto peer = PeerOf(*context->auth_context());
    reply->set_certificate_chain_pem(peer.ok() ? peer->Uri() : "nobody");
    return grpc::Status::OK;
  }
};

class CredentialsTest : public ::testing::Test {
 protected:
  void Serve(const IdentityFiles& files, PeerCertificate client) {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", MakeServerCredentials(files, client), &port);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
    address_ = absl::StrCat("127.0.0.1:", port);
  }

  // Who the server says that we are, over a new connection; or "refused".
  std::string Ask(const std::shared_ptr<grpc::ChannelCredentials>& credentials,
                  const std::string& target_name = "") const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    SetTargetName(target_name, &arguments);
    const auto stub =
        Coordinator::NewStub(grpc::CreateCustomChannel(address_, credentials, arguments));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    CertifyReply reply;
    const grpc::Status status = stub->Certify(&context, CertifyRequest(), &reply);
    if (status.ok()) return reply.certificate_chain_pem();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE) << status.error_message();
    return "refused";
  }

  TestAuthority authority_;
  TestAuthority other_authority_;
  WhoAmI service_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

constexpr char kWorker[] = "moe://ns/a/worker/uid-1";

TEST_F(CredentialsTest, AServerThatAsksForCertificatesTellsWhoIsThere) {
  Serve(authority_.IssueServer(), PeerCertificate::kOptional);
  EXPECT_EQ(Ask(MakeChannelCredentials(authority_.IssuePeer(kWorker))), kWorker);
  EXPECT_EQ(Ask(MakeAnonymousChannelCredentials(authority_.ca_file())), "nobody");
  EXPECT_EQ(Ask(MakeChannelCredentials(authority_.IssuePeer("moe://ns/a/king/uid-1"))), "nobody");
  // By name instead of by address.
  EXPECT_EQ(Ask(MakeChannelCredentials(authority_.IssuePeer(kWorker)), "coordinator"), kWorker);
}

TEST_F(CredentialsTest, BadClientsAreRefused) {
  IdentityFiles stolen = authority_.IssuePeer(kWorker);
  stolen.key = authority_.IssuePeer(kWorker).key;
  IdentityFiles foreign = other_authority_.IssuePeer(kWorker);
  foreign.authority = authority_.ca_file();  // believes the server all the same
  for (const PeerCertificate policy : {PeerCertificate::kOptional, PeerCertificate::kRequired}) {
    Serve(authority_.IssueServer(), policy);
    EXPECT_EQ(Ask(MakeChannelCredentials(foreign)), "refused") << "of another authority";
    EXPECT_EQ(Ask(MakeChannelCredentials(authority_.IssuePeer(kWorker, /*expired=*/true))),
              "refused")
        << "expired";
    EXPECT_EQ(Ask(grpc::InsecureChannelCredentials()), "refused") << "plaintext";
  }
  EXPECT_EQ(Ask(MakeAnonymousChannelCredentials(authority_.ca_file())), "refused")
      << "without a certificate, where one is required";
}

TEST_F(CredentialsTest, BadServersAreRefused) {
  const auto client = MakeChannelCredentials(authority_.IssuePeer(kWorker));
  Serve(other_authority_.IssueServer(), PeerCertificate::kOptional);
  EXPECT_EQ(Ask(client), "refused") << "of another authority";
  Serve(authority_.IssueServer(), PeerCertificate::kOptional);
  EXPECT_EQ(Ask(client, "another-name"), "refused") << "for another name";
  Serve(authority_.Issue({.common_name = "127.0.0.1",
                          .uri = "",
                          .dns_names = {"coordinator"},
                          .ip_addresses = {"127.0.0.2"}}),
        PeerCertificate::kOptional);
  EXPECT_EQ(Ask(client), "refused") << "for another address; its common name says nothing";
}

TEST_F(CredentialsTest, AGatewayTalksToWorkersOfItsDeploymentOnly) {
  const IdentityFiles gateway = authority_.IssuePeer("moe://ns/a/gateway/uid-9");
  const auto credentials = MakeEngineChannelCredentials(gateway, "ns/a");
  struct Case {
    const char* server;
    const char* answer;
  };
  for (const Case& c : std::vector<Case>{{"moe://ns/a/worker/uid-1", "moe://ns/a/gateway/uid-9"},
                                         {"moe://ns/b/worker/uid-1", "refused"},
                                         {"moe://other/a/worker/uid-1", "refused"},
                                         {"moe://ns/a/gateway/uid-1", "refused"}}) {
    Serve(authority_.IssuePeer(c.server), PeerCertificate::kRequired);
    EXPECT_EQ(Ask(credentials), c.answer) << c.server;
  }
}

TEST_F(CredentialsTest, RenewedFilesCountWithoutARestart) {
  const IdentityFiles server = authority_.IssuePeer("moe://ns/a/worker/uid-1");
  const IdentityFiles client = authority_.IssuePeer("moe://ns/a/gateway/old");
  Serve(server, PeerCertificate::kRequired);
  const auto credentials = MakeChannelCredentials(client);
  EXPECT_EQ(Ask(credentials), "moe://ns/a/gateway/old");
  const IdentityFiles renewed = authority_.IssuePeer("moe://ns/a/gateway/new");
  ASSERT_TRUE(WritePrivateFile(client.key, *ReadSmallFile(renewed.key, 10000)).ok());
  ASSERT_TRUE(
      WritePrivateFile(client.certificate, *ReadSmallFile(renewed.certificate, 10000)).ok());
  std::string who;
  for (int i = 0; i < 300 && who != "moe://ns/a/gateway/new"; ++i) {
    who = Ask(credentials);
    absl::SleepFor(absl::Milliseconds(100));
  }
  EXPECT_EQ(who, "moe://ns/a/gateway/new");
}

}  // namespace
}  // namespace moe::identity
