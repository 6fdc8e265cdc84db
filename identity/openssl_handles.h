// Owners of OpenSSL's objects, and its errors as a status. Private to this folder.
#ifndef MOE_IDENTITY_OPENSSL_HANDLES_H_
#define MOE_IDENTITY_OPENSSL_HANDLES_H_

#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace moe::identity {

template <auto kFree>
struct OpensslDeleter {
  template <typename T>
  void operator()(T* object) const {
    kFree(object);
  }
};

using BioPtr = std::unique_ptr<BIO, OpensslDeleter<BIO_free_all>>;
using ExtensionPtr = std::unique_ptr<X509_EXTENSION, OpensslDeleter<X509_EXTENSION_free>>;
using GeneralNamePtr = std::unique_ptr<GENERAL_NAME, OpensslDeleter<GENERAL_NAME_free>>;
using GeneralNamesPtr = std::unique_ptr<GENERAL_NAMES, OpensslDeleter<GENERAL_NAMES_free>>;
using KeyPtr = std::unique_ptr<EVP_PKEY, OpensslDeleter<EVP_PKEY_free>>;
using RequestPtr = std::unique_ptr<X509_REQ, OpensslDeleter<X509_REQ_free>>;
using X509Ptr = std::unique_ptr<X509, OpensslDeleter<X509_free>>;

// Internal, with OpenSSL's first error of this thread; empties its queue. For what can only fail
// for want of memory or by a mistake of ours.
absl::Status OpensslError(absl::string_view what);
// Forgets the errors of this thread; for failures that the caller explains itself.
void ForgetOpensslErrors();

// A memory BIO over `text`, which must outlive it.
BioPtr ReadBio(std::string_view text);
// What was written to a memory BIO.
std::string Written(BIO* bio);

}  // namespace moe::identity

#endif  // MOE_IDENTITY_OPENSSL_HANDLES_H_
