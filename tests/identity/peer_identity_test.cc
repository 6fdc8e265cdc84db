#include "identity/peer_identity.h"

#include <string>

#include "gtest/gtest.h"

namespace moe::identity {
namespace {

TEST(PeerIdentityTest, WhatIsPrintedIsParsed) {
  for (const Role role : {Role::kWorker, Role::kGateway}) {
    const PeerIdentity peer = {
        .ns = "team-a", .deployment = "olmoe.v2", .role = role, .pod_uid = "0a1b-2c"};
    const auto parsed = ParsePeerIdentity(peer.Uri());
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(*parsed, peer);
    EXPECT_EQ(parsed->DeploymentName(), "team-a/olmoe.v2");
  }
  EXPECT_EQ(
      (PeerIdentity{.ns = "n", .deployment = "d", .role = Role::kGateway, .pod_uid = "u"}).Uri(),
      "moe://n/d/gateway/u");
}

TEST(PeerIdentityTest, AnythingElseIsRefused) {
  for (const std::string& uri :
       {std::string(), std::string("moe://"), std::string("moe://n/d/worker"),
        std::string("moe://n/d/worker/"), std::string("moe://n//worker/u"),
        std::string("moe://n/d/worker/u/"), std::string("moe://n/d/worker/u/x"),
        std::string("moe://n/d/leader/u"), std::string("moe://n/d/Worker/u"),
        std::string("moe://N/d/worker/u"), std::string("moe://n/d%2Fe/worker/u"),
        std::string("moe://n/d/worker/u?x"), std::string("spiffe://n/d/worker/u"),
        std::string(" moe://n/d/worker/u"), std::string("moe://n/d/worker/u\n"),
        std::string("moe://n/d\0/worker/u", 19), "moe://n/d/worker/" + std::string(1000, 'u')}) {
    EXPECT_EQ(ParsePeerIdentity(uri).status().code(), absl::StatusCode::kInvalidArgument) << uri;
  }
}

}  // namespace
}  // namespace moe::identity
