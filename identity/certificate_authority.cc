#include "identity/certificate_authority.h"

#include <openssl/pem.h>
#include <openssl/rand.h>

#include <algorithm>
#include <ctime>
#include <utility>

#include "absl/strings/str_cat.h"
#include "identity/openssl_handles.h"

namespace moe::identity {
namespace {

constexpr size_t kMaxRequestBytes = 4 << 10;
constexpr size_t kMaxPemBytes = 64 << 10;
constexpr size_t kMaxNames = 16;
constexpr size_t kMaxNameBytes = 512;
constexpr size_t kMaxCommonNameBytes = 64;  // X.520
constexpr absl::Duration kClockTolerance = absl::Minutes(5);

absl::StatusOr<RequestPtr> ParseRequest(std::string_view der) {
  if (der.empty() || der.size() > kMaxRequestBytes) {
    return absl::InvalidArgumentError("the signing request is empty or too long");
  }
  const auto* bytes = reinterpret_cast<const unsigned char*>(der.data());
  const unsigned char* end = bytes + der.size();
  RequestPtr request(d2i_X509_REQ(nullptr, &bytes, static_cast<long>(der.size())));
  if (request == nullptr || bytes != end) {
    ForgetOpensslErrors();
    return absl::InvalidArgumentError("the signing request is no PKCS #10");
  }
  EVP_PKEY* key = X509_REQ_get0_pubkey(request.get());
  if (!IsP256(key)) {
    ForgetOpensslErrors();
    return absl::InvalidArgumentError("the signing request's key is not ECDSA P-256");
  }
  if (X509_REQ_verify(request.get(), key) != 1) {
    ForgetOpensslErrors();
    return absl::InvalidArgumentError("the signing request is not signed with its own key");
  }
  return request;
}

absl::Status SetTimes(absl::Time not_before, absl::Time not_after, X509* certificate) {
  if (ASN1_TIME_set(X509_getm_notBefore(certificate), absl::ToTimeT(not_before)) == nullptr ||
      ASN1_TIME_set(X509_getm_notAfter(certificate), absl::ToTimeT(not_after)) == nullptr) {
    return OpensslError("cannot set the validity");
  }
  return absl::OkStatus();
}

absl::Status SetSerial(X509* certificate) {
  unsigned char bytes[16];
  if (RAND_bytes(bytes, sizeof(bytes)) != 1) return OpensslError("cannot draw a serial number");
  bytes[0] = static_cast<unsigned char>((bytes[0] & 0x7f) | 0x40);  // positive, of fixed length
  BIGNUM* number = BN_bin2bn(bytes, sizeof(bytes), nullptr);
  const bool ok = number != nullptr &&
                  BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate)) != nullptr;
  BN_free(number);
  return ok ? absl::OkStatus() : OpensslError("cannot set the serial number");
}

absl::Status SetCommonName(std::string_view name, X509_NAME* subject) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(name.data());
  if (X509_NAME_add_entry_by_NID(subject, NID_commonName, MBSTRING_UTF8, bytes,
                                 static_cast<int>(name.size()), -1, 0) != 1) {
    return OpensslError("cannot set the subject");
  }
  return absl::OkStatus();
}

absl::Status AddExtension(int nid, const char* value, X509* issuer, X509* certificate) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  const ExtensionPtr extension(X509V3_EXT_conf_nid(nullptr, &context, nid, value));
  if (extension == nullptr || X509_add_ext(certificate, extension.get(), -1) != 1) {
    return OpensslError(absl::StrCat("cannot add the extension ", value));
  }
  return absl::OkStatus();
}

GeneralNamePtr MakeTextName(int type, std::string_view text) {
  GeneralNamePtr name(GENERAL_NAME_new());
  ASN1_IA5STRING* value = ASN1_IA5STRING_new();
  if (name == nullptr || value == nullptr ||
      ASN1_STRING_set(value, text.data(), static_cast<int>(text.size())) != 1) {
    ASN1_IA5STRING_free(value);
    return nullptr;
  }
  GENERAL_NAME_set0_value(name.get(), type, value);
  return name;
}

GeneralNamePtr MakeIpName(const std::string& text) {
  GeneralNamePtr name(GENERAL_NAME_new());
  ASN1_OCTET_STRING* value = a2i_IPADDRESS(text.c_str());
  if (name == nullptr || value == nullptr) {
    ASN1_OCTET_STRING_free(value);
    return nullptr;
  }
  GENERAL_NAME_set0_value(name.get(), GEN_IPADD, value);
  return name;
}

bool IsPlainName(std::string_view name) {
  return !name.empty() && name.size() <= kMaxNameBytes &&
         std::all_of(name.begin(), name.end(), [](char c) { return c > ' ' && c < 0x7f; });
}

absl::Status AddAlternativeNames(const CertificateNames& names, X509* certificate) {
  if (names.dns_names.size() + names.ip_addresses.size() > kMaxNames) {
    return absl::InvalidArgumentError("too many names for a certificate");
  }
  const GeneralNamesPtr list(GENERAL_NAMES_new());
  if (list == nullptr) return OpensslError("cannot make names");
  const auto add = [&list](GeneralNamePtr name) {
    if (name == nullptr || sk_GENERAL_NAME_push(list.get(), name.get()) <= 0) return false;
    [[maybe_unused]] const GENERAL_NAME* const listed = name.release();  // the list owns it
    return true;
  };
  if (!names.uri.empty() && (!IsPlainName(names.uri) || !add(MakeTextName(GEN_URI, names.uri)))) {
    return absl::InvalidArgumentError("the URI is no name for a certificate");
  }
  for (const std::string& name : names.dns_names) {
    if (!IsPlainName(name) || !add(MakeTextName(GEN_DNS, name))) {
      return absl::InvalidArgumentError("a DNS name is no name for a certificate");
    }
  }
  for (const std::string& address : names.ip_addresses) {
    if (!add(MakeIpName(address))) {
      ForgetOpensslErrors();
      return absl::InvalidArgumentError(absl::StrCat("'", address, "' is no IP address"));
    }
  }
  if (sk_GENERAL_NAME_num(list.get()) == 0) {
    return absl::InvalidArgumentError("a certificate needs a name");
  }
  if (X509_add1_ext_i2d(certificate, NID_subject_alt_name, list.get(), 0, X509V3_ADD_DEFAULT) !=
      1) {
    return OpensslError("cannot add names");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ToPem(X509* certificate) {
  const BioPtr bio(BIO_new(BIO_s_mem()));
  if (bio == nullptr || PEM_write_bio_X509(bio.get(), certificate) != 1) {
    return OpensslError("cannot write a certificate");
  }
  return Written(bio.get());
}

absl::StatusOr<absl::Time> NotAfter(const X509* certificate) {
  std::tm time = {};
  if (ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &time) != 1) {
    return absl::InvalidArgumentError("the certificate's end is no time");
  }
  return absl::FromTM(time, absl::UTCTimeZone());
}

}  // namespace

struct CertificateAuthority::State {
  KeyPair key;
  X509Ptr certificate;
};

CertificateAuthority::CertificateAuthority(std::unique_ptr<State> state,
                                           std::string certificate_pem, absl::Time not_after)
    : state_(std::move(state)),
      certificate_pem_(std::move(certificate_pem)),
      not_after_(not_after) {}

CertificateAuthority::~CertificateAuthority() = default;

absl::StatusOr<std::unique_ptr<CertificateAuthority>> CertificateAuthority::Create(
    std::string_view common_name, absl::Time now, absl::Duration validity) {
  absl::StatusOr<KeyPair> key = KeyPair::Generate();
  if (!key.ok()) return key.status();
  X509Ptr certificate(X509_new());
  if (certificate == nullptr || X509_set_version(certificate.get(), X509_VERSION_3) != 1 ||
      X509_set_pubkey(certificate.get(), key->get()) != 1) {
    return OpensslError("cannot make a certificate");
  }
  X509* raw = certificate.get();
  absl::Status status = SetSerial(raw);
  status.Update(SetTimes(now - kClockTolerance, now + validity, raw));
  status.Update(SetCommonName(common_name, X509_get_subject_name(raw)));
  status.Update(SetCommonName(common_name, X509_get_issuer_name(raw)));
  status.Update(AddExtension(NID_basic_constraints, "critical,CA:TRUE,pathlen:0", raw, raw));
  status.Update(AddExtension(NID_key_usage, "critical,keyCertSign,cRLSign", raw, raw));
  status.Update(AddExtension(NID_subject_key_identifier, "hash", raw, raw));
  if (!status.ok()) return status;
  if (X509_sign(raw, key->get(), EVP_sha256()) == 0) return OpensslError("cannot sign");
  absl::StatusOr<std::string> pem = ToPem(raw);
  if (!pem.ok()) return pem.status();
  absl::StatusOr<std::string> key_pem = key->PrivatePem();
  if (!key_pem.ok()) return key_pem.status();
  return FromPem(*pem, *key_pem);
}

absl::StatusOr<std::unique_ptr<CertificateAuthority>> CertificateAuthority::FromPem(
    std::string_view certificate_pem, std::string_view key_pem) {
  if (certificate_pem.size() > kMaxPemBytes) {
    return absl::InvalidArgumentError("the authority's certificate is too long");
  }
  const BioPtr bio = ReadBio(certificate_pem);
  X509Ptr certificate(PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr));
  if (certificate == nullptr) {
    ForgetOpensslErrors();
    return absl::InvalidArgumentError("the authority's certificate is no PEM of one");
  }
  absl::StatusOr<KeyPair> key = KeyPair::FromPem(key_pem);
  if (!key.ok()) return key.status();
  if (X509_check_ca(certificate.get()) != 1 ||
      X509_check_private_key(certificate.get(), key->get()) != 1) {
    ForgetOpensslErrors();
    return absl::InvalidArgumentError("the certificate is not an authority's with this key");
  }
  absl::StatusOr<absl::Time> not_after = NotAfter(certificate.get());
  if (!not_after.ok()) return not_after.status();
  absl::StatusOr<std::string> pem = ToPem(certificate.get());
  if (!pem.ok()) return pem.status();
  auto state = std::make_unique<State>(State{*std::move(key), std::move(certificate)});
  return std::unique_ptr<CertificateAuthority>(
      new CertificateAuthority(std::move(state), *std::move(pem), *not_after));
}

absl::StatusOr<std::string> CertificateAuthority::key_pem() const {
  return state_->key.PrivatePem();
}

absl::Status CertificateAuthority::CheckRequest(std::string_view request_der) {
  return ParseRequest(request_der).status();
}

absl::StatusOr<Certificate> CertificateAuthority::Sign(std::string_view request_der,
                                                       const CertificateNames& names,
                                                       absl::Time now,
                                                       absl::Duration validity) const {
  const absl::StatusOr<RequestPtr> request = ParseRequest(request_der);
  if (!request.ok()) return request.status();
  if (names.common_name.empty() || names.common_name.size() > kMaxCommonNameBytes) {
    return absl::InvalidArgumentError("a common name has 1 to 64 bytes");
  }
  Certificate result;
  result.not_before = now - kClockTolerance;
  result.not_after = std::min(now + validity, not_after_);
  if (result.not_after <= now) {
    return absl::FailedPreconditionError("the authority's own certificate has expired");
  }
  const X509Ptr certificate(X509_new());
  X509* raw = certificate.get();
  X509* issuer = state_->certificate.get();
  if (raw == nullptr || X509_set_version(raw, X509_VERSION_3) != 1 ||
      X509_set_pubkey(raw, X509_REQ_get0_pubkey(request->get())) != 1 ||
      X509_set_issuer_name(raw, X509_get_subject_name(issuer)) != 1) {
    return OpensslError("cannot make a certificate");
  }
  absl::Status status = SetSerial(raw);
  status.Update(SetTimes(result.not_before, result.not_after, raw));
  status.Update(SetCommonName(names.common_name, X509_get_subject_name(raw)));
  status.Update(AddExtension(NID_basic_constraints, "critical,CA:FALSE", issuer, raw));
  status.Update(AddExtension(NID_key_usage, "critical,digitalSignature", issuer, raw));
  status.Update(AddExtension(NID_ext_key_usage, "serverAuth,clientAuth", issuer, raw));
  status.Update(AddExtension(NID_authority_key_identifier, "keyid:always", issuer, raw));
  status.Update(AddAlternativeNames(names, raw));
  if (!status.ok()) return status;
  if (X509_sign(raw, state_->key.get(), EVP_sha256()) == 0) return OpensslError("cannot sign");
  absl::StatusOr<std::string> pem = ToPem(raw);
  if (!pem.ok()) return pem.status();
  result.chain_pem = *std::move(pem);
  return result;
}

}  // namespace moe::identity
