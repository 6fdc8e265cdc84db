// How two ranks prove to each other, on a fresh connection, that they hold the secret of one epoch.
//
// The dialling rank sends Hello; the other answers with Challenge, which proves that it has the
// secret; the dialling rank proves the same with its Proof. Each proof is an HMAC-SHA256 over a
// label for its direction, both nonces, the epoch, both ranks and the group's shape: nothing can be
// replayed, reflected or used for another pair, epoch or shape, and the secret never travels. It
// keeps strangers and ranks of other epochs out; it does not encrypt, and relies on the network for
// what happens on a connection after that.
//
// Pure but for drawing nonces. Tested by tests/worker/exchange/tcp_handshake_test.cc.
#ifndef MOE_WORKER_EXCHANGE_TCP_HANDSHAKE_H_
#define MOE_WORKER_EXCHANGE_TCP_HANDSHAKE_H_

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/exchange/exchange.h"

namespace moe::exchange {

using Bytes32 = std::array<uint8_t, 32>;

// From the system's generator. Internal if it has nothing to give.
absl::StatusOr<Bytes32> DrawBytes32();

// SHA-256 of everything that ranks must agree on.
Bytes32 DigestOfShape(const GroupShape& shape);

// What rank 0 gives to the others through the coordinator. A secret.
std::string MakeTcpBootstrap(const Bytes32& secret, uint64_t epoch, const GroupShape& shape);
// The secret in it. InvalidArgument: not a bootstrap; FailedPrecondition: of another epoch or
// shape. No message holds any of it.
absl::StatusOr<Bytes32> ParseTcpBootstrap(std::string_view bootstrap, uint64_t epoch,
                                          const GroupShape& shape);

// The messages, as they travel.
struct HelloMessage {
  std::array<char, 8> magic{};
  uint64_t epoch = 0;
  int32_t from = 0;  // the rank that dials
  int32_t to = 0;
  Bytes32 nonce{};
};
struct ChallengeMessage {
  Bytes32 nonce{};
  Bytes32 proof{};
};
struct ProofMessage {
  Bytes32 proof{};
};
static_assert(sizeof(HelloMessage) == 56 && sizeof(ChallengeMessage) == 64 &&
              sizeof(ProofMessage) == 32);

HelloMessage MakeHello(uint64_t epoch, int from, int to, const Bytes32& nonce);
// Whether this is a Hello at all, of any epoch and ranks.
bool IsHello(const HelloMessage& hello);

// Both ends of the handshake of one epoch in one rank. Immutable.
class Handshake {
 public:
  Handshake(const Bytes32& secret, const GroupShape& shape)
      : secret_(secret), shape_digest_(DigestOfShape(shape)) {}

  // The accepting rank; `nonce` is fresh.
  ChallengeMessage Challenge(const HelloMessage& hello, const Bytes32& nonce) const;
  bool IsProven(const HelloMessage& hello, const Bytes32& challenge_nonce,
                const ProofMessage& proof) const;

  // The dialling rank.
  bool IsProven(const HelloMessage& hello, const ChallengeMessage& challenge) const;
  ProofMessage Prove(const HelloMessage& hello, const ChallengeMessage& challenge) const;

 private:
  Bytes32 Authenticate(std::string_view label, const HelloMessage& hello,
                       const Bytes32& challenge_nonce) const;

  Bytes32 secret_;
  Bytes32 shape_digest_;
};

}  // namespace moe::exchange

#endif  // MOE_WORKER_EXCHANGE_TCP_HANDSHAKE_H_
