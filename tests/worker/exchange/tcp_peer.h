// A rank played by hand over a socket, to do what no rank does.
#ifndef MOE_TESTS_WORKER_EXCHANGE_TCP_PEER_H_
#define MOE_TESTS_WORKER_EXCHANGE_TCP_PEER_H_

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/worker/exchange/fake_group.h"
#include "worker/exchange/tcp.h"
#include "worker/exchange/tcp_frame.h"
#include "worker/exchange/tcp_handshake.h"
#include "worker/exchange/tcp_listener.h"
#include "worker/exchange/tcp_socket.h"

namespace moe::exchange {

inline constexpr uint64_t kPeerEpoch = 7;

// A blocking socket whose reads end after a while, so that a test fails instead of hanging.
class HandSocket {
 public:
  explicit HandSocket(OwnedFd fd) : fd_(std::move(fd)) {
    fcntl(fd_.get(), F_SETFL, 0);
    const timeval patience{.tv_sec = 60, .tv_usec = 0};
    setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  }
  static HandSocket Dial(const std::string& address) {
    auto fd = DialTcp(address);
    EXPECT_TRUE(fd.ok()) << fd.status();
    pollfd wait{.fd = fd->get(), .events = POLLOUT, .revents = 0};
    poll(&wait, 1, 60 * 1000);
    return HandSocket(*std::move(fd));
  }

  // Whatever the other end thinks of it.
  void Write(const void* data, size_t size) const {
    static_cast<void>(!send(fd_.get(), data, size, MSG_NOSIGNAL));
  }
  void Write(const std::string& bytes) const { Write(bytes.data(), bytes.size()); }
  // Whether so much came.
  bool Read(void* data, size_t size) const {
    return recv(fd_.get(), data, size, MSG_WAITALL) == static_cast<ssize_t>(size);
  }
  // Waits for the other end to close; false if it sends something.
  bool ReadsEnd() const {
    char byte = 0;
    return recv(fd_.get(), &byte, 1, 0) <= 0;
  }
  void Close() { fd_.Reset(); }
  int fd() const { return fd_.get(); }

  // The dialling side of a handshake; false if the other side ended it.
  bool ShakeHands(const Handshake& handshake, const HelloMessage& hello) const {
    Write(&hello, sizeof(hello));
    ChallengeMessage challenge;
    if (!Read(&challenge, sizeof(challenge))) return false;
    const ProofMessage proof = handshake.Prove(hello, challenge);
    Write(&proof, sizeof(proof));
    return true;
  }

  FrameHeader ReadFrame(std::string* body = nullptr) const {
    FrameHeader header;
    EXPECT_TRUE(Read(&header, sizeof(header)));
    std::string bytes(header.num_bytes, '\0');
    EXPECT_TRUE(bytes.empty() || Read(bytes.data(), bytes.size()));
    if (body != nullptr) *body = bytes;
    return header;
  }

 private:
  OwnedFd fd_;
};

inline std::string FrameBytes(const FrameHeader& header, const std::string& body = "") {
  std::string bytes(reinterpret_cast<const char*>(&header), sizeof(header));
  return bytes + body;
}

inline FrameHeader SizedFrame(FrameType type, size_t num_bytes, uint64_t step = 0, int layer = 0) {
  FrameHeader header = MakeFrame(type, kPeerEpoch, step, layer);
  header.num_bytes = num_bytes;
  return header;
}

// A good dispatch for rank 1 of SmallShape(2, 1): two rows for its expert.
inline FrameHeader GoodDispatch(const GroupShape& shape, uint64_t step, int layer,
                                std::string* body) {
  FrameHeader header = MakeFrame(FrameType::kDispatch, kPeerEpoch, step, layer);
  header.num_rows = 2;
  header.num_pairs = 2;
  const std::vector<WirePair> pairs = {{1, 0}, {1, 1}};
  body->assign(PairBytes(2) + RowBytes(shape, 2), 'x');
  std::memcpy(body->data(), pairs.data(), pairs.size() * sizeof(WirePair));
  header.num_bytes = body->size();
  return header;
}

// Rank 1 of SmallShape(2, 1) is real and waits for a plan; rank 0, which leads and owns the rows,
// is a socket in the hands of the test.
struct HandledByLeader {
  HandledByLeader() : shape(SmallShape(2, 1)), experts(shape, 1) {
    auto started = TcpListener::Start("127.0.0.1:0");
    EXPECT_TRUE(started.ok()) << started.status();
    listener = *std::move(started);
    const Bytes32 secret{42};
    const TcpOptions options{.listener = listener.get(),
                             .addresses = {"127.0.0.1:1", listener->address()},
                             .step_deadline = absl::Minutes(1),
                             .join_deadline = absl::Minutes(1)};
    auto opened = TcpGroup::Open(MakeTcpBootstrap(secret, kPeerEpoch, shape), shape, kPeerEpoch, 1,
                                 &experts, options);
    EXPECT_TRUE(opened.ok()) << opened.status();
    group = *std::move(opened);
    thread = std::thread([this] {
      outcome = group->Connect();
      if (outcome.ok()) connected = true;
      while (outcome.ok()) {
        const auto plan = group->ReceivePlan();
        outcome = plan.ok() ? group->SendResult(plan->step, "done") : plan.status();
      }
    });
    leader = std::make_unique<HandSocket>(HandSocket::Dial(listener->address()));
    EXPECT_TRUE(
        leader->ShakeHands(Handshake(secret, shape), MakeHello(kPeerEpoch, 0, 1, Bytes32{1})));
  }
  ~HandledByLeader() { static_cast<void>(Finish()); }

  // The canary, its echo and the start.
  void Join() const {
    const size_t bytes = RowBytes(shape, 1);
    leader->Write(FrameBytes(SizedFrame(FrameType::kCanary, bytes), std::string(bytes, 'c')));
    // Its echo and its word that it is ready, in either order.
    leader->ReadFrame();
    leader->ReadFrame();
    leader->Write(FrameBytes(SizedFrame(FrameType::kStart, 0)));
  }

  // What Connect, ReceivePlan or SendResult ended with by itself.
  absl::Status Outcome() {
    if (thread.joinable()) thread.join();
    return outcome;
  }
  // The same, after the leader's connection is closed.
  absl::Status Finish() {
    leader->Close();
    return Outcome();
  }

  GroupShape shape;
  FakeExperts experts;
  std::unique_ptr<TcpListener> listener;
  std::unique_ptr<TcpGroup> group;
  std::unique_ptr<HandSocket> leader;
  std::thread thread;
  absl::Status outcome;
  bool connected = false;
};

}  // namespace moe::exchange

#endif  // MOE_TESTS_WORKER_EXCHANGE_TCP_PEER_H_
