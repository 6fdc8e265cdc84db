#include "worker/exchange/tcp_listener.h"

#include <poll.h>

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "tests/worker/exchange/tcp_peer.h"

namespace moe::exchange {
namespace {

// One epoch that rank 2 of 3 joins, and who dials it.
class TcpListenerTest : public testing::Test {
 protected:
  void Start(const TcpListener::Limits& limits = {.handshake_deadline = absl::Minutes(2)}) {
    auto started = TcpListener::Start("127.0.0.1:0", limits);
    ASSERT_TRUE(started.ok()) << started.status();
    listener_ = *std::move(started);
    auto inbox = PeerInbox::Create();
    ASSERT_TRUE(inbox.ok()) << inbox.status();
    inbox_ = *std::move(inbox);
  }

  void Admit(uint64_t epoch) {
    listener_->Admit({.epoch = epoch,
                      .rank = 2,
                      .handshake = handshake_,
                      .awaited = {true, true, false},
                      .inbox = inbox_});
  }

  HandSocket Dial() const { return HandSocket::Dial(listener_->address()); }

  // Waits for the next arrival.
  std::vector<PeerInbox::Arrival> Arrivals() {
    pollfd wait{.fd = inbox_->event_fd(), .events = POLLIN, .revents = 0};
    poll(&wait, 1, 60 * 1000);
    return inbox_->TakeAll();
  }

  // Waits until so many connections were discarded.
  void AwaitDiscarded(uint64_t count) const {
    while (listener_->num_discarded() < count) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }

  const GroupShape shape_ = SmallShape(3, 2);
  const Handshake handshake_{Bytes32{3}, shape_};
  std::unique_ptr<TcpListener> listener_;
  std::shared_ptr<PeerInbox> inbox_;
};

TEST_F(TcpListenerTest, ARankThatProvesItselfComesInOnceWithWhatItSaysNext) {
  Start();
  Admit(5);
  const HandSocket rank = Dial();
  ASSERT_TRUE(rank.ShakeHands(handshake_, MakeHello(5, 1, 2, Bytes32{1})));
  rank.Write("frames");
  const auto arrivals = Arrivals();
  ASSERT_EQ(arrivals.size(), 1u);
  EXPECT_EQ(arrivals[0].rank, 1);
  const HandSocket inside(OwnedFd(dup(arrivals[0].socket.get())));
  std::string text(6, '\0');
  ASSERT_TRUE(inside.Read(text.data(), text.size()));
  EXPECT_EQ(text, "frames");
  // Nobody else comes in as this rank.
  EXPECT_FALSE(Dial().ShakeHands(handshake_, MakeHello(5, 1, 2, Bytes32{1})));
}

TEST_F(TcpListenerTest, ARankThatIsEarlyWaitsForItsEpoch) {
  Start();
  const HandSocket early = Dial();
  std::thread dialling(
      [&] { EXPECT_TRUE(early.ShakeHands(handshake_, MakeHello(5, 0, 2, Bytes32{1}))); });
  Admit(4);
  Admit(5);
  dialling.join();
  EXPECT_EQ(Arrivals().size(), 1u);
}

TEST_F(TcpListenerTest, StrangersAreTurnedAway) {
  Start();
  Admit(5);
  const Handshake wrong_secret(Bytes32{4}, shape_);
  struct Case {
    std::string what;
    std::function<void(const HandSocket&)> say;
  };
  uint64_t count = 0;
  for (const Case& c : std::vector<Case>{
           {"garbage", [](const HandSocket& s) { s.Write(std::string(1000, 'g')); }},
           {"HTTP",
            [](const HandSocket& s) {
              s.Write("GET / HTTP/1.1\r\nHost: worker\r\nUser-Agent: a scanner of ports\r\n\r\n");
            }},
           {"another secret",
            [&](const HandSocket& s) {
              s.ShakeHands(wrong_secret, MakeHello(5, 0, 2, Bytes32{1}));
            }},
           {"an epoch that is over",
            [&](const HandSocket& s) { s.ShakeHands(handshake_, MakeHello(4, 0, 2, Bytes32{1})); }},
           {"a word for another rank",
            [&](const HandSocket& s) { s.ShakeHands(handshake_, MakeHello(5, 0, 1, Bytes32{1})); }},
           {"a rank that dials nobody",
            [&](const HandSocket& s) { s.ShakeHands(handshake_, MakeHello(5, 2, 2, Bytes32{1})); }},
           {"a rank that is none",
            [&](const HandSocket& s) { s.ShakeHands(handshake_, MakeHello(5, 3, 2, Bytes32{1})); }},
           {"a negative rank", [&](const HandSocket& s) {
              s.ShakeHands(handshake_, MakeHello(5, -1, 2, Bytes32{1}));
            }}}) {
    const HandSocket stranger = Dial();
    c.say(stranger);
    EXPECT_TRUE(stranger.ReadsEnd()) << c.what;
    AwaitDiscarded(++count);
  }
  EXPECT_TRUE(inbox_->TakeAll().empty());
  // And a rank still comes in.
  ASSERT_TRUE(Dial().ShakeHands(handshake_, MakeHello(5, 0, 2, Bytes32{1})));
  EXPECT_EQ(Arrivals().size(), 1u);
}

TEST_F(TcpListenerTest, AReplayedHandshakeDoesNotComeIn) {
  Start();
  Admit(5);
  const HelloMessage hello = MakeHello(5, 0, 2, Bytes32{1});
  const HandSocket first = Dial();
  first.Write(&hello, sizeof(hello));
  ChallengeMessage challenge;
  ASSERT_TRUE(first.Read(&challenge, sizeof(challenge)));
  const ProofMessage proof = handshake_.Prove(hello, challenge);
  // What was said once is said again on another connection, before the first one proves itself.
  const HandSocket replay = Dial();
  replay.Write(&hello, sizeof(hello));
  ASSERT_TRUE(replay.Read(&challenge, sizeof(challenge)));
  replay.Write(&proof, sizeof(proof));
  EXPECT_TRUE(replay.ReadsEnd());
  EXPECT_TRUE(inbox_->TakeAll().empty());
  first.Write(&proof, sizeof(proof));
  EXPECT_EQ(Arrivals().size(), 1u);
}

TEST_F(TcpListenerTest, AfterCloseNobodyComesIn) {
  Start();
  Admit(5);
  const HandSocket rank = Dial();
  const HelloMessage hello = MakeHello(5, 0, 2, Bytes32{1});
  rank.Write(&hello, sizeof(hello));
  ChallengeMessage challenge;
  ASSERT_TRUE(rank.Read(&challenge, sizeof(challenge)));
  listener_->Close(4);  // another epoch: nothing
  listener_->Close(5);
  const ProofMessage proof = handshake_.Prove(hello, challenge);
  rank.Write(&proof, sizeof(proof));
  EXPECT_TRUE(rank.ReadsEnd());
  EXPECT_FALSE(Dial().ShakeHands(handshake_, hello));
}

TEST_F(TcpListenerTest, HalfOpenSlowAndEarlyConnectionsEndAtTheDeadline) {
  Start({.handshake_deadline = absl::Milliseconds(200)});
  const HandSocket silent = Dial();
  const HandSocket slow = Dial();
  slow.Write("MOE");
  const HandSocket early = Dial();
  const HelloMessage hello = MakeHello(5, 0, 2, Bytes32{1});
  early.Write(&hello, sizeof(hello));
  EXPECT_TRUE(silent.ReadsEnd());
  EXPECT_TRUE(slow.ReadsEnd());
  EXPECT_TRUE(early.ReadsEnd());
}

TEST_F(TcpListenerTest, AFloodOfStrangersLeavesRoomForARank) {
  Start({.max_pending = 16, .handshake_deadline = absl::Minutes(2)});
  Admit(5);
  std::vector<HandSocket> flood;
  for (int i = 0; i < 100; ++i) flood.push_back(Dial());
  AwaitDiscarded(100 - 16 - 2);
  const HandSocket rank = Dial();
  ASSERT_TRUE(rank.ShakeHands(handshake_, MakeHello(5, 0, 2, Bytes32{1})));
  EXPECT_EQ(Arrivals().size(), 1u);
}

TEST(TcpSocketTest, AddressesAreNumericWithAPort) {
  for (const char* address :
       {"", "7711", "localhost:7711", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536",
        "127.0.0.1:-1", ":7711", "::1:7711", "[::1]", "worker.example:7711"}) {
    EXPECT_EQ(TcpListener::Start(address).status().code(), absl::StatusCode::kInvalidArgument)
        << address;
    EXPECT_EQ(DialTcp(address).status().code(), absl::StatusCode::kInvalidArgument) << address;
  }
  auto listener = TcpListener::Start("127.0.0.1:0");
  ASSERT_TRUE(listener.ok()) << listener.status();
  EXPECT_EQ((*listener)->address().rfind("127.0.0.1:", 0), 0u);
  EXPECT_NE((*listener)->address(), "127.0.0.1:0");
  // No second one on the same port.
  EXPECT_EQ(TcpListener::Start((*listener)->address()).status().code(),
            absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace moe::exchange
