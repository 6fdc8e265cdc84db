#include "identity/credentials.h"

#include <grpc/grpc_security_constants.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_certificate_verifier.h>
#include <grpcpp/security/tls_credentials_options.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <string_view>
#include <utility>
#include <vector>

#include "identity/peer_identity.h"

namespace moe::identity {
namespace {

namespace tls = grpc::experimental;

// The files are looked at this often.
constexpr unsigned kRefreshSeconds = 1;

std::string_view View(grpc::string_ref text) { return {text.data(), text.size()}; }

bool Names(const std::vector<grpc::string_ref>& names, grpc::string_ref name) {
  return std::any_of(names.begin(), names.end(),
                     [&](grpc::string_ref candidate) { return View(candidate) == View(name); });
}

// After the handshake, which has checked the chain: whether the server is the one that was meant.
// Our certificates have no wildcards, so names are compared as they are.
class ServerVerifier : public tls::ExternalCertificateVerifier {
 public:
  // `worker_of`: the deployment that the server must be a worker of; empty: any server.
  explicit ServerVerifier(std::string worker_of) : worker_of_(std::move(worker_of)) {}
  ~ServerVerifier() override = default;

  bool Verify(tls::TlsCustomVerificationCheckRequest* request,
              std::function<void(grpc::Status)> /*callback*/, grpc::Status* sync_status) override {
    if (!Names(request->dns_names(), request->target_name()) &&
        !Names(request->ip_names(), request->target_name())) {
      *sync_status = {grpc::StatusCode::UNAUTHENTICATED,
                      "the server's certificate is for another name"};
    } else if (!worker_of_.empty() && !IsWorker(request->uri_names())) {
      *sync_status = {grpc::StatusCode::UNAUTHENTICATED,
                      "the server is no worker of this deployment"};
    }
    return true;
  }
  void Cancel(tls::TlsCustomVerificationCheckRequest* /*request*/) override {}

 private:
  bool IsWorker(const std::vector<grpc::string_ref>& uris) const {
    if (uris.size() != 1) return false;
    const auto peer = ParsePeerIdentity(View(uris[0]));
    return peer.ok() && peer->role == Role::kWorker && peer->DeploymentName() == worker_of_;
  }

  const std::string worker_of_;
};

std::shared_ptr<tls::CertificateProviderInterface> Watch(const IdentityFiles& files) {
  return std::make_shared<tls::FileWatcherCertificateProvider>(files.key, files.certificate,
                                                               files.authority, kRefreshSeconds);
}

std::shared_ptr<grpc::ChannelCredentials> MakeVerifyingCredentials(
    std::shared_ptr<tls::CertificateProviderInterface> provider, bool has_certificate,
    std::string worker_of) {
  tls::TlsChannelCredentialsOptions options;
  options.set_certificate_provider(std::move(provider));
  options.watch_root_certs();
  if (has_certificate) options.watch_identity_key_cert_pairs();
  options.set_certificate_verifier(
      tls::ExternalCertificateVerifier::Create<ServerVerifier>(std::move(worker_of)));
  // For verifiers of gRPC's own; ours has looked at the name.
  options.set_check_call_host(false);
  return tls::TlsCredentials(options);
}

}  // namespace

std::shared_ptr<grpc::ServerCredentials> MakeServerCredentials(const IdentityFiles& files,
                                                               PeerCertificate client) {
  tls::TlsServerCredentialsOptions options(Watch(files));
  options.watch_root_certs();
  options.watch_identity_key_cert_pairs();
  options.set_cert_request_type(client == PeerCertificate::kRequired
                                    ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                                    : GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_AND_VERIFY);
  return tls::TlsServerCredentials(options);
}

std::shared_ptr<grpc::ChannelCredentials> MakeChannelCredentials(const IdentityFiles& files) {
  return MakeVerifyingCredentials(Watch(files), /*has_certificate=*/true, "");
}

std::shared_ptr<grpc::ChannelCredentials> MakeEngineChannelCredentials(const IdentityFiles& files,
                                                                       std::string deployment) {
  return MakeVerifyingCredentials(Watch(files), /*has_certificate=*/true, std::move(deployment));
}

std::shared_ptr<grpc::ChannelCredentials> MakeAnonymousChannelCredentials(
    const std::string& authority_file) {
  return MakeVerifyingCredentials(
      std::make_shared<tls::FileWatcherCertificateProvider>(authority_file, kRefreshSeconds),
      /*has_certificate=*/false, "");
}

void UseSystemResolver() { setenv("GRPC_DNS_RESOLVER", "native", /*overwrite=*/0); }

void SetTargetName(const std::string& name, grpc::ChannelArguments* arguments) {
  if (!name.empty()) arguments->SetSslTargetNameOverride(name);
}

}  // namespace moe::identity
