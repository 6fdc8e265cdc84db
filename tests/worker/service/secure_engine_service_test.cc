// The Engine service over TLS: only gateways of the worker's own deployment may come.
#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "identity/credentials.h"
#include "tests/identity/test_authority.h"
#include "tests/worker/service/fake_ends.h"
#include "worker/service/engine_service.h"

namespace moe::engine {
namespace {

TEST(SecureEngineServiceTest, OnlyGatewaysOfItsDeploymentMayCome) {
  identity::TestAuthority authority;
  identity::TestAuthority other_authority;
  EngineServiceOptions options;
  options.address = absl::StrCat("unix:", authority.folder(), "/engine.sock");
  options.credentials =
      identity::MakeServerCredentials(authority.Issue({.common_name = "worker",
                                                       .uri = "moe://ns/a/worker/uid-1",
                                                       .dns_names = {"worker"},
                                                       .ip_addresses = {}}),
                                      identity::PeerCertificate::kRequired);
  options.deployment = "ns/a";
  const auto service = EngineService::Start(options);
  ASSERT_TRUE(service.ok()) << service.status();

  identity::IdentityFiles foreign = other_authority.IssuePeer("moe://ns/a/gateway/uid-9");
  foreign.authority = authority.ca_file();
  const auto peer = [&](const char* uri, bool expired = false) {
    return identity::MakeEngineChannelCredentials(authority.IssuePeer(uri, expired), "ns/a");
  };
  struct Case {
    const char* what;
    std::shared_ptr<grpc::ChannelCredentials> credentials;
    grpc::StatusCode code;
  };
  for (const Case& c : std::vector<Case>{
           // The service is reached, which has no leader yet.
           {"a gateway of the deployment", peer("moe://ns/a/gateway/uid-9"),
            grpc::StatusCode::FAILED_PRECONDITION},
           {"a gateway of another one", peer("moe://ns/b/gateway/uid-9"),
            grpc::StatusCode::PERMISSION_DENIED},
           {"a gateway of another namespace", peer("moe://other/a/gateway/uid-9"),
            grpc::StatusCode::PERMISSION_DENIED},
           {"a worker", peer("moe://ns/a/worker/uid-2"), grpc::StatusCode::PERMISSION_DENIED},
           {"a name that is not ours", peer("https://ns/a/gateway/uid-9"),
            grpc::StatusCode::UNAUTHENTICATED},
           {"an expired certificate", peer("moe://ns/a/gateway/uid-9", /*expired=*/true),
            grpc::StatusCode::UNAVAILABLE},
           {"another authority's certificate",
            identity::MakeEngineChannelCredentials(foreign, "ns/a"), grpc::StatusCode::UNAVAILABLE},
           {"no certificate", identity::MakeAnonymousChannelCredentials(authority.ca_file()),
            grpc::StatusCode::UNAVAILABLE},
           {"plaintext", grpc::InsecureChannelCredentials(), grpc::StatusCode::UNAVAILABLE}}) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    identity::SetTargetName("worker", &arguments);
    Gateway gateway(grpc::CreateCustomChannel(options.address, c.credentials, arguments));
    const grpc::Status status = gateway.End();
    EXPECT_EQ(status.error_code(), c.code) << c.what << ": " << status.error_message();
  }
}

}  // namespace
}  // namespace moe::engine
