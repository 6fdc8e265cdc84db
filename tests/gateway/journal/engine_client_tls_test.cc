// Tests gateway/journal/engine_client.h over TLS, with certificates as the controller issues them.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gateway/journal/engine_client.h"
#include "gtest/gtest.h"
#include "identity/certificate_authority.h"
#include "identity/credentials.h"
#include "identity/issued_identity.h"
#include "identity/peer_identity.h"
#include "tests/gateway/journal/engine_client_fixture.h"

namespace moe::gateway {
namespace {

using testing::ActiveGroup;
using testing::EngineClientTest;
using testing::FakeCoordinator;
using testing::FakeLeader;
using testing::FakeLeaderOptions;
using testing::kAnswer;

class EngineClientTlsTest : public EngineClientTest {
 protected:
  EngineClientTlsTest() {
    auto authority = identity::CertificateAuthority::Create("test", absl::Now());
    EXPECT_TRUE(authority.ok()) << authority.status();
    authority_ = *std::move(authority);
  }

  // Files of a certificate with these names, that last as long as the test.
  const identity::IdentityFiles& Issue(identity::CertificateNames names) {
    auto issued = identity::IssuedIdentity::Start(
        authority_, std::move(names), absl::StrCat(folder_, "/identity", issued_.size()));
    EXPECT_TRUE(issued.ok()) << issued.status();
    issued_.push_back(*std::move(issued));
    return issued_.back()->files();
  }

  // As every coordinator has it: the name of the Service, not the address of the pod.
  std::shared_ptr<grpc::ServerCredentials> CoordinatorCredentials() {
    return identity::MakeServerCredentials(Issue({"coordinator", "", {"localhost"}, {}}),
                                           identity::PeerCertificate::kOptional);
  }

  std::string Uri(const std::string& deployment, identity::Role role) {
    return identity::PeerIdentity{
        .ns = "ns", .deployment = deployment, .role = role, .pod_uid = "u"}
        .Uri();
  }

  std::unique_ptr<FakeLeader> MakeLeader(const std::string& deployment) {
    FakeLeaderOptions options = LeaderOptions("", 1);
    options.address = "127.0.0.1:0";
    options.credentials = identity::MakeServerCredentials(
        Issue({"worker", Uri(deployment, identity::Role::kWorker), {}, {"127.0.0.1"}}),
        identity::PeerCertificate::kRequired);
    return std::make_unique<FakeLeader>(std::move(options));
  }

  void ConnectTo(const FakeCoordinator& coordinator) {
    const identity::IdentityFiles files =
        Issue({"gateway", Uri("m", identity::Role::kGateway), {}, {"127.0.0.1"}});
    EngineClientOptions options;
    const std::string& address = coordinator.address();
    options.coordinator = absl::StrCat("localhost", address.substr(address.rfind(':')));
    options.deployment = "ns/m";
    options.gateway_id = "test";
    options.credentials = [files]() -> absl::StatusOr<EngineCredentials> {
      return EngineCredentials{.coordinator = identity::MakeChannelCredentials(files),
                               .leader = identity::MakeEngineChannelCredentials(files, "ns/m")};
    };
    client_ = std::make_unique<EngineClient>(std::move(options));
  }

  std::shared_ptr<identity::CertificateAuthority> authority_;
  std::vector<std::unique_ptr<identity::IssuedIdentity>> issued_;
};

TEST_F(EngineClientTlsTest, CoordinatorsAndLeadersProveWhoTheyAre) {
  const auto leader = MakeLeader("m");
  FakeCoordinator leading("127.0.0.1:0", CoordinatorCredentials());
  leading.Set(ActiveGroup("ns/m/0", leader->address(), 1));
  FakeCoordinator other("127.0.0.1:0", CoordinatorCredentials());
  other.PointTo(leading.address());  // by address: its certificate has only the Service's name
  ConnectTo(other);
  WaitUntilServing();
  EXPECT_EQ(*ReadAll(*Start()), kAnswer);
}

TEST_F(EngineClientTlsTest, AWorkerOfAnotherDeploymentGetsNoPrompts) {
  const auto stranger = MakeLeader("other");
  FakeCoordinator coordinator("127.0.0.1:0", CoordinatorCredentials());
  coordinator.Set(ActiveGroup("ns/m/0", stranger->address(), 1));
  ConnectTo(coordinator);
  while (client_->view().groups.empty()) {
    absl::SleepFor(absl::Milliseconds(2));
  }
  absl::SleepFor(absl::Milliseconds(300));
  EXPECT_FALSE(client_->view().serving);
  const auto leader = MakeLeader("m");
  coordinator.Set(ActiveGroup("ns/m/0", leader->address(), 1));
  WaitUntilServing();
  EXPECT_EQ(*ReadAll(*Start()), kAnswer);
  EXPECT_TRUE(stranger->submissions().empty());
}

TEST_F(EngineClientTlsTest, WhileThereAreNoCredentialsItConnectsToNobody) {
  FakeCoordinator coordinator("127.0.0.1:0", CoordinatorCredentials());
  EngineClientOptions options;
  options.coordinator = coordinator.address();
  options.deployment = "ns/m";
  options.credentials = []() -> absl::StatusOr<EngineCredentials> {
    return absl::CancelledError("stopped");
  };
  client_ = std::make_unique<EngineClient>(std::move(options));
  absl::SleepFor(absl::Milliseconds(100));
  EXPECT_EQ(coordinator.num_watches(), 0);
  EXPECT_TRUE(absl::IsUnavailable(client_->Start({}).status()));
}

}  // namespace
}  // namespace moe::gateway
