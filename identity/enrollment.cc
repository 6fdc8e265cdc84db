#include "identity/enrollment.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/random/random.h"
#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "identity/coordinator_route.h"
#include "identity/credentials.h"
#include "identity/key_pair.h"
#include "proto/coordinator.grpc.pb.h"
#include "spdlog/spdlog.h"

namespace moe::identity {
namespace {

using coordinator::v1::CertifyReply;
using coordinator::v1::CertifyRequest;
using coordinator::v1::Coordinator;

constexpr size_t kMaxTokenBytes = 16 << 10;

}  // namespace

class Enrollment::Impl {
 public:
  Impl(EnrollmentOptions options, KeyPair key, std::string signing_request)
      : options_(std::move(options)),
        files_(IdentityFiles::In(options_.identity_dir)),
        key_(std::move(key)),
        signing_request_(std::move(signing_request)),
        credentials_(MakeAnonymousChannelCredentials(options_.ca_file)),
        route_(options_.coordinator) {}

  ~Impl() { Stop(); }

  void StartThread() {
    thread_ = std::thread([this] { Run(); });
  }

  bool WaitForCertificate() {
    absl::MutexLock lock(&mu_);
    const auto over = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
      return has_certificate_ || stopping_;
    };
    mu_.Await(absl::Condition(&over));
    return has_certificate_;
  }

  void Stop() {
    {
      absl::MutexLock lock(&mu_);
      stopping_ = true;
      if (call_ != nullptr) call_->TryCancel();
    }
    absl::MutexLock lock(&join_mu_);
    if (thread_.joinable()) thread_.join();
  }

  const IdentityFiles& files() const { return files_; }

 private:
  void Run() {
    absl::BitGen random;
    absl::Duration pause = options_.first_retry;
    bool enrolled = false;
    while (true) {
      absl::StatusOr<absl::Duration> validity = Enroll();
      absl::Duration wait;
      if (validity.ok()) {
        pause = options_.first_retry;
        enrolled = true;
        wait = *validity / 2;
      } else {
        // Many processes may have lost the same coordinator at once.
        wait = pause * absl::Uniform(random, 0.5, 1.0);
        pause = std::min(2 * pause, enrolled ? options_.max_renewal_retry : options_.max_retry);
      }
      absl::MutexLock lock(&mu_);
      if (validity.ok()) has_certificate_ = true;
      if (!validity.ok() && !stopping_) {
        spdlog::warn("no certificate from the coordinator yet: {}",
                     std::string(validity.status().message()));
      }
      mu_.AwaitWithTimeout(absl::Condition(&stopping_), wait);
      if (stopping_) return;
    }
  }

  // How long the new certificate is valid.
  absl::StatusOr<absl::Duration> Enroll() {
    absl::StatusOr<std::string> token = ReadSmallFile(options_.token_file, kMaxTokenBytes);
    if (!token.ok()) return token.status();
    CertifyRequest request;
    request.set_token(std::string(absl::StripAsciiWhitespace(*token)));
    request.set_signing_request(signing_request_);
    absl::StatusOr<CertifyReply> reply = Call(request);
    if (!reply.ok()) return reply.status();
    if (reply->certificate_chain_pem().empty() || reply->ca_bundle_pem().empty() ||
        !(reply->valid_seconds() > 0)) {
      return absl::InternalError("the coordinator's answer has no certificate");
    }
    // The key is first, so that a reader that finds a certificate finds its key; it stays the same
    // when the certificate is renewed, so that the two always fit.
    if (!key_written_) {
      absl::StatusOr<std::string> pem = key_.PrivatePem();
      if (!pem.ok()) return pem.status();
      if (absl::Status status = WritePrivateFile(files_.key, *pem); !status.ok()) return status;
      key_written_ = true;
    }
    absl::Status status = WritePrivateFile(files_.authority, reply->ca_bundle_pem());
    if (status.ok()) status = WritePrivateFile(files_.certificate, reply->certificate_chain_pem());
    if (!status.ok()) return status;
    return absl::Seconds(reply->valid_seconds());
  }

  absl::StatusOr<CertifyReply> Call(const CertifyRequest& request) {
    grpc::ChannelArguments arguments;
    SetTargetName(route_.target_name(), &arguments);
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    // A connection of its own: the next attempt begins with a new one.
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    const auto stub =
        Coordinator::NewStub(grpc::CreateCustomChannel(route_.address(), credentials_, arguments));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() +
                         absl::ToChronoMicroseconds(options_.call_deadline));
    {
      absl::MutexLock lock(&mu_);
      if (stopping_) return absl::CancelledError("stopping");
      call_ = &context;
    }
    CertifyReply reply;
    const grpc::Status status = stub->Certify(&context, request, &reply);
    {
      absl::MutexLock lock(&mu_);
      call_ = nullptr;
    }
    route_.OnCallEnd(context, status);
    if (!status.ok()) {
      return absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                          status.error_message());
    }
    return reply;
  }

  const EnrollmentOptions options_;
  const IdentityFiles files_;
  const KeyPair key_;
  const std::string signing_request_;
  const std::shared_ptr<grpc::ChannelCredentials> credentials_;
  CoordinatorRoute route_;
  bool key_written_ = false;  // of the thread

  absl::Mutex join_mu_;  // of Stop, for its callers
  std::thread thread_;

  absl::Mutex mu_;
  grpc::ClientContext* call_ ABSL_GUARDED_BY(mu_) = nullptr;  // under way
  bool has_certificate_ ABSL_GUARDED_BY(mu_) = false;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
};

absl::StatusOr<std::unique_ptr<Enrollment>> Enrollment::Start(EnrollmentOptions options) {
  if (absl::Status status = MakePrivateFolder(options.identity_dir); !status.ok()) return status;
  absl::StatusOr<KeyPair> key = KeyPair::Generate();
  if (!key.ok()) return key.status();
  absl::StatusOr<std::string> signing_request = key->SigningRequest();
  if (!signing_request.ok()) return signing_request.status();
  auto impl =
      std::make_unique<Impl>(std::move(options), *std::move(key), *std::move(signing_request));
  impl->StartThread();
  return std::unique_ptr<Enrollment>(new Enrollment(std::move(impl)));
}

Enrollment::Enrollment(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Enrollment::~Enrollment() = default;

bool Enrollment::WaitForCertificate() { return impl_->WaitForCertificate(); }
void Enrollment::Stop() { impl_->Stop(); }
const IdentityFiles& Enrollment::files() const { return impl_->files(); }

}  // namespace moe::identity
