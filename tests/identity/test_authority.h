// An authority and identities for tests, in a folder of their own that goes with it.
#ifndef MOE_TESTS_IDENTITY_TEST_AUTHORITY_H_
#define MOE_TESTS_IDENTITY_TEST_AUTHORITY_H_

#include <stdlib.h>

#include <filesystem>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "identity/certificate_authority.h"
#include "identity/identity_files.h"
#include "identity/key_pair.h"
#include "identity/peer_identity.h"

namespace moe::identity {

class TestAuthority {
 public:
  TestAuthority() {
    std::string form = ::testing::TempDir() + "/identity-XXXXXX";
    folder_ = mkdtemp(form.data());
    authority_ = *CertificateAuthority::Create("test authority", absl::Now());
    EXPECT_TRUE(WritePrivateFile(ca_file(), authority_->certificate_pem()).ok());
  }
  ~TestAuthority() { std::filesystem::remove_all(folder_); }
  TestAuthority(const TestAuthority&) = delete;
  TestAuthority& operator=(const TestAuthority&) = delete;

  const std::string& folder() const { return folder_; }
  std::string ca_file() const { return folder_ + "/authority.crt"; }
  std::shared_ptr<const CertificateAuthority> authority() const { return authority_; }

  // Files of a new key and its certificate. `expired`: its time is over.
  IdentityFiles Issue(const CertificateNames& names, bool expired = false) {
    const std::string folder = absl::StrCat(folder_, "/", ++num_issued_);
    EXPECT_TRUE(MakePrivateFolder(folder).ok());
    const IdentityFiles files = IdentityFiles::In(folder);
    const KeyPair key = *KeyPair::Generate();
    const absl::Time now = expired ? absl::Now() - absl::Hours(2) : absl::Now();
    const Certificate certificate =
        *authority_->Sign(*key.SigningRequest(), names, now, absl::Hours(1));
    EXPECT_TRUE(WritePrivateFile(files.key, *key.PrivatePem()).ok());
    EXPECT_TRUE(WritePrivateFile(files.certificate, certificate.chain_pem).ok());
    EXPECT_TRUE(WritePrivateFile(files.authority, authority_->certificate_pem()).ok());
    return files;
  }
  // Of a server that is reached at 127.0.0.1 or, by an override, as `coordinator`.
  IdentityFiles IssueServer() {
    return Issue({.common_name = "server",
                  .uri = "",
                  .dns_names = {"coordinator"},
                  .ip_addresses = {"127.0.0.1"}});
  }
  IdentityFiles IssuePeer(const std::string& uri, bool expired = false) {
    return Issue(
        {.common_name = "peer", .uri = uri, .dns_names = {}, .ip_addresses = {"127.0.0.1"}},
        expired);
  }

 private:
  std::string folder_;
  std::shared_ptr<const CertificateAuthority> authority_;
  int num_issued_ = 0;
};

}  // namespace moe::identity

#endif  // MOE_TESTS_IDENTITY_TEST_AUTHORITY_H_
