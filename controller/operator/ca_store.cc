#include "controller/operator/ca_store.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "controller/kube/resource_types.h"
#include "controller/manifests/names.h"

namespace moe::controller {
namespace {

using identity::CertificateAuthority;
using kube::Json;

constexpr char kCertificateKey[] = "ca.crt";
constexpr char kPrivateKey[] = "ca.key";

// Messages name the key of the Secret and never what it holds.
absl::StatusOr<std::string> Decode(const Json& secret, const char* key) {
  const Json::json_pointer data("/data");
  std::string text;
  if (!secret.contains(data) || !secret[data].contains(key) || !secret[data][key].is_string() ||
      !absl::Base64Unescape(secret[data][key].get<std::string>(), &text)) {
    return absl::DataLossError(absl::StrCat("Secret ", manifests::kCaName, " has no ", key));
  }
  return text;
}

absl::StatusOr<std::unique_ptr<CertificateAuthority>> Parse(const Json& secret) {
  const absl::StatusOr<std::string> certificate = Decode(secret, kCertificateKey);
  if (!certificate.ok()) return certificate.status();
  const absl::StatusOr<std::string> key = Decode(secret, kPrivateKey);
  if (!key.ok()) return key.status();
  auto authority = CertificateAuthority::FromPem(*certificate, *key);
  if (!authority.ok()) {
    return absl::DataLossError(
        absl::StrCat("Secret ", manifests::kCaName, ": ", authority.status().message()));
  }
  return authority;
}

}  // namespace

absl::StatusOr<std::unique_ptr<CertificateAuthority>> ReadOrCreateCa(
    kube::Api* api, const std::string& operator_namespace, absl::Time now) {
  const kube::ObjectKey key{operator_namespace, manifests::kCaName};
  absl::StatusOr<Json> secret = api->Get(kube::kSecrets, key);
  if (absl::IsNotFound(secret.status())) {
    auto authority = CertificateAuthority::Create("moe-operator", now);
    if (!authority.ok()) return authority.status();
    const absl::StatusOr<std::string> key_pem = (*authority)->key_pem();
    if (!key_pem.ok()) return key_pem.status();
    secret =
        api->Create(kube::kSecrets, operator_namespace,
                    Json{{"apiVersion", kube::kSecrets.ApiVersion()},
                         {"kind", kube::kSecrets.kind},
                         {"metadata",
                          {{"name", manifests::kCaName},
                           {"namespace", operator_namespace},
                           {"labels",
                            {{manifests::kLabelName, manifests::kProduct},
                             {manifests::kLabelManagedBy, manifests::kProduct}}}}},
                         {"type", "Opaque"},
                         {"data",
                          {{kCertificateKey, absl::Base64Escape((*authority)->certificate_pem())},
                           {kPrivateKey, absl::Base64Escape(*key_pem)}}}});
    // The other controller was faster, or an answer was lost: what is stored counts.
    if (absl::IsAlreadyExists(secret.status())) secret = api->Get(kube::kSecrets, key);
  }
  if (!secret.ok()) return secret.status();
  return Parse(*secret);
}

}  // namespace moe::controller
