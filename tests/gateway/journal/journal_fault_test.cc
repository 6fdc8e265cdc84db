// Tests gateway/journal/journal.h by simulation: groups of three kinds come, drain, fail, lose
// their leaders and vanish; leaders lose, repeat and skip tokens and have full queues. Whatever
// happens, a client's tokens are those that one kind of group would have given it undisturbed. One
// thread, and every choice comes from the seed.
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gateway/journal/journal.h"
#include "gtest/gtest.h"

namespace moe::gateway {
namespace {

using coordinator::v1::GroupState;
using engine::v1::EngineMessage;
using engine::v1::GatewayMessage;
using engine::v1::TokenEvent;

struct Kind {
  const char* digest;
  const char* numerics;
};
constexpr Kind kKinds[] = {{"model-a", "cpu"}, {"model-a", "gpu"}, {"model-b", "cpu"}};
constexpr int kNumKinds = 3;

// What a group of this kind draws for the prompt at a position.
int32_t TokenOf(int kind, int32_t prompt, size_t position) {
  uint64_t x = (uint64_t(kind) << 40) ^ (uint64_t(prompt) << 16) ^ position;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return static_cast<int32_t>((x ^ (x >> 31)) & 0x7fffffff);
}

size_t LengthOf(int32_t prompt) { return 3 + static_cast<size_t>(prompt) % 40; }

// A leader and its group, as the other end of the journal sees them.
struct SimulatedGroup {
  struct Sequence {
    int32_t prompt = 0;
    size_t next = 0;
  };
  int kind = 0;
  uint64_t epoch = 1;
  GroupState state;
  bool connected = false;
  std::map<uint64_t, Sequence> sequences;
};

struct Client {
  int32_t prompt = 0;
  std::unique_ptr<Generation> generation;
  std::vector<int32_t> tokens;
};

class Simulation {
 public:
  explicit Simulation(uint64_t seed) : random_(seed) {
    JournalOptions options;
    options.single_group = false;
    options.failover_deadline = absl::Seconds(60);
    options.now = [this] { return now_; };
    journal_ = std::make_shared<Journal>(options);
    AddGroup(0);
    AddGroup(0);
    AddGroup(1);
    Publish();
    for (auto& [name, group] : groups_) {
      Connect(name, group);
    }
  }

  void Run(int num_steps) {
    for (int i = 0; i < num_steps; ++i) {
      Disturb();
      Exchange(/*faulty=*/true);
      ReadClients();
    }
    Heal();
    // Each round gives every sequence a token, so that many rounds are enough for the longest.
    for (int i = 0; i < 200 && !clients_.empty(); ++i) {
      Advance(absl::Milliseconds(300));
      Exchange(/*faulty=*/false);
      ReadClients();
    }
    EXPECT_TRUE(clients_.empty()) << "nothing is forgotten once the groups are well";
    for (const GroupView& group : journal_->view().groups) {
      EXPECT_EQ(group.outstanding_tokens, 0);
      EXPECT_EQ(group.num_sequences, 0);
    }
  }

  int num_finished = 0;
  int num_given_up = 0;
  uint64_t num_moved() const { return journal_->view().num_moved; }
  uint64_t num_failovers() const { return journal_->view().num_failovers; }

 private:
  bool OneIn(uint64_t n) { return random_() % n == 0; }

  void AddGroup(int kind) {
    const std::string name = "d/m/" + std::to_string(next_index_++);
    SimulatedGroup& group = groups_[name];
    group.kind = kind;
    group.state.set_group(name);
    group.state.set_phase(GroupState::ACTIVE);
  }

  void Publish() {
    coordinator::v1::GroupStates groups;
    for (const auto& [name, group] : groups_) {
      *groups.add_groups() = group.state;
    }
    journal_->OnGroups(groups);
  }

  void Connect(const std::string& name, SimulatedGroup& group) {
    engine::v1::Welcome welcome;
    welcome.set_epoch(++group.epoch);
    welcome.set_model_digest(kKinds[group.kind].digest);
    welcome.set_numerics_id(kKinds[group.kind].numerics);
    group.connected = journal_->OnWelcome(name, welcome).ok();
    EXPECT_TRUE(group.connected);
  }

  void Disconnect(const std::string& name, SimulatedGroup& group) {
    journal_->OnDisconnect(name);
    group.connected = false;
    group.sequences.clear();
  }

  std::map<std::string, SimulatedGroup>::iterator AnyGroup() {
    auto it = groups_.begin();
    std::advance(it, static_cast<int64_t>(random_() % groups_.size()));
    return it;
  }

  void Disturb() {
    if (clients_.size() < 40 && OneIn(2)) {
      StartClient();
    }
    if (!clients_.empty() && OneIn(40)) {
      clients_.erase(clients_.begin() + static_cast<int64_t>(random_() % clients_.size()));
    }
    if (OneIn(3)) {
      Advance(absl::Milliseconds(1 + random_() % 3000));
    }
    if (groups_.size() < 5 && OneIn(25)) {
      AddGroup(static_cast<int>(random_() % kNumKinds));
      Publish();
    }
    if (groups_.empty()) {
      return;
    }
    const auto [name, group] = *AnyGroup();
    SimulatedGroup& chosen = groups_.at(name);
    switch (random_() % 60) {
      case 0:
        chosen.state.set_draining(true);
        Publish();
        break;
      case 1:
        groups_.erase(name);
        Publish();
        break;
      case 2:
        chosen.state.set_phase(OneIn(4) ? GroupState::FAILED : GroupState::RECOVERING);
        Publish();
        break;
      case 3:
      case 4:
        chosen.state.set_phase(GroupState::ACTIVE);
        Publish();
        break;
      case 5:
      case 6:
        if (chosen.connected) {
          Disconnect(name, chosen);
        }
        break;
      default:
        if (!chosen.connected && OneIn(8)) {
          Connect(name, chosen);
        }
        break;
    }
  }

  void StartClient() {
    GenerationRequest request;
    Client client;
    client.prompt = next_prompt_++;
    request.prompt_tokens = {client.prompt};
    request.sampling.set_max_tokens(50);
    auto generation = journal_->Start(std::move(request));
    if (!generation.ok()) {
      EXPECT_TRUE(absl::IsUnavailable(generation.status())) << "all groups have failed";
      return;
    }
    client.generation = *std::move(generation);
    clients_.push_back(std::move(client));
  }

  void Advance(absl::Duration duration) {
    now_ += duration;
    for (auto& [name, group] : groups_) {
      EngineMessage message;
      message.mutable_stats()->set_num_running(static_cast<uint32_t>(group.sequences.size()));
      journal_->OnMessage(name, message);
    }
    journal_->Tick();
  }

  // What the journal has sent arrives; leaders that compute answer.
  void Exchange(bool faulty) {
    for (auto& [name, group] : groups_) {
      if (!group.connected) {
        continue;
      }
      std::vector<GatewayMessage> messages;
      EXPECT_TRUE(journal_->TakeOutgoing(name, absl::ZeroDuration(), &messages));
      for (const GatewayMessage& message : messages) {
        Receive(name, group, message, faulty);
      }
      if (group.state.phase() != GroupState::ACTIVE || (faulty && OneIn(3))) {
        continue;
      }
      Compute(name, group, faulty);
    }
  }

  void Receive(const std::string& name, SimulatedGroup& group, const GatewayMessage& message,
               bool faulty) {
    if (message.has_cancel()) {
      group.sequences.erase(message.cancel().request());
      return;
    }
    const engine::v1::Submit& submit = message.submit();
    ASSERT_EQ(submit.prompt_tokens_size(), 1);
    const int32_t prompt = submit.prompt_tokens(0);
    for (int i = 0; i < submit.generated_tokens_size(); ++i) {
      EXPECT_EQ(submit.generated_tokens(i), TokenOf(group.kind, prompt, static_cast<size_t>(i)))
          << "tokens of another kind of group came to " << name;
    }
    if (faulty && OneIn(15)) {
      EngineMessage answer;
      answer.mutable_rejected()->set_request(submit.request());
      answer.mutable_rejected()->set_reason(engine::v1::Rejected::QUEUE_FULL);
      journal_->OnMessage(name, answer);
      return;
    }
    EXPECT_EQ(group.sequences.count(submit.request()), 0U);
    group.sequences[submit.request()] = {prompt,
                                         static_cast<size_t>(submit.generated_tokens_size())};
  }

  void Compute(const std::string& name, SimulatedGroup& group, bool faulty) {
    EngineMessage message;
    message.mutable_events()->set_epoch(faulty && OneIn(30) ? group.epoch - 1 : group.epoch);
    const bool stale = message.events().epoch() != group.epoch;
    for (auto it = group.sequences.begin(); it != group.sequences.end();) {
      auto& [number, sequence] = *it;
      TokenEvent event;
      event.set_request(number);
      event.set_position(static_cast<uint32_t>(sequence.next));
      event.set_token(stale ? -1 : TokenOf(group.kind, sequence.prompt, sequence.next));
      const bool last = sequence.next + 1 == LengthOf(sequence.prompt);
      event.set_finish(last ? TokenEvent::STOP : TokenEvent::NONE);
      // A last event that is lost would never be missed: a leader sends it, or its stream ends.
      const bool lost = faulty && !last && OneIn(40);
      for (int copies = lost ? 0 : faulty && OneIn(20) ? 2 : 1; copies > 0; --copies) {
        *message.mutable_events()->add_events() = event;
      }
      if (stale) {
        ++it;
        continue;
      }
      ++sequence.next;
      it = last ? group.sequences.erase(it) : std::next(it);
    }
    journal_->OnMessage(name, message);
  }

  void ReadClients() {
    for (auto it = clients_.begin(); it != clients_.end();) {
      it = Read(*it) ? std::next(it) : clients_.erase(it);
    }
  }

  // False when it has ended.
  bool Read(Client& client) {
    const auto events = client.generation->Next(absl::ZeroDuration());
    if (!events.ok()) {
      // Nobody could take it in time, all queues were full at its start, or a leader kept skipping.
      EXPECT_TRUE(absl::IsUnavailable(events.status()) ||
                  (absl::IsResourceExhausted(events.status()) && client.tokens.empty()))
          << events.status();
      ++num_given_up;
      return false;
    }
    bool finished = false;
    for (const TokenEvent& event : *events) {
      EXPECT_FALSE(finished) << "nothing comes after the end";
      EXPECT_EQ(event.position(), client.tokens.size()) << "each position once, in order";
      client.tokens.push_back(event.token());
      finished = event.finish() != TokenEvent::NONE;
    }
    if (finished) {
      EXPECT_EQ(client.tokens.size(), LengthOf(client.prompt));
      ++num_finished;
    }
    CheckTokens(client);
    return !finished;
  }

  static void CheckTokens(const Client& client) {
    if (client.tokens.empty()) {
      return;
    }
    int kind = 0;
    while (kind < kNumKinds && client.tokens[0] != TokenOf(kind, client.prompt, 0)) {
      ++kind;
    }
    ASSERT_LT(kind, kNumKinds) << "a token that nobody drew";
    for (size_t i = 0; i < client.tokens.size(); ++i) {
      ASSERT_EQ(client.tokens[i], TokenOf(kind, client.prompt, i)) << "at position " << i;
    }
  }

  void Heal() {
    for (auto& [name, group] : groups_) {
      group.state.set_phase(GroupState::ACTIVE);
      group.state.set_draining(false);
    }
    for (int kind = 0; kind < kNumKinds; ++kind) {
      AddGroup(kind);
    }
    Publish();
    for (auto& [name, group] : groups_) {
      if (!group.connected) {
        Connect(name, group);
      }
    }
  }

  std::mt19937_64 random_;
  absl::Time now_ = absl::FromUnixSeconds(1000);
  std::shared_ptr<Journal> journal_;
  std::map<std::string, SimulatedGroup> groups_;
  std::vector<Client> clients_;
  int next_index_ = 0;
  int32_t next_prompt_ = 1;
};

TEST(JournalFaultTest, ClientsGetTheTokensOfAnUndisturbedGroup) {
  int num_finished = 0;
  int num_given_up = 0;
  uint64_t num_moved = 0;
  uint64_t num_failovers = 0;
  for (uint64_t seed = 1; seed <= 40 && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Simulation simulation(seed);
    simulation.Run(600);
    num_finished += simulation.num_finished;
    num_given_up += simulation.num_given_up;
    num_moved += simulation.num_moved();
    num_failovers += simulation.num_failovers();
  }
  // The faults were there, and most sequences came through them.
  EXPECT_GT(num_moved, 100U);
  EXPECT_GT(num_failovers, 100U);
  EXPECT_GT(num_given_up, 0);
  EXPECT_GT(num_finished, 10 * num_given_up);
}

}  // namespace
}  // namespace moe::gateway
