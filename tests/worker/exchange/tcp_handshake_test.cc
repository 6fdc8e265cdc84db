#include "worker/exchange/tcp_handshake.h"

#include <functional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "gtest/gtest.h"
#include "tests/worker/exchange/fake_group.h"

namespace moe::exchange {
namespace {

const Bytes32 kSecret = {1, 2, 3};
const Bytes32 kDialNonce = {4};
const Bytes32 kAcceptNonce = {5};

TEST(TcpHandshakeTest, RanksThatShareASecretProveItToEachOther) {
  const GroupShape shape = SmallShape(3, 1);
  const Handshake dialling(kSecret, shape);
  const Handshake accepting(kSecret, shape);
  const HelloMessage hello = MakeHello(9, 0, 2, kDialNonce);
  EXPECT_TRUE(IsHello(hello));
  const ChallengeMessage challenge = accepting.Challenge(hello, kAcceptNonce);
  EXPECT_TRUE(dialling.IsProven(hello, challenge));
  EXPECT_TRUE(accepting.IsProven(hello, kAcceptNonce, dialling.Prove(hello, challenge)));
}

TEST(TcpHandshakeTest, NoProofHoldsForAnythingElse) {
  const GroupShape shape = SmallShape(3, 1);
  const Handshake handshake(kSecret, shape);
  const HelloMessage hello = MakeHello(9, 0, 2, kDialNonce);
  const ChallengeMessage challenge = handshake.Challenge(hello, kAcceptNonce);
  const ProofMessage proof = handshake.Prove(hello, challenge);

  GroupShape other_shape = shape;
  other_shape.rank_of_expert = {0, 2, 1};
  struct Case {
    std::string what;
    Handshake handshake;
    HelloMessage hello;
    Bytes32 nonce;
  };
  for (const Case& c : std::vector<Case>{
           {"another secret", Handshake(Bytes32{1, 2, 4}, shape), hello, kAcceptNonce},
           {"another shape", Handshake(kSecret, other_shape), hello, kAcceptNonce},
           {"another epoch", handshake, MakeHello(10, 0, 2, kDialNonce), kAcceptNonce},
           {"another dialling rank", handshake, MakeHello(9, 1, 2, kDialNonce), kAcceptNonce},
           {"another accepting rank", handshake, MakeHello(9, 0, 1, kDialNonce), kAcceptNonce},
           {"a replay against a new nonce of the dialling rank", handshake,
            MakeHello(9, 0, 2, Bytes32{6}), kAcceptNonce},
           {"a replay against a new nonce of the accepting rank", handshake, hello, Bytes32{7}}}) {
    EXPECT_FALSE(c.handshake.IsProven(c.hello, c.nonce, proof)) << c.what;
    EXPECT_FALSE(
        c.handshake.IsProven(c.hello, ChallengeMessage{.nonce = c.nonce, .proof = challenge.proof}))
        << c.what;
  }
  // Each direction has its own label: a challenge that is sent back proves nothing.
  EXPECT_FALSE(handshake.IsProven(hello, kAcceptNonce, ProofMessage{challenge.proof}));
  EXPECT_FALSE(handshake.IsProven(hello, ChallengeMessage{kAcceptNonce, proof.proof}));
}

TEST(TcpHandshakeTest, ABootstrapOpensItsOwnEpochAndShapeOnly) {
  const GroupShape shape = SmallShape(3, 1);
  GroupShape other_shape = shape;
  other_shape.hidden = 8;
  const std::string bootstrap = MakeTcpBootstrap(kSecret, 9, shape);
  const auto secret = ParseTcpBootstrap(bootstrap, 9, shape);
  ASSERT_TRUE(secret.ok()) << secret.status();
  EXPECT_EQ(*secret, kSecret);
  const std::string hex = bootstrap.substr(bootstrap.rfind(':') + 1);
  EXPECT_EQ(hex.size(), 64u);

  struct Case {
    std::string bootstrap;
    uint64_t epoch;
    GroupShape shape;
    absl::StatusCode code;
  };
  const absl::StatusCode invalid = absl::StatusCode::kInvalidArgument;
  const absl::StatusCode other = absl::StatusCode::kFailedPrecondition;
  for (const Case& c :
       std::vector<Case>{{bootstrap, 8, shape, other},
                         {bootstrap, 9, other_shape, other},
                         {"", 9, shape, invalid},
                         {"moe-shm-2:1:2:00", 9, shape, invalid},
                         {bootstrap + "0", 9, shape, invalid},
                         {bootstrap + ":", 9, shape, invalid},
                         {"x" + bootstrap, 9, shape, invalid},
                         {bootstrap.substr(0, bootstrap.size() - 1) + "x", 9, shape, invalid},
                         {std::string(100000, 'a'), 9, shape, invalid}}) {
    const absl::Status status = ParseTcpBootstrap(c.bootstrap, c.epoch, c.shape).status();
    EXPECT_EQ(status.code(), c.code) << c.bootstrap.substr(0, 20);
    EXPECT_FALSE(absl::StrContains(status.ToString(), hex.substr(0, 60)));
  }
}

TEST(TcpHandshakeTest, NoncesDiffer) {
  const auto a = DrawBytes32();
  const auto b = DrawBytes32();
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_NE(*a, *b);
}

}  // namespace
}  // namespace moe::exchange
