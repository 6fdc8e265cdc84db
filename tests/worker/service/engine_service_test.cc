#include "worker/service/engine_service.h"

#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/engine.grpc.pb.h"
#include "tests/worker/engine/fake_owners.h"
#include "tests/worker/service/fake_ends.h"

namespace moe::engine {
namespace {

using testing::ElementsAre;
using v1::EngineMessage;
using v1::GatewayMessage;
using v1::TokenEvent;

constexpr int kAnyNumber = 1 << 30;

class EngineServiceTest : public testing::Test {
 protected:
  EngineServiceTest() {
    options_.numerics_id = "test-1";
    options_.stats_interval = absl::Milliseconds(5);
    leader_options_.limits = {.num_owners = 1,
                              .max_sequences = 16,
                              .max_step_tokens = 1 << 20,
                              .min_prefill_chunk = 64,
                              .kv_blocks_per_owner = 100000,
                              .kv_block_tokens = 32};
    leader_options_.max_queue = 16;
    leader_options_.max_context = 100000;
    leader_options_.vocab_size = kVocab;
  }

  ~EngineServiceTest() override {
    if (service_ != nullptr) service_->ClearLeader();
    engine_.reset();
    service_.reset();
  }

  void Serve() {
    options_.address = absl::StrCat("unix:", testing::TempDir(), "/engine-", getpid(), ".sock");
    auto service = EngineService::Start(options_);
    ASSERT_TRUE(service.ok()) << service.status();
    service_ = *std::move(service);
  }

  void Lead(uint64_t epoch) {
    leader_ = *Leader::Create(leader_options_, epoch, service_->sink());
    engine_ = std::make_unique<FakeEngine>(leader_.get(), leader_options_.limits);
    service_->SetLeader(leader_.get(), "digest");
  }

  void StopLeading() {
    service_->ClearLeader();
    engine_.reset();
    leader_.reset();
  }

  std::shared_ptr<grpc::Channel> Connect() {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(EngineService::kMaxSentBytes);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return grpc::CreateCustomChannel(options_.address, grpc::InsecureChannelCredentials(),
                                     arguments);
  }

  // Waits for what other threads bring about; the test's own limit ends it otherwise.
  static void WaitUntil(const std::function<bool()>& condition) {
    while (!condition()) absl::SleepFor(absl::Milliseconds(2));
  }

  EngineServiceOptions options_;
  LeaderOptions leader_options_;
  std::unique_ptr<EngineService> service_;
  std::unique_ptr<Leader> leader_;
  std::unique_ptr<FakeEngine> engine_;
};

TEST_F(EngineServiceTest, ARankThatDoesNotLeadSaysSo) {
  Serve();
  Gateway gateway(Connect());
  EXPECT_EQ(gateway.End().error_code(), grpc::StatusCode::FAILED_PRECONDITION);
}

TEST_F(EngineServiceTest, WelcomesWithWhatAGatewayMustKnow) {
  Serve();
  Lead(3);
  Gateway gateway(Connect());
  gateway.Greet();
  const v1::Welcome& welcome = gateway.welcome();
  EXPECT_EQ(welcome.epoch(), 3u);
  EXPECT_EQ(welcome.numerics_id(), "test-1");
  EXPECT_EQ(welcome.model_digest(), "digest");
  EXPECT_EQ(welcome.vocab_size(), 1000u);
  EXPECT_EQ(welcome.max_context(), 100000u);
  EXPECT_EQ(welcome.kv_capacity_tokens(), 3200000u);
  EXPECT_EQ(welcome.max_queue(), 16u);
  EXPECT_TRUE(gateway.Close().ok());
}

TEST_F(EngineServiceTest, MessagesThatBreakTheProtocolEndTheStream) {
  Serve();
  Lead(3);
  for (const bool greets : {false, true}) {
    GatewayMessage cancel;
    cancel.mutable_cancel();
    GatewayMessage greeting;
    greeting.mutable_greeting();
    std::vector<GatewayMessage> messages = {GatewayMessage()};
    if (greets) {
      messages.push_back(greeting);
    } else {
      messages.push_back(cancel);
      messages.push_back(Request(1, Prompt(3), 5));
    }
    for (const GatewayMessage& message : messages) {
      Gateway gateway(Connect());
      if (greets) gateway.Greet();
      gateway.Write(message);
      EXPECT_EQ(gateway.End().error_code(), grpc::StatusCode::INVALID_ARGUMENT)
          << message.ShortDebugString();
    }
  }
  WaitUntil([&] { return service_->num_streams() == 0; });
}

TEST_F(EngineServiceTest, GeneratesForTwoGatewaysThatUseTheSameNumbers) {
  Serve();
  Lead(3);
  engine_->Allow(kAnyNumber);
  Gateway first(Connect());
  Gateway second(Connect());
  first.Greet();
  second.Greet();
  first.Write(Request(1, Prompt(3), 20));
  second.Write(Request(1, Prompt(5, 50), 10));
  first.Write(Request(2, Prompt(40, 7), 30));
  const auto of_first = first.ReadToEnd(2);
  const auto of_second = second.ReadToEnd(1);
  EXPECT_EQ(of_first.at(1), FakeGeneration(Prompt(3), 20, kVocab));
  EXPECT_EQ(of_first.at(2), FakeGeneration(Prompt(40, 7), 30, kVocab));
  EXPECT_EQ(of_second.at(1), FakeGeneration(Prompt(5, 50), 10, kVocab));
  EXPECT_TRUE(first.Close().ok());
  EXPECT_TRUE(second.Close().ok());
}

TEST_F(EngineServiceTest, RefusalsNameTheRequest) {
  Serve();
  Lead(3);
  Gateway gateway(Connect());
  gateway.Greet();
  gateway.Write(Request(9, {}, 20));
  const EngineMessage message = gateway.Read();
  ASSERT_TRUE(message.has_rejected());
  EXPECT_EQ(message.rejected().request(), 9u);
  EXPECT_EQ(message.rejected().reason(), v1::Rejected::INVALID);
}

TEST_F(EngineServiceTest, AFullQueueRefuses) {
  Serve();
  Lead(3);
  Gateway gateway(Connect());
  gateway.Greet();
  for (uint64_t request = 0; request < 33; ++request) {
    gateway.Write(Request(request, Prompt(3), 5));
  }
  const EngineMessage message = gateway.Read();
  ASSERT_TRUE(message.has_rejected());
  EXPECT_EQ(message.rejected().request(), 32u);
  EXPECT_EQ(message.rejected().reason(), v1::Rejected::QUEUE_FULL);
}

TEST_F(EngineServiceTest, ACancelledStreamFreesItsCacheAndDisturbsNoOther) {
  Serve();
  Lead(3);
  Gateway other(Connect());
  other.Greet();
  auto gateway = std::make_unique<Gateway>(Connect());
  gateway->Greet();
  gateway->Write(Request(1, Prompt(3), 90000));
  gateway->Write(Request(2, Prompt(3), 90000));
  WaitUntil([&] { return leader_->stats().num_running() + leader_->stats().num_waiting() == 2; });
  engine_->Allow(3);
  EXPECT_TRUE(gateway->Read().has_events());
  other.Write(Request(1, Prompt(5), 10));
  gateway->TryCancel();
  gateway.reset();
  WaitUntil([&] { return service_->num_streams() == 1; });
  engine_->Allow(kAnyNumber);
  EXPECT_EQ(other.ReadToEnd(1).at(1), FakeGeneration(Prompt(5), 10, kVocab));
  WaitUntil([&] { return leader_->stats().num_running() == 0; });
  EXPECT_EQ(leader_->stats().kv_usage(), 0);
  EXPECT_FALSE(leader_->HasWork());
}

TEST_F(EngineServiceTest, AStreamThatTheGatewayClosesFreesItsCacheToo) {
  Serve();
  Lead(3);
  engine_->Allow(kAnyNumber);
  Gateway gateway(Connect());
  gateway.Greet();
  gateway.Write(Request(1, Prompt(3), 90000));
  EXPECT_TRUE(gateway.Read().has_events());
  EXPECT_TRUE(gateway.Close().ok());
  // The stats are those of a step that may still run.
  WaitUntil([&] { return !leader_->HasWork() && leader_->stats().kv_usage() == 0; });
}

TEST_F(EngineServiceTest, ACancelledRequestEndsAlone) {
  Serve();
  Lead(3);
  engine_->Allow(kAnyNumber);
  Gateway gateway(Connect());
  gateway.Greet();
  gateway.Write(Request(1, Prompt(3), 90000));
  EXPECT_TRUE(gateway.Read().has_events());
  gateway.Cancel(1);
  WaitUntil([&] { return !leader_->HasWork(); });
  gateway.Write(Request(2, Prompt(4), 6));
  EXPECT_EQ(gateway.ReadToEnd(1).at(2), FakeGeneration(Prompt(4), 6, kVocab));
}

TEST_F(EngineServiceTest, TheNextLeaderContinuesAtTheNextPosition) {
  Serve();
  Lead(3);
  const std::vector<int32_t> complete = FakeGeneration(Prompt(3), 12, kVocab);
  std::vector<int32_t> tokens;
  {
    Gateway gateway(Connect());
    gateway.Greet();
    gateway.Write(Request(1, Prompt(3), 12));
    engine_->Allow(5);
    while (tokens.size() < 5) {
      const EngineMessage message = gateway.Read();
      ASSERT_TRUE(message.has_events());
      for (const TokenEvent& event : message.events().events()) {
        EXPECT_EQ(event.position(), tokens.size());
        tokens.push_back(event.token());
      }
    }
    StopLeading();
    EXPECT_EQ(gateway.End().error_code(), grpc::StatusCode::UNAVAILABLE);
  }
  Gateway refused(Connect());
  EXPECT_EQ(refused.End().error_code(), grpc::StatusCode::FAILED_PRECONDITION);

  Lead(4);
  engine_->Allow(kAnyNumber);
  Gateway gateway(Connect());
  gateway.Greet();
  gateway.Write(Request(1, Prompt(3), 12, tokens));
  bool finished = false;
  while (!finished) {
    const EngineMessage message = gateway.Read();
    ASSERT_TRUE(message.has_events());
    EXPECT_EQ(message.events().epoch(), 4u);
    for (const TokenEvent& event : message.events().events()) {
      EXPECT_EQ(event.position(), tokens.size());
      tokens.push_back(event.token());
      finished = event.finish() != TokenEvent::NONE;
    }
  }
  EXPECT_EQ(tokens, complete);
}

TEST_F(EngineServiceTest, StreamsLiveOnWhenTheSameLeaderEntersAnotherEpoch) {
  Serve();
  Lead(3);
  Gateway gateway(Connect());
  gateway.Greet();
  gateway.Write(Request(1, Prompt(3), 12));
  engine_->Allow(5);
  std::vector<int32_t> tokens;
  while (tokens.size() < 5) tokens.push_back(gateway.Read().events().events(0).token());
  engine_->ChangeEpoch(4);
  engine_->Allow(kAnyNumber);
  uint64_t epoch = 0;
  while (tokens.size() < 12) {
    const EngineMessage message = gateway.Read();
    ASSERT_TRUE(message.has_events());
    epoch = message.events().epoch();
    tokens.push_back(message.events().events(0).token());
  }
  EXPECT_EQ(tokens, FakeGeneration(Prompt(3), 12, kVocab));
  EXPECT_EQ(epoch, 4u);
}

TEST_F(EngineServiceTest, StatsComeWithNoWorkToo) {
  Serve();
  Lead(3);
  Gateway gateway(Connect());
  gateway.Greet();
  for (int i = 0; i < 3; ++i) {
    EngineMessage message;
    ASSERT_TRUE(gateway.ReadAny(&message));
    ASSERT_TRUE(message.has_stats());
    EXPECT_EQ(message.stats().epoch(), 3u);
    EXPECT_EQ(message.stats().num_running(), 0u);
  }
}

TEST_F(EngineServiceTest, StatsEndWhenTheEngineThreadIsDead) {
  options_.stats_interval = absl::Milliseconds(1);
  options_.engine_silence = absl::Milliseconds(50);
  Serve();
  Lead(3);
  service_->SetEpochRunning(true);
  Gateway gateway(Connect());
  gateway.Greet();
  std::atomic<int> num_stats = 0;
  std::thread reader([&] {
    EngineMessage message;
    while (gateway.ReadAny(&message)) ++num_stats;
  });
  WaitUntil([&] { return num_stats > 5; });
  engine_.reset();
  // Until none came for a while: for ever, if they did not end.
  int last = -1;
  WaitUntil([&] {
    const int seen = std::exchange(last, num_stats.load());
    absl::SleepFor(absl::Milliseconds(300));
    return seen == num_stats.load();
  });
  EXPECT_EQ(service_->num_streams(), 1);
  service_->ClearLeader();
  reader.join();
}

TEST_F(EngineServiceTest, StatsGoOnBetweenTwoEpochsHoweverLongThatTakes) {
  options_.stats_interval = absl::Milliseconds(1);
  options_.engine_silence = absl::Milliseconds(1);
  Serve();
  Lead(3);
  service_->SetEpochRunning(true);
  Gateway gateway(Connect());
  gateway.Greet();
  service_->SetEpochRunning(false);
  engine_.reset();  // nobody calls the leader
  EngineMessage message;
  for (int i = 0; i < 50; ++i) {
    ASSERT_TRUE(gateway.ReadAny(&message));
    EXPECT_TRUE(message.has_stats());
  }
}

TEST_F(EngineServiceTest, AGatewayThatDoesNotReadIsClosed) {
  options_.max_queued_bytes = 2 << 20;
  Serve();
  Lead(3);
  engine_->Allow(kAnyNumber);
  Gateway gateway(Connect());
  gateway.Greet();
  // One event of about 200 KB for each.
  for (uint64_t request = 0; request < 16; ++request) {
    GatewayMessage message = Request(request, Prompt(30000), 60000);
    message.mutable_submit()->mutable_sampling()->set_num_prompt_logprobs(0);
    if (!gateway.Write(message)) break;
  }
  WaitUntil([&] { return service_->num_streams() == 0; });
  WaitUntil([&] { return !leader_->HasWork(); });
  // Others are served.
  Gateway other(Connect());
  other.Greet();
  other.Write(Request(1, Prompt(3), 4));
  EXPECT_EQ(other.ReadToEnd(1).at(1), FakeGeneration(Prompt(3), 4, kVocab));
}

TEST_F(EngineServiceTest, ManyEventsOfAStepAreCutIntoMessages) {
  Serve();
  Lead(3);
  Gateway gateway(Connect());
  gateway.Greet();
  for (uint64_t request = 0; request < 16; ++request) {
    GatewayMessage message = Request(request, Prompt(20000), 1);
    message.mutable_submit()->mutable_sampling()->set_num_prompt_logprobs(0);
    gateway.Write(message);
  }
  WaitUntil([&] { return leader_->stats().num_running() + leader_->stats().num_waiting() == 16; });
  engine_->Allow(kAnyNumber);
  std::map<uint64_t, int> num_messages;
  int num_events = 0;
  while (num_events < 16) {
    const EngineMessage message = gateway.Read();
    ASSERT_TRUE(message.has_events());
    EXPECT_LT(message.ByteSizeLong(), size_t{2} << 20);
    ++num_messages[message.events().step()];
    for (const TokenEvent& event : message.events().events()) {
      EXPECT_EQ(event.prompt_logprobs_size(), 20000);
      ++num_events;
    }
  }
  int most = 0;
  for (const auto& [step, count] : num_messages) most = std::max(most, count);
  EXPECT_GT(most, 1);
}

TEST_F(EngineServiceTest, MoreStreamsThanTheLimitAreRefused) {
  options_.max_streams = 2;
  Serve();
  Lead(3);
  Gateway first(Connect());
  first.Greet();
  auto second = std::make_unique<Gateway>(Connect());
  second->Greet();
  {
    Gateway third(Connect());
    EXPECT_EQ(third.End().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  }
  second.reset();
  WaitUntil([&] { return service_->num_streams() == 1; });
  Gateway fourth(Connect());
  fourth.Greet();
}

TEST_F(EngineServiceTest, AStreamThatSaysNothingIsClosed) {
  options_.greeting_deadline = absl::Milliseconds(20);
  Serve();
  Lead(3);
  Gateway gateway(Connect());
  EXPECT_EQ(gateway.End().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
}

TEST_F(EngineServiceTest, AMessageThatIsTooLargeEndsTheStreamAndNothingElse) {
  Serve();
  Lead(3);
  engine_->Allow(kAnyNumber);
  Gateway gateway(Connect());
  gateway.Greet();
  gateway.Write(Request(1, Prompt(5 << 20), 4));
  EXPECT_FALSE(gateway.End().ok());
  Gateway other(Connect());
  other.Greet();
  other.Write(Request(1, Prompt(3), 4));
  EXPECT_EQ(other.ReadToEnd(1).at(1), FakeGeneration(Prompt(3), 4, kVocab));
}

TEST_F(EngineServiceTest, TheEndOfTheServiceEndsStreamsInTheMiddleOfWork) {
  Serve();
  Lead(3);
  engine_->Allow(kAnyNumber);
  Gateway gateway(Connect());
  gateway.Greet();
  gateway.Write(Request(1, Prompt(3), 90000));
  EXPECT_TRUE(gateway.Read().has_events());
  // The engine thread still sends events; they go nowhere.
  service_->ClearLeader();
  EXPECT_EQ(gateway.End().error_code(), grpc::StatusCode::UNAVAILABLE);
  engine_.reset();
  Lead(4);
  engine_->Allow(kAnyNumber);
  Gateway second(Connect());
  second.Greet();
  second.Write(Request(1, Prompt(3), 90000));
  EXPECT_TRUE(second.Read().has_events());
  std::thread reader([&] { EXPECT_EQ(second.End().error_code(), grpc::StatusCode::UNAVAILABLE); });
  service_->ClearLeader();
  engine_.reset();
  leader_.reset();
  service_.reset();
  reader.join();
}

TEST_F(EngineServiceTest, TheServiceEndsUnderStreamsThatAreOpen) {
  Serve();
  Lead(3);
  Gateway gateway(Connect());
  gateway.Greet();
  engine_.reset();
  service_.reset();
  EXPECT_EQ(gateway.End().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(EngineServiceTest, AnAddressThatCannotBeListenedOnIsAnError) {
  options_.address = "unix:/no/such/folder/engine.sock";
  EXPECT_EQ(EngineService::Start(options_).status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(EngineServiceTest, SettingTheSameLeaderAgainKeepsItsStreams) {
  Serve();
  Lead(3);
  engine_->Allow(kAnyNumber);
  Gateway gateway(Connect());
  gateway.Greet();
  service_->SetLeader(leader_.get(), "digest");
  gateway.Write(Request(1, Prompt(3), 4));
  EXPECT_EQ(gateway.ReadToEnd(1).at(1), FakeGeneration(Prompt(3), 4, kVocab));
}

}  // namespace
}  // namespace moe::engine
