#include "identity/issued_identity.h"

#include <memory>
#include <string>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/identity/test_authority.h"

namespace moe::identity {
namespace {

CertificateNames Names() {
  return {.common_name = "coordinator",
          .uri = "",
          .dns_names = {"coordinator"},
          .ip_addresses = {"10.0.0.1"}};
}

TEST(IssuedIdentityTest, ItIsThereAtOnceAndRenewedForTheSameKey) {
  TestAuthority authority;
  const auto identity = IssuedIdentity::Start(authority.authority(), Names(),
                                              authority.folder() + "/own", absl::Seconds(1));
  ASSERT_TRUE(identity.ok()) << identity.status();
  const IdentityFiles& files = (*identity)->files();
  const std::string key = *ReadSmallFile(files.key, 10000);
  const std::string first = *ReadSmallFile(files.certificate, 10000);
  EXPECT_EQ(*ReadSmallFile(files.authority, 10000), authority.authority()->certificate_pem());
  std::string later = first;
  for (int i = 0; i < 600 && later == first; ++i) {
    absl::SleepFor(absl::Milliseconds(100));
    later = *ReadSmallFile(files.certificate, 10000);
  }
  EXPECT_NE(later, first);
  EXPECT_EQ(*ReadSmallFile(files.key, 10000), key);
}

TEST(IssuedIdentityTest, AFolderThatCannotBeMadeIsAnError) {
  TestAuthority authority;
  EXPECT_EQ(IssuedIdentity::Start(authority.authority(), Names(), authority.folder() + "/none/own")
                .status()
                .code(),
            absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace moe::identity
