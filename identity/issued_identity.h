// The certificate of a process that holds the authority itself: the controller.
//
// It draws a key once, signs a certificate for the given names and writes cert.pem, key.pem and
// ca.pem into a private folder, from which credentials.h reads them; and signs another one for the
// same key at half of its life.
//
// Tested by tests/identity/issued_identity_test.cc.
#ifndef MOE_IDENTITY_ISSUED_IDENTITY_H_
#define MOE_IDENTITY_ISSUED_IDENTITY_H_

#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "identity/certificate_authority.h"
#include "identity/identity_files.h"

namespace moe::identity {

// Thread-safe.
class IssuedIdentity {
 public:
  // Writes the files into `folder`, which is made (0700) if it is missing, and starts the thread.
  static absl::StatusOr<std::unique_ptr<IssuedIdentity>> Start(
      std::shared_ptr<const CertificateAuthority> authority, CertificateNames names,
      const std::string& folder, absl::Duration validity = absl::Hours(24));

  // The files stay.
  ~IssuedIdentity();
  IssuedIdentity(const IssuedIdentity&) = delete;
  IssuedIdentity& operator=(const IssuedIdentity&) = delete;

  const IdentityFiles& files() const { return files_; }

 private:
  IssuedIdentity(std::shared_ptr<const CertificateAuthority> authority, CertificateNames names,
                 IdentityFiles files, std::string signing_request, absl::Duration validity);

  absl::Status Renew();
  void Run();

  const std::shared_ptr<const CertificateAuthority> authority_;
  const CertificateNames names_;
  const IdentityFiles files_;
  const std::string signing_request_;
  const absl::Duration validity_;
  std::thread thread_;

  absl::Mutex mu_;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace moe::identity

#endif  // MOE_IDENTITY_ISSUED_IDENTITY_H_
