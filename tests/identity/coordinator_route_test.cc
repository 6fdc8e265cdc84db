#include "identity/coordinator_route.h"

#include <string>

#include "gtest/gtest.h"

namespace moe::identity {
namespace {

const grpc::Status kUnavailable(grpc::StatusCode::UNAVAILABLE, "");

TEST(CoordinatorRouteTest, ItFollowsTheLeaderAndComesBackWhenThatOneFails) {
  CoordinatorRoute route("coordinator.ns.svc:7700");
  EXPECT_EQ(route.address(), "coordinator.ns.svc:7700");
  EXPECT_EQ(route.target_name(), "coordinator.ns.svc");
  EXPECT_TRUE(route.OnCallEnd(kUnavailable, "10.0.0.7:7700"));
  EXPECT_EQ(route.address(), "10.0.0.7:7700");
  // The name that its certificate must have stays.
  EXPECT_EQ(route.target_name(), "coordinator.ns.svc");
  EXPECT_FALSE(route.OnCallEnd(kUnavailable, "10.0.0.7:7700"));
  EXPECT_TRUE(route.OnCallEnd(kUnavailable, "10.0.0.8:7700"));
  EXPECT_EQ(route.address(), "10.0.0.8:7700");
  EXPECT_TRUE(route.OnCallEnd(grpc::Status(grpc::StatusCode::DEADLINE_EXCEEDED, ""), ""));
  EXPECT_EQ(route.address(), "coordinator.ns.svc:7700");
}

TEST(CoordinatorRouteTest, ACallThatEndsWellChangesNothing) {
  CoordinatorRoute route("coordinator:1");
  EXPECT_TRUE(route.OnCallEnd(kUnavailable, "leader:2"));
  EXPECT_FALSE(route.OnCallEnd(grpc::Status::OK, ""));
  EXPECT_EQ(route.address(), "leader:2");
}

TEST(CoordinatorRouteTest, OnlyUnavailableWithAPlainAddressLeadsElsewhere) {
  for (const char* leader : {"", "leader", ":7700", "leader:", "unix:/tmp/x", "dns:///leader:1",
                             "leader:1x", "a b:1", "a@b:1"}) {
    CoordinatorRoute route("coordinator:1");
    EXPECT_FALSE(route.OnCallEnd(kUnavailable, leader)) << leader;
    EXPECT_EQ(route.address(), "coordinator:1");
  }
  CoordinatorRoute route("coordinator:1");
  EXPECT_FALSE(route.OnCallEnd(grpc::Status(grpc::StatusCode::PERMISSION_DENIED, ""), "leader:2"));
  EXPECT_TRUE(route.OnCallEnd(kUnavailable, "[fd00::1]:7700"));
}

TEST(CoordinatorRouteTest, TheTargetNameIsTheHost) {
  EXPECT_EQ(CoordinatorRoute("10.0.0.1:7700").target_name(), "10.0.0.1");
  EXPECT_EQ(CoordinatorRoute("[fd00::1]:7700").target_name(), "fd00::1");
  EXPECT_EQ(CoordinatorRoute("unix:/run/c.sock").target_name(), "");
}

}  // namespace
}  // namespace moe::identity
