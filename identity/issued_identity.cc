#include "identity/issued_identity.h"

#include <utility>

#include "absl/time/clock.h"
#include "identity/key_pair.h"
#include "spdlog/spdlog.h"

namespace moe::identity {

absl::StatusOr<std::unique_ptr<IssuedIdentity>> IssuedIdentity::Start(
    std::shared_ptr<const CertificateAuthority> authority, CertificateNames names,
    const std::string& folder, absl::Duration validity) {
  if (absl::Status status = MakePrivateFolder(folder); !status.ok()) return status;
  const IdentityFiles files = IdentityFiles::In(folder);
  absl::StatusOr<KeyPair> key = KeyPair::Generate();
  if (!key.ok()) return key.status();
  absl::StatusOr<std::string> signing_request = key->SigningRequest();
  if (!signing_request.ok()) return signing_request.status();
  absl::StatusOr<std::string> pem = key->PrivatePem();
  if (!pem.ok()) return pem.status();
  absl::Status status = WritePrivateFile(files.key, *pem);
  if (status.ok()) status = WritePrivateFile(files.authority, authority->certificate_pem());
  if (!status.ok()) return status;
  std::unique_ptr<IssuedIdentity> identity(new IssuedIdentity(
      std::move(authority), std::move(names), files, *std::move(signing_request), validity));
  if (status = identity->Renew(); !status.ok()) return status;
  identity->thread_ = std::thread([raw = identity.get()] { raw->Run(); });
  return identity;
}

IssuedIdentity::IssuedIdentity(std::shared_ptr<const CertificateAuthority> authority,
                               CertificateNames names, IdentityFiles files,
                               std::string signing_request, absl::Duration validity)
    : authority_(std::move(authority)),
      names_(std::move(names)),
      files_(std::move(files)),
      signing_request_(std::move(signing_request)),
      validity_(validity) {}

IssuedIdentity::~IssuedIdentity() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

absl::Status IssuedIdentity::Renew() {
  absl::StatusOr<Certificate> certificate =
      authority_->Sign(signing_request_, names_, absl::Now(), validity_);
  if (!certificate.ok()) return certificate.status();
  return WritePrivateFile(files_.certificate, certificate->chain_pem);
}

void IssuedIdentity::Run() {
  absl::MutexLock lock(&mu_);
  // A renewal that fails (a full disk) has half of the life left to be repeated in.
  while (!mu_.AwaitWithTimeout(absl::Condition(&stopping_), validity_ / 2)) {
    absl::Status status = Renew();
    while (!status.ok() && !stopping_) {
      spdlog::error("cannot renew the own certificate: {}", std::string(status.message()));
      mu_.AwaitWithTimeout(absl::Condition(&stopping_), validity_ / 100);
      if (!stopping_) status = Renew();
    }
  }
}

}  // namespace moe::identity
