// The authority that signs the certificates of one operator: self-signed, ECDSA P-256.
//
// A request says nothing but its public key: names, validity and use are the caller's.
//
// Tested by tests/identity/certificate_authority_test.cc.
#ifndef MOE_IDENTITY_CERTIFICATE_AUTHORITY_H_
#define MOE_IDENTITY_CERTIFICATE_AUTHORITY_H_

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "identity/key_pair.h"

namespace moe::identity {

struct CertificateNames {
  std::string common_name;  // for people; nothing is decided by it
  std::string uri;          // a PeerIdentity's, or empty
  std::vector<std::string> dns_names;
  std::vector<std::string> ip_addresses;  // as text
};

struct Certificate {
  std::string chain_pem;
  absl::Time not_before;
  absl::Time not_after;
};

// Immutable, so thread-safe.
class CertificateAuthority {
 public:
  // Draws a key. Certificates that outlive the authority's own are cut short to it.
  static absl::StatusOr<std::unique_ptr<CertificateAuthority>> Create(
      std::string_view common_name, absl::Time now,
      absl::Duration validity = 10 * 365 * absl::Hours(24));
  // InvalidArgument unless both parse and belong together.
  static absl::StatusOr<std::unique_ptr<CertificateAuthority>> FromPem(
      std::string_view certificate_pem, std::string_view key_pem);

  ~CertificateAuthority();

  const std::string& certificate_pem() const { return certificate_pem_; }
  absl::StatusOr<std::string> key_pem() const;  // a secret
  absl::Time not_after() const { return not_after_; }

  // Signs the public key of a PKCS #10 request (DER), for use as a client and as a server, valid
  // from a little before `now`, so that clocks may differ. InvalidArgument for a request that does
  // not parse, whose signature is not its own key's, or whose key is not ECDSA P-256; and for names
  // that are none.
  absl::StatusOr<Certificate> Sign(std::string_view request_der, const CertificateNames& names,
                                   absl::Time now, absl::Duration validity) const;

  // The checks of Sign on the request alone.
  static absl::Status CheckRequest(std::string_view request_der);

 private:
  struct State;
  CertificateAuthority(std::unique_ptr<State> state, std::string certificate_pem,
                       absl::Time not_after);

  std::unique_ptr<State> state_;
  std::string certificate_pem_;
  absl::Time not_after_;
};

}  // namespace moe::identity

#endif  // MOE_IDENTITY_CERTIFICATE_AUTHORITY_H_
