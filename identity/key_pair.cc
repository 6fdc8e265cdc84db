#include "identity/key_pair.h"

#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <cstring>

#include "absl/status/status.h"
#include "identity/openssl_handles.h"

namespace moe::identity {
namespace {

constexpr size_t kMaxPemBytes = 16 << 10;

}  // namespace

bool IsP256(const EVP_PKEY* key) {
  if (key == nullptr || EVP_PKEY_is_a(key, "EC") != 1) return false;
  char group[64] = {};
  size_t size = 0;
  return EVP_PKEY_get_group_name(key, group, sizeof(group), &size) == 1 &&
         std::strcmp(group, "prime256v1") == 0;
}

absl::StatusOr<KeyPair> KeyPair::Generate() {
  EVP_PKEY* key = EVP_EC_gen("P-256");
  if (key == nullptr) return OpensslError("cannot draw a key");
  return KeyPair(key);
}

absl::StatusOr<KeyPair> KeyPair::FromPem(std::string_view pem) {
  if (pem.size() > kMaxPemBytes) return absl::InvalidArgumentError("the key is too long");
  const BioPtr bio = ReadBio(pem);
  // Never asks a terminal for a password.
  const auto no_password = [](char*, int, int, void*) { return -1; };
  KeyPtr key(PEM_read_bio_PrivateKey(bio.get(), nullptr, no_password, nullptr));
  if (!IsP256(key.get())) {
    ForgetOpensslErrors();
    return absl::InvalidArgumentError("not an unencrypted PEM of an ECDSA P-256 key");
  }
  return KeyPair(key.release());
}

absl::StatusOr<std::string> KeyPair::PrivatePem() const {
  const BioPtr bio(BIO_new(BIO_s_mem()));
  if (bio == nullptr || PEM_write_bio_PKCS8PrivateKey(bio.get(), key_.get(), nullptr, nullptr, 0,
                                                      nullptr, nullptr) != 1) {
    return OpensslError("cannot write a key");
  }
  return Written(bio.get());
}

absl::StatusOr<std::string> KeyPair::SigningRequest() const {
  const RequestPtr request(X509_REQ_new());
  if (request == nullptr || X509_REQ_set_version(request.get(), X509_REQ_VERSION_1) != 1 ||
      X509_REQ_set_pubkey(request.get(), key_.get()) != 1 ||
      X509_REQ_sign(request.get(), key_.get(), EVP_sha256()) == 0) {
    return OpensslError("cannot make a signing request");
  }
  const int size = i2d_X509_REQ(request.get(), nullptr);
  if (size <= 0) return OpensslError("cannot encode a signing request");
  std::string der(static_cast<size_t>(size), '\0');
  auto* out = reinterpret_cast<unsigned char*>(der.data());
  if (i2d_X509_REQ(request.get(), &out) != size) {
    return OpensslError("cannot encode a signing request");
  }
  return der;
}

}  // namespace moe::identity
