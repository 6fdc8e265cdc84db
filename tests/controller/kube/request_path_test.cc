#include "controller/kube/request_path.h"

#include <string>

#include "controller/kube/resource_types.h"
#include "gtest/gtest.h"

namespace moe::kube {
namespace {

TEST(RequestPathTest, PathsFollowGroupVersionAndNamespace) {
  EXPECT_EQ(CollectionPath(kPods, "a"), "/api/v1/namespaces/a/pods");
  EXPECT_EQ(CollectionPath(kPods, ""), "/api/v1/pods");
  EXPECT_EQ(CollectionPath(kNodes, ""), "/api/v1/nodes");
  EXPECT_EQ(CollectionPath(kTokenReviews, ""), "/apis/authentication.k8s.io/v1/tokenreviews");
  EXPECT_EQ(ObjectPath(kMoeDeployments, {.ns = "a", .name = "b"}, "status"),
            "/apis/moe-operator.dev/v1alpha1/namespaces/a/moedeployments/b/status");
}

TEST(RequestPathTest, NamesThatWouldChangeThePathAreRefused) {
  EXPECT_TRUE(CheckKey(kPods, {.ns = "a", .name = "b"}).ok());
  EXPECT_TRUE(CheckKey(kNodes, {.ns = "", .name = "b"}).ok());
  for (const std::string& bad : {std::string(), std::string("."), std::string(".."),
                                 std::string("a/b"), std::string("a%2fb"), std::string(254, 'a')}) {
    EXPECT_FALSE(CheckKey(kPods, {.ns = "a", .name = bad}).ok()) << bad;
    EXPECT_FALSE(CheckKey(kPods, {.ns = bad, .name = "a"}).ok()) << bad;
  }
  EXPECT_FALSE(CheckKey(kNodes, {.ns = "a", .name = "b"}).ok());
}

TEST(RequestPathTest, EscapeLeavesOnlyUnreservedCharacters) {
  EXPECT_EQ(Escape("a=b,c!=d e/ü"), "a%3Db%2Cc%21%3Dd%20e%2F%C3%BC");
  EXPECT_EQ(Escape("AZaz09-._~"), "AZaz09-._~");
}

}  // namespace
}  // namespace moe::kube
