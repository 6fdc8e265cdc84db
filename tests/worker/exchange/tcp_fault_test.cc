// What only the Tcp exchange can suffer: connections that break, frames that can't be, strangers at
// the door. What all exchanges suffer is in epoch_exchange_fault_test.cc.
#include <functional>
#include <latch>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker/exchange/group_steps.h"
#include "tests/worker/exchange/tcp_peer.h"

namespace moe::exchange {
namespace {

using ::testing::HasSubstr;

// ---- Ranks that die: their connections close, as the kernel does it for a process that was killed

TEST(TcpDeathTest, AnExpertRankThatDiesWhileItServesIsTheSuspectAtOnce) {
  const GroupShape shape = SmallShape(4, 1);
  TcpThreadGroup threads(shape);  // no deadline passes within the test
  threads.ConnectAll();
  threads.experts[2]->before_run = [&](int layer) {
    if (layer == 1) threads.ranks[2]->Abort("it dies");
  };
  const std::vector<int32_t> ids = {0, 1, 2, 3};
  threads.RunAll([&](int rank, EpochExchange& group) {
    if (rank != 0) {
      EXPECT_EQ(group.ReceivePlan().status().code(), absl::StatusCode::kAborted);
      if (rank == 2) threads.ranks[2].reset();
      return;
    }
    ASSERT_TRUE(group.SendPlan(1, "", {}).ok());
    ASSERT_TRUE(group.Dispatch(1, 0, 1, ids.data()).ok());
    ASSERT_TRUE(group.Combine().ok());
    ASSERT_TRUE(group.Dispatch(1, 1, 1, ids.data()).ok());
    // Rank 2 may answer this layer before it is gone.
    absl::Status status = group.Combine().status();
    if (status.ok()) {
      ASSERT_TRUE(group.SendPlan(2, "", {}).ok());
      status = group.Dispatch(2, 0, 1, ids.data());
      if (status.ok()) status = group.Combine().status();
    }
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    EXPECT_THAT(status.ToString(), HasSubstr("rank 2: "));
    EXPECT_EQ(group.suspect(), 2);
    EXPECT_EQ(group.Dispatch(2, 1, 1, ids.data()).code(), absl::StatusCode::kUnavailable);
    for (const int other : {1, 3}) threads.ranks[other]->Abort("done");
  });
}

TEST(TcpDeathTest, ALeaderThatDiesIsTheSuspectOfRanksThatWaitForAPlan) {
  TcpThreadGroup threads(SmallShape(3, 1));
  threads.ConnectAll();
  threads.RunAll([&](int rank, EpochExchange& group) {
    if (rank == 0) {
      threads.ranks[0].reset();
      return;
    }
    EXPECT_EQ(group.ReceivePlan().status().code(), absl::StatusCode::kUnavailable);
    EXPECT_EQ(group.suspect(), 0);
  });
}

TEST(TcpDeathTest, AReplicaThatDiesIsTheSuspectOfAllOthers) {
  GroupShape shape = SmallShape(4, 1);
  shape.replicated = true;
  TcpThreadGroup threads(shape);
  threads.ConnectAll();
  const std::vector<int32_t> ids = {0, 1, 2, 3};
  std::latch planned(4);
  threads.RunAll([&](int rank, EpochExchange& group) {
    const absl::Status plan = rank == 0 ? group.SendPlan(1, "", {}) : group.ReceivePlan().status();
    // A rank may hear of a death before it reads what was sent earlier.
    planned.arrive_and_wait();
    ASSERT_TRUE(plan.ok()) << plan;
    if (rank == 3) {
      threads.ranks[3].reset();
      return;
    }
    absl::Status status = group.Dispatch(1, 0, 1, ids.data());
    if (status.ok()) status = group.Combine().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    EXPECT_EQ(group.suspect(), 3);
  });
}

// ---- Frames that can't be

TEST(TcpMalformedTest, AGoodLeaderByHandIsServed) {
  HandledByLeader rank;
  rank.Join();
  rank.leader->Write(FrameBytes(SizedFrame(FrameType::kPlan, 4, 1), "plan"));
  std::string result;
  EXPECT_EQ(rank.leader->ReadFrame(&result).type, FrameType::kResult);
  EXPECT_EQ(result, "done");
  for (const int layer : {0, 1}) {
    std::string body;
    const FrameHeader dispatch = GoodDispatch(rank.shape, 1, layer, &body);
    rank.leader->Write(FrameBytes(dispatch, body));
    std::string outputs;
    const FrameHeader answer = rank.leader->ReadFrame(&outputs);
    EXPECT_EQ(answer.type, FrameType::kOutputs);
    EXPECT_EQ(answer.num_pairs, 2);
    const auto x = static_cast<uint16_t>('x' | 'x' << 8);
    for (int i = 0; i < 2 * rank.shape.hidden; ++i) {
      uint16_t bits = 0;
      std::memcpy(&bits, outputs.data() + 2 * i, 2);
      EXPECT_EQ(bits, ExpertOutput(layer, 1, x, i % rank.shape.hidden));
    }
  }
  EXPECT_EQ(rank.Finish().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(rank.group->suspect(), 0);
}

TEST(TcpMalformedTest, NonsenseEndsTheEpochWithItsSenderAsTheSuspect) {
  struct Case {
    std::string what;
    std::function<std::string(const GroupShape&)> bytes;  // after joining
    std::string message;
  };
  const auto dispatch = [](const GroupShape& shape, uint64_t step, int layer) {
    std::string body;
    const FrameHeader header = GoodDispatch(shape, step, layer, &body);
    return FrameBytes(header, body);
  };
  for (const Case& c : std::vector<Case>{
           {"garbage", [](const GroupShape&) { return std::string(100, 'g'); }, "no frame"},
           {"a frame of another epoch",
            [](const GroupShape&) {
              return FrameBytes(MakeFrame(FrameType::kPlan, kPeerEpoch + 1, 1));
            },
            "unexpected epoch"},
           {"a layer that goes back",
            [&](const GroupShape& shape) { return dispatch(shape, 1, 1) + dispatch(shape, 1, 0); },
            "unexpected step"},
           {"the same layer again",
            [&](const GroupShape& shape) { return dispatch(shape, 1, 1) + dispatch(shape, 1, 1); },
            "unexpected step"},
           {"a step that goes back",
            [&](const GroupShape& shape) { return dispatch(shape, 2, 0) + dispatch(shape, 1, 1); },
            "unexpected step"},
           {"a plan for a step that is over",
            [&](const GroupShape& shape) {
              return dispatch(shape, 3, 0) + FrameBytes(SizedFrame(FrameType::kPlan, 0, 2));
            },
            "unexpected step"},
           {"an expert that the rank does not hold",
            [](const GroupShape& shape) {
              std::string body;
              const FrameHeader header = GoodDispatch(shape, 1, 0, &body);
              body[0] = 0;
              return FrameBytes(header, body);
            },
            "not held here"},
           {"a canary after joining",
            [](const GroupShape& shape) {
              const size_t bytes = RowBytes(shape, 1);
              return FrameBytes(SizedFrame(FrameType::kCanary, bytes), std::string(bytes, 'c'));
            },
            "after ranks join"},
           {"outputs that nobody asked for",
            [](const GroupShape& shape) {
              FrameHeader header = SizedFrame(FrameType::kOutputs, RowBytes(shape, 1), 1);
              header.num_pairs = 1;
              return FrameBytes(header, std::string(header.num_bytes, 'o'));
            },
            "not asked for"},
           {"a result",
            [](const GroupShape&) { return FrameBytes(SizedFrame(FrameType::kResult, 0, 1)); },
            "not asked for"},
           {"a share where rows are not replicated",
            [](const GroupShape& shape) {
              FrameHeader header = SizedFrame(FrameType::kShare, RowBytes(shape, 1), 1);
              header.num_pairs = 1;
              return FrameBytes(header, std::string(header.num_bytes, 's'));
            },
            "not replicated"},
           {"a body larger than memory",
            [](const GroupShape&) {
              return FrameBytes(SizedFrame(FrameType::kPlan, ~uint64_t{0}, 1));
            },
            "bytes"}}) {
    HandledByLeader rank;
    rank.Join();
    rank.leader->Write(c.bytes(rank.shape));
    const absl::Status status = rank.Outcome();  // by itself
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << c.what << ": " << status;
    EXPECT_THAT(status.ToString(), HasSubstr(c.message)) << c.what;
    EXPECT_EQ(rank.group->suspect(), 0) << c.what;
  }
}

TEST(TcpMalformedTest, StepsBeforeTheStartAreRefused) {
  for (const FrameType type : {FrameType::kPlan, FrameType::kEcho, FrameType::kReady}) {
    HandledByLeader rank;
    const size_t bytes = type == FrameType::kEcho ? RowBytes(rank.shape, 1) : 0;
    rank.leader->Write(FrameBytes(SizedFrame(type, bytes), std::string(bytes, 'e')));
    EXPECT_EQ(rank.Outcome().code(), absl::StatusCode::kInternal);
    EXPECT_FALSE(rank.connected);
  }
}

TEST(TcpMalformedTest, ATruncatedFrameIsABrokenConnection) {
  for (const size_t cut : {1, 55, 56, 57, 120}) {
    HandledByLeader rank;
    rank.Join();
    std::string body;
    const FrameHeader header = GoodDispatch(rank.shape, 1, 0, &body);
    rank.leader->Write(FrameBytes(header, body).substr(0, cut));
    EXPECT_EQ(rank.Finish().code(), absl::StatusCode::kUnavailable) << cut;
    EXPECT_EQ(rank.group->suspect(), 0);
  }
}

TEST(TcpMalformedTest, SeededMutationsEndTheEpochAndNothingElse) {
  std::mt19937 random(41);
  for (int round = 0; round < 60; ++round) {
    HandledByLeader rank;
    rank.Join();
    std::string body;
    const FrameHeader first = GoodDispatch(rank.shape, 1, 0, &body);
    std::string bytes = FrameBytes(first, body);
    bytes += FrameBytes(SizedFrame(FrameType::kPlan, 10, 1), "0123456789");
    const FrameHeader second = GoodDispatch(rank.shape, 1, 1, &body);
    bytes += FrameBytes(second, body);
    for (uint32_t i = 0; i <= random() % 3; ++i) {
      bytes[random() % bytes.size()] = static_cast<char>(random());
    }
    rank.leader->Write(bytes);
    EXPECT_FALSE(rank.Finish().ok());
    EXPECT_EQ(rank.group->suspect(), 0);
  }
}

// A leader that is real, and rank 1 in the hands of the test, which answers wrongly.
TEST(TcpMalformedTest, WrongAnswersEndTheEpochOfTheOwner) {
  const GroupShape shape = SmallShape(2, 1);
  struct Case {
    std::string what;
    std::function<void(FrameHeader&)> spoil;
    absl::StatusCode code;
  };
  for (const Case& c : std::vector<Case>{
           {"nothing wrong", [](FrameHeader&) {}, absl::StatusCode::kOk},
           {"another layer", [](FrameHeader& h) { h.layer = 1; }, absl::StatusCode::kInternal},
           {"another step", [](FrameHeader& h) { h.step = 2; }, absl::StatusCode::kInternal},
           {"too few rows",
            [&](FrameHeader& h) {
              h.num_pairs = 1;
              h.num_bytes = RowBytes(shape, 1);
            },
            absl::StatusCode::kInternal},
           {"more rows than were asked for",
            [&](FrameHeader& h) {
              h.num_pairs = 3;
              h.num_bytes = RowBytes(shape, 3);
            },
            absl::StatusCode::kInternal},
           {"a result instead", [](FrameHeader& h) { h = SizedFrame(FrameType::kResult, 0, 1); },
            absl::StatusCode::kInternal}}) {
    FakeExperts experts(shape, 0);
    auto door = TcpListener::Start("127.0.0.1:0");       // of the leader
    auto hand_door = TcpListener::Start("127.0.0.1:0");  // of the hand-made rank
    ASSERT_TRUE(door.ok() && hand_door.ok());
    auto leader = TcpGroup::Create(shape, kPeerEpoch, &experts,
                                   {.listener = door->get(),
                                    .addresses = {(*door)->address(), (*hand_door)->address()},
                                    .step_deadline = absl::Minutes(1),
                                    .join_deadline = absl::Minutes(1)});
    ASSERT_TRUE(leader.ok()) << leader.status();
    const auto secret = ParseTcpBootstrap((*leader)->bootstrap(), kPeerEpoch, shape);
    ASSERT_TRUE(secret.ok());
    auto inbox = PeerInbox::Create();
    ASSERT_TRUE(inbox.ok());
    (*hand_door)
        ->Admit({.epoch = kPeerEpoch,
                 .rank = 1,
                 .handshake = Handshake(*secret, shape),
                 .awaited = {true, false},
                 .inbox = *inbox});
    std::thread hand([&] {
      pollfd wait{.fd = (*inbox)->event_fd(), .events = POLLIN, .revents = 0};
      poll(&wait, 1, 60 * 1000);
      auto arrivals = (*inbox)->TakeAll();
      ASSERT_EQ(arrivals.size(), 1u);
      const HandSocket socket(std::move(arrivals[0].socket));
      std::string body;
      FrameHeader canary = socket.ReadFrame(&body);
      ASSERT_EQ(canary.type, FrameType::kCanary);
      for (int i = 0; i < shape.hidden; ++i) {
        uint16_t bits = 0;
        std::memcpy(&bits, body.data() + 2 * i, 2);
        bits = static_cast<uint16_t>(bits ^ (0xa5a5 + 1));
        std::memcpy(body.data() + 2 * i, &bits, 2);
      }
      canary.type = FrameType::kEcho;
      socket.Write(FrameBytes(canary, body) + FrameBytes(SizedFrame(FrameType::kReady, 0)));
      ASSERT_EQ(socket.ReadFrame().type, FrameType::kStart);
      ASSERT_EQ(socket.ReadFrame().type, FrameType::kDispatch);
      FrameHeader answer = SizedFrame(FrameType::kOutputs, RowBytes(shape, 2), 1);
      answer.num_pairs = 2;
      c.spoil(answer);
      socket.Write(FrameBytes(answer, std::string(answer.num_bytes, 'o')));
      EXPECT_TRUE(socket.ReadsEnd());
    });
    ASSERT_TRUE((*leader)->Connect().ok());
    ASSERT_TRUE((*leader)->SendPlan(1, "", {}).ok());
    const std::vector<int32_t> ids = {0, 1, 1, 0};
    ASSERT_TRUE((*leader)->Dispatch(1, 0, 2, ids.data()).ok());
    EXPECT_EQ((*leader)->Combine().status().code(), c.code) << c.what;
    EXPECT_EQ((*leader)->suspect(), c.code == absl::StatusCode::kOk ? -1 : 1) << c.what;
    leader->reset();
    hand.join();
  }
}

// ---- Strangers at the door while ranks join

TEST(TcpJoinTest, GarbageAndHalfOpenConnectionsDoNotDisturbAJoin) {
  const GroupShape shape = SmallShape(5, 2);
  TcpThreadGroup threads(shape);
  const Handshake wrong(Bytes32{9}, shape);
  std::vector<HandSocket> strangers;
  const auto intrude = [&] {
    for (int rank = 0; rank < shape.num_ranks; ++rank) {
      const std::string& address = threads.listeners[rank]->address();
      strangers.push_back(HandSocket::Dial(address));  // half-open
      strangers.push_back(HandSocket::Dial(address));
      strangers.back().Write(std::string(5000, 'g'));
      strangers.push_back(HandSocket::Dial(address));
      const HelloMessage hello = MakeHello(7, 0, rank, Bytes32{1});
      strangers.back().Write(&hello, sizeof(hello) / 2);  // and no more
      strangers.push_back(HandSocket::Dial(address));
      strangers.back().Write(&hello, sizeof(hello));
      const ProofMessage proof{};  // not one
      strangers.back().Write(&proof, sizeof(proof));
    }
  };
  intrude();
  std::thread meanwhile(intrude);
  RunSteps(threads, 3, 17);
  meanwhile.join();
}

TEST(TcpJoinTest, ARankWithAnotherSecretIsMissing) {
  const GroupShape shape = SmallShape(3, 1);
  TcpThreadGroup threads(shape, absl::Minutes(2), /*join_deadline=*/absl::Seconds(1));
  TcpOptions options{.listener = threads.listeners[1].get(),
                     .step_deadline = absl::Minutes(2),
                     .join_deadline = absl::Seconds(1)};
  for (const auto& listener : threads.listeners) options.addresses.push_back(listener->address());
  auto impostor = TcpGroup::Open(MakeTcpBootstrap(Bytes32{9}, 7, shape), shape, 7, 1,
                                 threads.experts[1].get(), options);
  ASSERT_TRUE(impostor.ok()) << impostor.status();
  threads.ranks[1] = *std::move(impostor);
  threads.RunAll([&](int rank, EpochExchange& group) {
    const absl::Status status = group.Connect();
    EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
    EXPECT_EQ(group.suspect(), rank == 1 ? 0 : 1);
    if (rank == 0) {
      EXPECT_THAT(status.ToString(), HasSubstr("the secret"));
    }
  });
}

TEST(TcpJoinTest, EpochsFollowEachOtherOverTheSameListeners) {
  const GroupShape shape = SmallShape(3, 2);
  TcpThreadGroup threads(shape);
  threads.ConnectAll();
  TcpOptions options{.step_deadline = absl::Minutes(2), .join_deadline = absl::Minutes(2)};
  for (const auto& listener : threads.listeners) options.addresses.push_back(listener->address());
  for (uint64_t epoch = 8; epoch < 12; ++epoch) {
    for (const auto& group : threads.ranks) group->Abort("the next epoch");
    std::string bootstrap;
    for (int rank = 0; rank < shape.num_ranks; ++rank) {
      options.listener = threads.listeners[rank].get();
      FakeExperts* const experts = threads.experts[rank].get();
      auto group = rank == 0 ? TcpGroup::Create(shape, epoch, experts, options)
                             : TcpGroup::Open(bootstrap, shape, epoch, rank, experts, options);
      ASSERT_TRUE(group.ok()) << group.status();
      if (rank == 0) bootstrap = (*group)->bootstrap();
      threads.ranks[rank] = *std::move(group);
    }
    RunSteps(threads, 2, static_cast<uint32_t>(epoch));
  }
}

TEST(TcpJoinTest, CreateAndOpenRefuseWhatCannotBe) {
  GroupShape shape = SmallShape(2, 1);
  FakeExperts experts(shape, 0);
  auto listener = TcpListener::Start("127.0.0.1:0");
  ASSERT_TRUE(listener.ok());
  const TcpOptions good{.listener = listener->get(), .addresses = {"127.0.0.1:1", "127.0.0.1:2"}};
  const absl::StatusCode invalid = absl::StatusCode::kInvalidArgument;
  auto leader = TcpGroup::Create(shape, 3, &experts, good);
  ASSERT_TRUE(leader.ok()) << leader.status();
  const std::string bootstrap = (*leader)->bootstrap();
  for (const int rank : {-1, 0, 2}) {
    EXPECT_EQ(TcpGroup::Open(bootstrap, shape, 3, rank, &experts, good).status().code(), invalid);
  }
  auto other = TcpGroup::Open(bootstrap, shape, 3, 1, &experts, good);
  ASSERT_TRUE(other.ok()) << other.status();
  EXPECT_EQ((*other)->bootstrap(), "");
  EXPECT_EQ(TcpGroup::Open(bootstrap, shape, 4, 1, &experts, good).status().code(),
            absl::StatusCode::kFailedPrecondition);
  TcpOptions bad = good;
  bad.listener = nullptr;
  EXPECT_EQ(TcpGroup::Create(shape, 3, &experts, bad).status().code(), invalid);
  bad = good;
  bad.addresses.pop_back();
  EXPECT_EQ(TcpGroup::Create(shape, 3, &experts, bad).status().code(), invalid);
  bad.addresses.emplace_back();
  EXPECT_THAT(TcpGroup::Create(shape, 3, &experts, bad).status().ToString(),
              HasSubstr("rank 1 has no address"));
  shape.top_k = 0;
  EXPECT_THAT(TcpGroup::Create(shape, 3, &experts, good).status().ToString(), HasSubstr("top_k"));
}

}  // namespace
}  // namespace moe::exchange
