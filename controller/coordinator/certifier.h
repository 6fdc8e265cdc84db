// Certify: a token and a signing request in, a certificate out.
//
// Reviewing a token asks the API server, so requests wait for a few threads. Both the number that
// wait and the rate are bounded: who asks faster is told RESOURCE_EXHAUSTED and backs off. What can
// be refused without asking is refused first.
//
// Tested by tests/controller/coordinator/certifier_test.cc.
#ifndef MOE_CONTROLLER_COORDINATOR_CERTIFIER_H_
#define MOE_CONTROLLER_COORDINATOR_CERTIFIER_H_

#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "controller/coordinator/authenticator.h"
#include "identity/certificate_authority.h"
#include "proto/coordinator.pb.h"

namespace moe::coordinator {

struct CertifierOptions {
  absl::Duration validity = absl::Hours(24);
  int num_threads = 8;
  size_t max_waiting = 1024;
  // A bucket of `burst` requests that fills at `rate` a second. A large group starts at once.
  double rate = 200;
  double burst = 1000;
  size_t max_token_bytes = 16 << 10;
  std::function<absl::Time()> now = absl::Now;
};

// Methods are thread-safe.
class Certifier {
 public:
  // Called once, on the caller's thread or one of the certifier's.
  using Done = std::function<void(absl::StatusOr<v1::CertifyReply>)>;

  // `authenticator` must outlive the result.
  Certifier(CertifierOptions options, Authenticator* authenticator,
            std::shared_ptr<const identity::CertificateAuthority> authority);
  // Answers what waits with Unavailable.
  ~Certifier();
  Certifier(const Certifier&) = delete;
  Certifier& operator=(const Certifier&) = delete;

  // InvalidArgument: no token, or a signing request that is none. Else what Authenticator says.
  void Certify(v1::CertifyRequest request, Done done);

 private:
  struct Job {
    v1::CertifyRequest request;
    Done done;
  };

  void Work();
  absl::StatusOr<v1::CertifyReply> CertifyNow(const v1::CertifyRequest& request) const;
  bool TakeToken() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const CertifierOptions options_;
  Authenticator* const authenticator_;
  const std::shared_ptr<const identity::CertificateAuthority> authority_;
  std::vector<std::thread> threads_;

  absl::Mutex mu_;
  std::deque<Job> jobs_ ABSL_GUARDED_BY(mu_);
  double tokens_ ABSL_GUARDED_BY(mu_);
  absl::Time filled_at_ ABSL_GUARDED_BY(mu_);
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace moe::coordinator

#endif  // MOE_CONTROLLER_COORDINATOR_CERTIFIER_H_
