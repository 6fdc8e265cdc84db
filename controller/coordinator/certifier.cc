#include "controller/coordinator/certifier.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "identity/peer_identity.h"
#include "spdlog/spdlog.h"

namespace moe::coordinator {

Certifier::Certifier(CertifierOptions options, Authenticator* authenticator,
                     std::shared_ptr<const identity::CertificateAuthority> authority)
    : options_(std::move(options)),
      authenticator_(authenticator),
      authority_(std::move(authority)),
      tokens_(options_.burst),
      filled_at_(options_.now()) {
  for (int i = 0; i < options_.num_threads; ++i) threads_.emplace_back([this] { Work(); });
}

Certifier::~Certifier() {
  std::deque<Job> jobs;
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
    jobs.swap(jobs_);
  }
  for (Job& job : jobs) job.done(absl::UnavailableError("the coordinator is shutting down"));
  for (std::thread& thread : threads_) thread.join();
}

void Certifier::Certify(v1::CertifyRequest request, Done done) {
  absl::Status status;
  if (request.token().empty() || request.token().size() > options_.max_token_bytes) {
    status = absl::InvalidArgumentError("the token is empty or too long");
  } else {
    absl::MutexLock lock(&mu_);
    if (stopping_) {
      status = absl::UnavailableError("the coordinator is shutting down");
    } else if (jobs_.size() >= options_.max_waiting || !TakeToken()) {
      status = absl::ResourceExhaustedError("too many requests for certificates");
    } else {
      jobs_.push_back({std::move(request), std::move(done)});
      return;
    }
  }
  done(status);
}

bool Certifier::TakeToken() {
  const absl::Time now = options_.now();
  // A clock that was set back fills nothing.
  const double seconds = std::max(0.0, absl::ToDoubleSeconds(now - filled_at_));
  filled_at_ = now;
  tokens_ = std::min(options_.burst, tokens_ + seconds * options_.rate);
  if (tokens_ < 1) return false;
  tokens_ -= 1;
  return true;
}

void Certifier::Work() {
  while (true) {
    Job job;
    {
      absl::MutexLock lock(&mu_);
      const auto wake = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
        return stopping_ || !jobs_.empty();
      };
      mu_.Await(absl::Condition(&wake));
      if (stopping_) return;
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    job.done(CertifyNow(job.request));
  }
}

absl::StatusOr<v1::CertifyReply> Certifier::CertifyNow(const v1::CertifyRequest& request) const {
  absl::Status status = identity::CertificateAuthority::CheckRequest(request.signing_request());
  if (!status.ok()) return status;
  const absl::StatusOr<PodIdentity> pod = authenticator_->Review(request.token());
  if (!pod.ok()) return pod.status();
  const identity::PeerIdentity peer = {
      .ns = pod->ns, .deployment = pod->deployment, .role = pod->role, .pod_uid = pod->pod_uid};
  if (const auto parsed = identity::ParsePeerIdentity(peer.Uri()); !parsed.ok()) {
    return absl::InternalError(absl::StrCat(peer.Uri(), " is no name for a certificate"));
  }
  const absl::Time now = options_.now();
  const absl::StatusOr<identity::Certificate> certificate =
      authority_->Sign(request.signing_request(),
                       {.common_name = pod->pod_uid,
                        .uri = peer.Uri(),
                        .dns_names = {},
                        .ip_addresses = {pod->pod_ip}},
                       now, options_.validity);
  if (!certificate.ok()) return certificate.status();
  spdlog::info("certified {} at {}", peer.Uri(), pod->pod_ip);
  v1::CertifyReply reply;
  reply.set_certificate_chain_pem(certificate->chain_pem);
  reply.set_ca_bundle_pem(authority_->certificate_pem());
  reply.set_valid_seconds(absl::ToDoubleSeconds(certificate->not_after - now));
  return reply;
}

}  // namespace moe::coordinator
