#include "identity/certificate_authority.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "identity/key_pair.h"

namespace moe::identity {
namespace {

using ::testing::HasSubstr;

template <auto kFree>
struct Free {
  template <typename T>
  void operator()(T* object) const {
    kFree(object);
  }
};
using X509Ptr = std::unique_ptr<X509, Free<X509_free>>;

X509Ptr ParsePem(const std::string& pem) {
  BIO* bio = BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size()));
  X509Ptr certificate(PEM_read_bio_X509(bio, nullptr, nullptr, nullptr));
  BIO_free(bio);
  return certificate;
}

// OpenSSL's verdict over the chain at `when`.
int Verify(const std::string& certificate_pem, const std::string& authority_pem, int purpose,
           absl::Time when) {
  const X509Ptr certificate = ParsePem(certificate_pem);
  const X509Ptr authority = ParsePem(authority_pem);
  X509_STORE* store = X509_STORE_new();
  X509_STORE_add_cert(store, authority.get());
  X509_STORE_CTX* context = X509_STORE_CTX_new();
  X509_STORE_CTX_init(context, store, certificate.get(), nullptr);
  X509_STORE_CTX_set_purpose(context, purpose);
  X509_STORE_CTX_set_time(context, 0, absl::ToTimeT(when));
  X509_verify_cert(context);
  const int error = X509_STORE_CTX_get_error(context);
  X509_STORE_CTX_free(context);
  X509_STORE_free(store);
  return error;
}

CertificateNames WorkerNames() {
  return {.common_name = "uid-1",
          .uri = "moe://ns/a/worker/uid-1",
          .dns_names = {"coordinator.ns.svc"},
          .ip_addresses = {"10.1.2.3", "fd00::1"}};
}

// A request that is signed with a key of another kind.
std::string RequestOf(EVP_PKEY* key) {
  X509_REQ* request = X509_REQ_new();
  X509_REQ_set_pubkey(request, key);
  X509_REQ_sign(request, key, EVP_sha256());
  unsigned char* der = nullptr;
  const int size = i2d_X509_REQ(request, &der);
  std::string result(reinterpret_cast<char*>(der), static_cast<size_t>(size));
  OPENSSL_free(der);
  X509_REQ_free(request);
  EVP_PKEY_free(key);
  return result;
}

class CertificateAuthorityTest : public ::testing::Test {
 protected:
  const absl::Time now_ = absl::Now();
  std::unique_ptr<CertificateAuthority> authority_ =
      *CertificateAuthority::Create("test authority", now_);
  const KeyPair key_ = *KeyPair::Generate();
  const std::string request_ = *key_.SigningRequest();
};

TEST_F(CertificateAuthorityTest, ACertificateIsGoodForClientAndServerInItsTime) {
  const auto certificate = authority_->Sign(request_, WorkerNames(), now_, absl::Hours(24));
  ASSERT_TRUE(certificate.ok()) << certificate.status();
  const std::string& authority = authority_->certificate_pem();
  for (const int purpose : {X509_PURPOSE_SSL_CLIENT, X509_PURPOSE_SSL_SERVER}) {
    EXPECT_EQ(Verify(certificate->chain_pem, authority, purpose, now_), X509_V_OK);
    EXPECT_EQ(Verify(certificate->chain_pem, authority, purpose, now_ + absl::Hours(25)),
              X509_V_ERR_CERT_HAS_EXPIRED);
    EXPECT_EQ(Verify(certificate->chain_pem, authority, purpose, now_ - absl::Hours(1)),
              X509_V_ERR_CERT_NOT_YET_VALID);
  }
  EXPECT_EQ(certificate->not_after, now_ + absl::Hours(24));
  const X509Ptr parsed = ParsePem(certificate->chain_pem);
  EXPECT_EQ(X509_check_host(parsed.get(), "coordinator.ns.svc", 0, 0, nullptr), 1);
  EXPECT_EQ(X509_check_ip_asc(parsed.get(), "10.1.2.3", 0), 1);
  EXPECT_EQ(X509_check_ip_asc(parsed.get(), "fd00::1", 0), 1);
  EXPECT_EQ(X509_check_ip_asc(parsed.get(), "10.1.2.4", 0), 0);
  EXPECT_EQ(X509_check_private_key(parsed.get(), key_.get()), 1);
  // It signs nothing itself.
  EXPECT_EQ(X509_check_ca(parsed.get()), 0);
}

TEST_F(CertificateAuthorityTest, AnotherAuthoritysCertificateIsNotBelieved) {
  const auto other = *CertificateAuthority::Create("test authority", now_);
  const auto certificate = other->Sign(request_, WorkerNames(), now_, absl::Hours(24));
  ASSERT_TRUE(certificate.ok());
  EXPECT_NE(
      Verify(certificate->chain_pem, authority_->certificate_pem(), X509_PURPOSE_SSL_CLIENT, now_),
      X509_V_OK);
}

TEST_F(CertificateAuthorityTest, RequestsThatAreNoneAreRefused) {
  std::string tampered = request_;
  tampered[tampered.size() - 5] = static_cast<char>(tampered[tampered.size() - 5] ^ 1);
  struct Case {
    const char* what;
    std::string request;
    const char* says;
  };
  const std::vector<Case> cases = {
      {"nothing", "", "empty"},
      {"garbage", "\x30\x82garbage", "no PKCS #10"},
      {"half of one", request_.substr(0, request_.size() / 2), "no PKCS #10"},
      {"more behind it", request_ + "x", "no PKCS #10"},
      {"a megabyte", std::string(1 << 20, '0'), "too long"},
      {"a signature that was changed", tampered, "signed with its own key"},
      {"an RSA key", RequestOf(EVP_RSA_gen(1024)), "not ECDSA P-256"},
      {"a larger curve", RequestOf(EVP_EC_gen("P-384")), "not ECDSA P-256"}};
  for (const Case& c : cases) {
    const auto certificate = authority_->Sign(c.request, WorkerNames(), now_, absl::Hours(1));
    EXPECT_EQ(certificate.status().code(), absl::StatusCode::kInvalidArgument) << c.what;
    EXPECT_THAT(std::string(certificate.status().message()), HasSubstr(c.says)) << c.what;
    EXPECT_EQ(CertificateAuthority::CheckRequest(c.request), certificate.status()) << c.what;
  }
  EXPECT_TRUE(CertificateAuthority::CheckRequest(request_).ok());
}

TEST_F(CertificateAuthorityTest, ARequestOfWhichOneBitWasChangedIsRefused) {
  for (size_t i = 0; i < request_.size(); ++i) {
    for (const int bit : {0, 3, 7}) {
      std::string changed = request_;
      changed[i] = static_cast<char>(changed[i] ^ (1 << bit));
      EXPECT_FALSE(CertificateAuthority::CheckRequest(changed).ok()) << i << " " << bit;
    }
  }
}

TEST_F(CertificateAuthorityTest, NamesThatAreNoneAreRefused) {
  CertificateNames no_ip = WorkerNames();
  no_ip.ip_addresses = {"10.1.2"};
  CertificateNames no_name = {.common_name = "x", .uri = "", .dns_names = {}, .ip_addresses = {}};
  CertificateNames line_break = WorkerNames();
  line_break.dns_names = {"a\nb"};
  CertificateNames no_common_name = WorkerNames();
  no_common_name.common_name = "";
  for (const CertificateNames& names : {no_ip, no_name, line_break, no_common_name}) {
    EXPECT_EQ(authority_->Sign(request_, names, now_, absl::Hours(1)).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST_F(CertificateAuthorityTest, NoCertificateOutlivesItsAuthority) {
  const auto brief = *CertificateAuthority::Create("brief", now_, absl::Hours(2));
  const auto certificate = brief->Sign(request_, WorkerNames(), now_, absl::Hours(24));
  ASSERT_TRUE(certificate.ok());
  EXPECT_EQ(certificate->not_after, brief->not_after());
  EXPECT_LE(certificate->not_after, now_ + absl::Hours(2));
  EXPECT_EQ(
      brief->Sign(request_, WorkerNames(), now_ + absl::Hours(3), absl::Hours(24)).status().code(),
      absl::StatusCode::kFailedPrecondition);
}

TEST_F(CertificateAuthorityTest, AnAuthorityComesBackFromItsPemAndSignsTheSame) {
  const auto again =
      CertificateAuthority::FromPem(authority_->certificate_pem(), *authority_->key_pem());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ((*again)->certificate_pem(), authority_->certificate_pem());
  EXPECT_EQ((*again)->not_after(), authority_->not_after());
  const auto certificate = (*again)->Sign(request_, WorkerNames(), now_, absl::Hours(1));
  ASSERT_TRUE(certificate.ok());
  EXPECT_EQ(
      Verify(certificate->chain_pem, authority_->certificate_pem(), X509_PURPOSE_SSL_SERVER, now_),
      X509_V_OK);
}

TEST_F(CertificateAuthorityTest, PemThatDoesNotFitIsRefused) {
  const std::string other_key = *KeyPair::Generate()->PrivatePem();
  const std::string leaf =
      authority_->Sign(request_, WorkerNames(), now_, absl::Hours(1))->chain_pem;
  const std::string& certificate = authority_->certificate_pem();
  const std::string key = *authority_->key_pem();
  struct Case {
    const char* what;
    std::string certificate;
    std::string key;
  };
  const std::vector<Case> cases = {{"another key", certificate, other_key},
                                   {"no certificate", "", key},
                                   {"no key", certificate, ""},
                                   {"swapped", key, certificate},
                                   {"a certificate that signs nothing", leaf, *key_.PrivatePem()}};
  for (const Case& c : cases) {
    EXPECT_EQ(CertificateAuthority::FromPem(c.certificate, c.key).status().code(),
              absl::StatusCode::kInvalidArgument)
        << c.what;
  }
}

TEST(KeyPairTest, AKeyComesBackFromItsPem) {
  const KeyPair key = *KeyPair::Generate();
  const auto again = KeyPair::FromPem(*key.PrivatePem());
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(EVP_PKEY_eq(key.get(), again->get()), 1);
  EXPECT_THAT(*key.PrivatePem(), HasSubstr("BEGIN PRIVATE KEY"));
}

}  // namespace
}  // namespace moe::identity
