// TLS between client and server, with authorities and certificates that openssl makes here.
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "controller/kube/client.h"
#include "controller/kube/resource_types.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/controller/kube/fake_api_server.h"

namespace moe::kube {
namespace {

using testing::FakeApiServer;
using testing::FakeApiServerOptions;
using ::testing::HasSubstr;

const ObjectKey kKey{.ns = "n", .name = "a"};

class ClientTlsTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = ::testing::TempDir() + "/client-tls";
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directory(folder_);
    MakeCertificate("ca", "");
    MakeCertificate("other-ca", "");
    MakeCertificate("server", "ca", "subjectAltName=IP:127.0.0.1");
    MakeCertificate("elsewhere", "ca", "subjectAltName=DNS:kubernetes.example.com,IP:10.0.0.1");
    MakeCertificate("client", "ca");
    MakeCertificate("stranger", "other-ca");
  }

  // NAME.crt and NAME.key, signed by `issuer`; by itself if that is empty.
  static void MakeCertificate(const std::string& name, const std::string& issuer,
                              const std::string& extension = "") {
    std::string command = absl::StrCat(
        "cd ", folder_, " && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes",
        " -days 2 -subj /CN=", name, " -keyout ", name, ".key -out ", name, ".crt");
    if (!issuer.empty()) {
      absl::StrAppend(&command, " -CA ", issuer, ".crt -CAkey ", issuer,
                      ".key -addext basicConstraints=critical,CA:FALSE");
    }
    if (!extension.empty()) {
      absl::StrAppend(&command, " -addext ", extension);
    }
    ASSERT_EQ(std::system((command + " 2>" + folder_ + "/log").c_str()), 0) << command;
  }

  static std::string File(const std::string& name) { return folder_ + "/" + name; }

  // A server with this certificate.
  static std::unique_ptr<FakeApiServer> Serve(const std::string& certificate,
                                              const std::string& client_ca = "") {
    auto server = std::make_unique<FakeApiServer>(
        FakeApiServerOptions{.cert_file = File(certificate + ".crt"),
                             .key_file = File(certificate + ".key"),
                             .client_ca_file = client_ca.empty() ? "" : File(client_ca + ".crt")});
    server->objects().Put(kPods, {{"metadata", {{"namespace", "n"}, {"name", "a"}}}});
    return server;
  }

  static absl::Status Get(const FakeApiServer& server, const std::string& ca,
                          const std::string& certificate = "") {
    ClientOptions options = {.server = server.url(), .ca_file = File(ca + ".crt")};
    if (!certificate.empty()) {
      options.client_cert_file = File(certificate + ".crt");
      options.client_key_file = File(certificate + ".key");
    }
    const absl::StatusOr<std::unique_ptr<Client>> client = Client::Create(options);
    return client.ok() ? (*client)->Get(kPods, kKey).status() : client.status();
  }

  static std::string folder_;
};

std::string ClientTlsTest::folder_;

TEST_F(ClientTlsTest, TheServersCertificateIsCheckedAgainstTheGivenAuthority) {
  const auto server = Serve("server");
  const absl::Status trusted = Get(*server, "ca");
  EXPECT_TRUE(trusted.ok()) << trusted;
  const absl::Status refused = Get(*server, "other-ca");
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("get pods n/a: "));
  EXPECT_EQ(server->CountRequests("", ""), 1);  // nothing was sent to an unknown server
}

TEST_F(ClientTlsTest, TheServersCertificateIsCheckedForItsAddress) {
  const auto server = Serve("elsewhere");
  EXPECT_EQ(Get(*server, "ca").code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(server->CountRequests("", ""), 0);
}

TEST_F(ClientTlsTest, TheClientsCertificateIsSent) {
  const auto server = Serve("server", "ca");
  const absl::Status trusted = Get(*server, "ca", "client");
  EXPECT_TRUE(trusted.ok()) << trusted;
  EXPECT_EQ(server->requests().back().client, "client");
  EXPECT_FALSE(Get(*server, "ca").ok());
  EXPECT_FALSE(Get(*server, "ca", "stranger").ok());
}

TEST_F(ClientTlsTest, FilesThatCannotBeReadAreFoundAtOnce) {
  const auto server = Serve("server");
  EXPECT_EQ(Get(*server, "ca", "missing").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(Get(*server, "missing").ok());
}

TEST_F(ClientTlsTest, WatchesAreVerifiedToo) {
  const auto server = Serve("server");
  for (const auto& [ca, expected] :
       {std::pair<std::string, absl::StatusCode>{"ca", absl::StatusCode::kCancelled},
        {"other-ca", absl::StatusCode::kUnavailable}}) {
    const auto client = Client::Create({.server = server->url(), .ca_file = File(ca + ".crt")});
    ASSERT_TRUE(client.ok());
    const auto watch = (*client)->OpenWatch();
    ASSERT_TRUE(watch.ok());
    const absl::Status status = (*watch)->Run({.type = kPods, .resource_version = ""},
                                              [](absl::string_view) { return false; });
    EXPECT_EQ(status.code(), expected) << status;
  }
}

}  // namespace
}  // namespace moe::kube
