#include "worker/exchange/tcp_handshake.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/sha.h>
#include <sys/random.h>

#include <cstring>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace moe::exchange {
namespace {

constexpr std::array<char, 8> kHelloMagic = {'M', 'O', 'E', '-', 'T', 'C', 'P', '1'};
constexpr absl::string_view kBootstrapTag = "moe-tcp-1";
constexpr std::string_view kAcceptLabel = "moe-tcp-1 accepting rank";
constexpr std::string_view kDialLabel = "moe-tcp-1 dialling rank";

template <typename T>
void Append(const T& value, std::vector<uint8_t>* bytes) {
  const auto* begin = reinterpret_cast<const uint8_t*>(&value);
  bytes->insert(bytes->end(), begin, begin + sizeof(value));
}

bool Same(const Bytes32& a, const Bytes32& b) {
  return CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

std::string Hex(const Bytes32& bytes) {
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

}  // namespace

absl::StatusOr<Bytes32> DrawBytes32() {
  Bytes32 bytes;
  // Up to 256 bytes come whole, and are not interrupted by signals.
  if (getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
    return absl::InternalError("the system gives no random bytes");
  }
  return bytes;
}

Bytes32 DigestOfShape(const GroupShape& shape) {
  std::vector<uint8_t> bytes;
  for (const int32_t value :
       {shape.num_ranks, shape.replicated ? 0 : shape.num_attention_ranks, shape.replicated ? 1 : 0,
        shape.num_layers, shape.num_experts, shape.hidden, shape.top_k, shape.max_rows}) {
    Append(value, &bytes);
  }
  for (const int32_t rank : shape.rank_of_expert) Append(rank, &bytes);
  Bytes32 digest;
  SHA256(bytes.data(), bytes.size(), digest.data());
  return digest;
}

std::string MakeTcpBootstrap(const Bytes32& secret, uint64_t epoch, const GroupShape& shape) {
  return absl::StrCat(kBootstrapTag, ":", epoch, ":", Hex(DigestOfShape(shape)), ":", Hex(secret));
}

absl::StatusOr<Bytes32> ParseTcpBootstrap(std::string_view bootstrap, uint64_t epoch,
                                          const GroupShape& shape) {
  absl::Status error = absl::InvalidArgumentError("this is not the bootstrap of a Tcp exchange");
  if (bootstrap.size() > 256) return error;
  const std::vector<std::string> parts =
      absl::StrSplit(absl::string_view(bootstrap.data(), bootstrap.size()), ':');
  uint64_t found_epoch = 0;
  std::string secret;
  if (parts.size() != 4 || parts[0] != kBootstrapTag || !absl::SimpleAtoi(parts[1], &found_epoch) ||
      parts[2].size() != 64 || parts[3].size() != 64 ||
      !absl::HexStringToBytes(parts[3], &secret)) {
    return error;
  }
  if (found_epoch != epoch) {
    return absl::FailedPreconditionError(
        absl::StrCat("the bootstrap is of epoch ", found_epoch, ", not ", epoch));
  }
  if (parts[2] != Hex(DigestOfShape(shape))) {
    return absl::FailedPreconditionError("the bootstrap is for a group of another shape");
  }
  Bytes32 bytes;
  std::memcpy(bytes.data(), secret.data(), bytes.size());
  return bytes;
}

HelloMessage MakeHello(uint64_t epoch, int from, int to, const Bytes32& nonce) {
  return {.magic = kHelloMagic, .epoch = epoch, .from = from, .to = to, .nonce = nonce};
}

bool IsHello(const HelloMessage& hello) { return hello.magic == kHelloMagic; }

Bytes32 Handshake::Authenticate(std::string_view label, const HelloMessage& hello,
                                const Bytes32& challenge_nonce) const {
  std::vector<uint8_t> text(label.begin(), label.end());
  Append(hello, &text);
  Append(challenge_nonce, &text);
  Append(shape_digest_, &text);
  Bytes32 code;
  HMAC(EVP_sha256(), secret_.data(), static_cast<int>(secret_.size()), text.data(), text.size(),
       code.data(), nullptr);
  return code;
}

ChallengeMessage Handshake::Challenge(const HelloMessage& hello, const Bytes32& nonce) const {
  return {.nonce = nonce, .proof = Authenticate(kAcceptLabel, hello, nonce)};
}

bool Handshake::IsProven(const HelloMessage& hello, const Bytes32& challenge_nonce,
                         const ProofMessage& proof) const {
  return Same(proof.proof, Authenticate(kDialLabel, hello, challenge_nonce));
}

bool Handshake::IsProven(const HelloMessage& hello, const ChallengeMessage& challenge) const {
  return Same(challenge.proof, Authenticate(kAcceptLabel, hello, challenge.nonce));
}

ProofMessage Handshake::Prove(const HelloMessage& hello, const ChallengeMessage& challenge) const {
  return {.proof = Authenticate(kDialLabel, hello, challenge.nonce)};
}

}  // namespace moe::exchange
