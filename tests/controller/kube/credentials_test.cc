#include "controller/kube/credentials.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "controller/kube/client.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::kube {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class CredentialsTest : public ::testing::Test {
 protected:
  CredentialsTest() : folder_(::testing::TempDir() + "/credentials") {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directory(folder_);
  }
  std::string Write(const std::string& name, const std::string& text) {
    const std::string path = folder_ + "/" + name;
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }
  const std::string folder_;
};

TEST_F(CredentialsTest, AddressesOfServersAreReadStrictly) {
  struct Case {
    const char* url;
    bool ok;
    bool tls = false;
    const char* host = "";
    int port = 0;
  };
  const std::vector<Case> cases = {
      {"https://10.0.0.1:6443", true, true, "10.0.0.1", 6443},
      {"https://kubernetes.default.svc", true, true, "kubernetes.default.svc", 443},
      {"https://[fd00::1]:6443/", true, true, "fd00::1", 6443},
      {"http://127.0.0.1:8001", true, false, "127.0.0.1", 8001},
      {"http://localhost:8001", true, false, "localhost", 8001},
      {"http://10.0.0.1:8001", false},
      {"http://127.0.0.1.example.com:80@evil", false},
      {"http://127.example.com:8001", false},
      {"10.0.0.1:6443", false},
      {"https://", false},
      {"https://a:0", false},
      {"https://a:65536", false},
      {"https://a:6443x", false},
      {"https://a/prefix", false},
      {"https://user@a", false},
      {"https://[fd00::1", false},
      {"ftp://a", false},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.url);
    const absl::StatusOr<ServerAddress> address = ParseServer(c.url);
    ASSERT_EQ(address.ok(), c.ok) << address.status();
    if (c.ok) {
      EXPECT_EQ(address->tls, c.tls);
      EXPECT_EQ(address->host, c.host);
      EXPECT_EQ(address->port, c.port);
    }
  }
}

TEST_F(CredentialsTest, APodFindsItsServer) {
  setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1", 1);
  setenv("KUBERNETES_SERVICE_PORT", "443", 1);
  absl::StatusOr<ClientOptions> options = InClusterOptions(folder_);
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->server, "https://10.96.0.1:443");
  EXPECT_EQ(options->ca_file, folder_ + "/ca.crt");
  EXPECT_EQ(options->token_file, folder_ + "/token");
  setenv("KUBERNETES_SERVICE_HOST", "fd00::1", 1);
  EXPECT_EQ(InClusterOptions(folder_)->server, "https://[fd00::1]:443");
  unsetenv("KUBERNETES_SERVICE_HOST");
  EXPECT_EQ(InClusterOptions(folder_).status().code(), absl::StatusCode::kFailedPrecondition);
  Write("namespace", "moe-system\n");
  EXPECT_EQ(*InClusterNamespace(folder_), "moe-system");
}

TEST_F(CredentialsTest, AReplacedTokenIsFoundWithinTenSeconds) {
  TokenFile token(Write("token", "one\n"));
  const absl::Time start = absl::UnixEpoch();
  EXPECT_EQ(*token.Get(start), "one");
  Write("token", "two");
  EXPECT_EQ(*token.Get(start + absl::Seconds(9)), "one");
  EXPECT_EQ(*token.Get(start + absl::Seconds(10)), "two");
}

TEST_F(CredentialsTest, ARefusedTokenIsReadAgainAtOnce) {
  TokenFile token(Write("token", "one"));
  const absl::Time now = absl::UnixEpoch();
  EXPECT_EQ(*token.Get(now), "one");
  EXPECT_FALSE(token.Refresh("one", now));
  Write("token", "two");
  EXPECT_TRUE(token.Refresh("one", now));
  EXPECT_EQ(*token.Get(now), "two");
}

TEST_F(CredentialsTest, ATokenThatVanishesStaysInUse) {
  TokenFile token(Write("token", "one"));
  EXPECT_EQ(*token.Get(absl::UnixEpoch()), "one");
  std::filesystem::remove(folder_ + "/token");
  EXPECT_EQ(*token.Get(absl::UnixEpoch() + absl::Hours(1)), "one");
}

TEST_F(CredentialsTest, ATokenThatIsNoneIsRefusedAndNotShown) {
  for (const std::string& text : {std::string("secret\r\nX-Other: 1"), std::string("secret\0x", 8),
                                  std::string("\n"), std::string(100000, 's')}) {
    TokenFile token(Write("token", text));
    const absl::StatusOr<std::string> read = token.Get(absl::UnixEpoch());
    ASSERT_FALSE(read.ok());
    EXPECT_THAT(std::string(read.status().message()), Not(HasSubstr("secret")));
  }
}

TEST_F(CredentialsTest, AClientIsNotMadeFromHalfOfItsCredentials) {
  const auto create = [](ClientOptions options) { return Client::Create(options).status().code(); };
  EXPECT_EQ(create({.server = "https://10.0.0.1"}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(create({.server = "http://10.0.0.1"}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(create({.server = "http://127.0.0.1", .client_cert_file = "/a"}),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(create({.server = "http://127.0.0.1", .token_file = folder_ + "/none"}),
            absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace moe::kube
