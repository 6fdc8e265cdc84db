// How a worker or gateway gets its certificate and keeps it valid.
//
// It draws a key once, sends its token and a signing request to the coordinator (Certify), over TLS
// to the authority of `ca_file`, and writes cert.pem, key.pem and ca.pem into `identity_dir` (mode
// 0600), from which credentials.h reads them. The key never leaves the process but into that
// folder. At half of the certificate's life it asks for another one for the same key; the token's
// file is read anew each time, since it is rotated.
//
// Tested by tests/identity/enrollment_test.cc.
#ifndef MOE_IDENTITY_ENROLLMENT_H_
#define MOE_IDENTITY_ENROLLMENT_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "identity/identity_files.h"

namespace moe::identity {

struct EnrollmentOptions {
  std::string coordinator;   // host:port; its certificate must be for `host`
  std::string token_file;    // projected service-account token
  std::string ca_file;       // the coordinator's authority
  std::string identity_dir;  // private, in memory; made (0700) if it is missing

  // Between two attempts; doubles up to the maximum, with jitter.
  absl::Duration first_retry = absl::Milliseconds(200);
  absl::Duration max_retry = absl::Seconds(10);
  // As max_retry, once there is a certificate, of which half a life is left.
  absl::Duration max_renewal_retry = absl::Minutes(5);
  absl::Duration call_deadline = absl::Seconds(10);
};

// Methods are thread-safe.
class Enrollment {
 public:
  // Starts the thread and returns; the first certificate comes behind. Errors: the folder can't be
  // made or written.
  static absl::StatusOr<std::unique_ptr<Enrollment>> Start(EnrollmentOptions options);

  // Stop() if not yet stopped. The files stay.
  ~Enrollment();
  Enrollment(const Enrollment&) = delete;
  Enrollment& operator=(const Enrollment&) = delete;

  // Until the first certificate is there: true; or until Stop: false. Failed attempts are logged
  // and repeated, since most are cured by time: a token that is not known yet, a coordinator that
  // starts.
  bool WaitForCertificate();
  void Stop();

  // To be used after WaitForCertificate.
  const IdentityFiles& files() const;

 private:
  class Impl;
  explicit Enrollment(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace moe::identity

#endif  // MOE_IDENTITY_ENROLLMENT_H_
