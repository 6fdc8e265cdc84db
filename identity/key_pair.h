// A private key, ECDSA P-256, and the request for its certificate.
//
// Tested by tests/identity/certificate_authority_test.cc.
#ifndef MOE_IDENTITY_KEY_PAIR_H_
#define MOE_IDENTITY_KEY_PAIR_H_

#include <openssl/evp.h>

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace moe::identity {

// Immutable, so thread-safe.
class KeyPair {
 public:
  static absl::StatusOr<KeyPair> Generate();
  // PKCS #8, unencrypted. InvalidArgument for anything but a P-256 key.
  static absl::StatusOr<KeyPair> FromPem(std::string_view pem);

  // PKCS #8: a secret, for a file that only this process's user can read.
  absl::StatusOr<std::string> PrivatePem() const;
  // PKCS #10, DER, signed with this key, without names.
  absl::StatusOr<std::string> SigningRequest() const;

  EVP_PKEY* get() const { return key_.get(); }

 private:
  explicit KeyPair(EVP_PKEY* key) : key_(key, EVP_PKEY_free) {}

  std::shared_ptr<EVP_PKEY> key_;
};

// Whether `key`, which may be null, is one for ECDSA over P-256.
bool IsP256(const EVP_PKEY* key);

}  // namespace moe::identity

#endif  // MOE_IDENTITY_KEY_PAIR_H_
