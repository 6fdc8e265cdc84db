// A cluster made of values: a Group, its runtime and its workers, under random orders and faults.
//
// Workers are modelled with the real SessionState of the worker's side, so what is simulated is the
// protocol as both ends implement it. Each session has a queue in each direction that keeps its
// order; which queue moves next is drawn. Checked throughout:
//   * an epoch is claimed once, and Prepare names each slot once, always with the same members;
//   * an epoch is activated only if every slot's member joined it with rank 0's bootstrap;
//   * no two processes of one slot ever run the same epoch;
//   * when faults stop, the group becomes active and every worker runs its epoch.
#include <cstdint>
#include <cstdio>
#include <deque>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "controller/coordinator/group.h"
#include "gtest/gtest.h"
#include "worker/membership/session_state.h"

namespace moe::coordinator {
namespace {

using membership::SessionState;

struct Process {
  int slot = 0;
  std::string worker_id;
  uint64_t nonce = 0;
  bool hung = false;
  bool loaded = false;
  SessionState state;
  uint64_t session = 0;  // 0: not connected
  // What the worker's own threads have still to answer, epoch by epoch.
  uint64_t to_prepare = 0;
  uint64_t to_join = 0;
  std::string bootstrap;
  uint64_t running = 0;
};

struct Session {
  std::string worker_id;
  bool open = true;                        // at the worker's end
  std::deque<v1::WorkerMessage> up;        // on the way to the controller
  std::deque<v1::ControllerMessage> down;  // on the way to the worker
  bool closed_by_controller = false;       // after `down` is empty
};

class Cluster {
 public:
  Cluster(int num_slots, uint64_t seed) : num_slots_(num_slots), random_(seed) { NewController(); }

  int Draw(int below) { return static_cast<int>(random_() % static_cast<uint64_t>(below)); }

  // One random thing happens; faults only if `faults`. The clock is slower the wider the group is,
  // so that each worker gets to move about 20 times each second and one fault comes each second.
  void Move(bool faults) {
    now_ += absl::Microseconds(Draw(100'000 / num_slots_));
    faults_now_ = faults;
    if (faults && Draw(20 * num_slots_) == 0) Fault();
    if (++num_moves_ % (20 * num_slots_) == 0) Beat();
    switch (Draw(5)) {
      case 0:
        Do(Tick{});
        break;
      case 1:
        Worker();
        break;
      default:
        Deliver();
    }
  }

  bool Settled() const {
    if (group_->phase() != v1::GroupState::ACTIVE) return false;
    if (static_cast<int>(processes_.size()) != num_slots_) return false;
    for (const auto& [id, process] : processes_) {
      if (process.running != group_->epoch() || process.session == 0) return false;
    }
    return true;
  }

  void CheckInvariants() const {
    std::map<std::pair<int, uint64_t>, std::string> runner;
    for (const auto& [id, process] : processes_) {
      if (process.running == 0) continue;
      ASSERT_TRUE(activated_.contains(process.running));
      ASSERT_TRUE(runner.emplace(std::pair(process.slot, process.running), id).second)
          << "two processes of slot " << process.slot << " run epoch " << process.running;
      ASSERT_TRUE(members_.at(process.running).contains(id)) << id << " is no member";
    }
    if (const uint64_t epoch = group_->epoch(); epoch != 0) {
      ASSERT_EQ(static_cast<int>(joined_.at(epoch).size()), num_slots_)
          << "epoch " << epoch << " is active without every slot";
    }
    ASSERT_NE(group_->phase(), v1::GroupState::FAILED) << group_->State().reason();
  }

  std::string Describe() const {
    std::string text = absl::StrCat("phase ", group_->phase(), ", epoch ", group_->epoch(),
                                    ", claimed ", claimed_.empty() ? 0 : *claimed_.rbegin());
    for (const auto& [id, p] : processes_) {
      absl::StrAppend(&text, "\n", id, " session ", p.session, " loaded ", p.loaded, " runs ",
                      p.running, p.hung ? " hung" : "");
    }
    return text;
  }

  int num_epochs() const { return static_cast<int>(activated_.size()); }

 private:
  // A heartbeat of everybody; and who waits for a hung rank of its epoch notices in time.
  void Beat() {
    for (auto& [id, process] : processes_) {
      if (process.hung || process.session == 0) continue;
      v1::WorkerMessage message;
      message.mutable_heartbeat()->set_epoch(process.state.running_epoch());
      sessions_[process.session].up.push_back(std::move(message));
      for (const auto& [other_id, other] : processes_) {
        if (other.hung && process.running != 0 && Draw(5 * num_slots_) == 0) {
          FailEpoch(&process, other.slot);
        }
      }
    }
  }

  void FailEpoch(Process* process, int suspect) {
    v1::WorkerMessage message;
    message.mutable_epoch_failed()->set_epoch(process->running);
    message.mutable_epoch_failed()->set_reason("fault");
    message.mutable_epoch_failed()->set_suspect_slot(suspect);
    if (process->running == 0 || !process->state.SayEpochFailed(message.epoch_failed())) return;
    process->running = 0;
    if (process->session != 0) Say(process, message);
  }

  void NewController() {
    GroupOptions options;
    options.placement = *PlaceInBlocks(num_slots_, num_slots_);
    options.num_layers = 1;
    options.term = ++term_;
    options.last_epoch = claimed_.empty() ? 0 : *claimed_.rbegin();
    // Faults come far faster than in life; limits on their number are tested elsewhere.
    options.max_slot_failures = 1 << 20;
    options.max_failed_epochs = 1 << 20;
    options.max_restart_delay = absl::Seconds(1);
    options.max_epoch_delay = absl::Seconds(1);
    options.hello_deadline = absl::Seconds(20);
    group_.emplace(std::move(options));
  }

  void Do(const Event& event) {
    std::deque<Event> events = {event};
    for (; !events.empty(); events.pop_front()) {
      for (Action& action : group_->Step(events.front(), now_)) {
        if (auto* send = std::get_if<SendMessage>(&action)) {
          Observe(send->message);
          const auto found = sessions_.find(send->session);
          if (found != sessions_.end()) found->second.down.push_back(std::move(send->message));
        } else if (const auto* close = std::get_if<CloseSession>(&action)) {
          const auto found = sessions_.find(close->session);
          if (found != sessions_.end()) found->second.closed_by_controller = true;
        } else if (const auto* start = std::get_if<StartWorker>(&action)) {
          const std::string id = absl::StrCat("w", start->slot, ".", ++num_started_);
          Process process;
          process.slot = start->slot;
          process.worker_id = id;
          process.nonce = random_();
          processes_[id] = std::move(process);
          events.emplace_back(WorkerStarted{start->slot, id});
        } else if (const auto* kill = std::get_if<KillWorker>(&action)) {
          exits_.push_back(kill->worker_id);
        } else if (const auto* claim = std::get_if<ClaimEpoch>(&action)) {
          EXPECT_TRUE(claimed_.empty() || claim->epoch > *claimed_.rbegin());
          claimed_.insert(claim->epoch);
          const bool ok = !faults_now_ || Draw(10) != 0;
          events.emplace_back(EpochClaimed{
              claim->epoch, ok ? absl::OkStatus() : absl::UnavailableError("disk full")});
        }
      }
    }
  }

  void Observe(const v1::ControllerMessage& message) {
    if (message.has_prepare()) {
      std::set<std::string> members;
      std::set<uint32_t> slots;
      for (const v1::Member& member : message.prepare().members()) {
        members.insert(member.worker_id());
        slots.insert(member.slot());
      }
      EXPECT_EQ(static_cast<int>(slots.size()), num_slots_);
      EXPECT_EQ(static_cast<int>(members.size()), num_slots_);
      const auto [entry, inserted] = members_.emplace(message.prepare().epoch(), members);
      EXPECT_TRUE(entry->second == members) << "two sets of members for one epoch";
    }
    if (message.has_activate()) activated_.insert(message.activate().epoch());
  }

  // A worker process does something of its own accord.
  void Worker() {
    if (processes_.empty()) return;
    auto at = processes_.begin();
    std::advance(at, Draw(static_cast<int>(processes_.size())));
    Process& process = at->second;
    if (process.hung) return;
    if (process.session == 0) {
      Connect(&process);
    } else if (process.to_prepare != 0) {
      v1::WorkerMessage message;
      message.mutable_prepared()->set_epoch(process.to_prepare);
      if (process.slot == 0) {
        message.mutable_prepared()->set_bootstrap(absl::StrCat("secret", process.to_prepare));
      }
      if (process.state.SayPrepared(message.prepared())) Say(&process, message);
      process.to_prepare = 0;
    } else if (process.to_join != 0) {
      EXPECT_EQ(process.bootstrap, absl::StrCat("secret", process.to_join));
      v1::WorkerMessage message;
      message.mutable_joined()->set_epoch(process.to_join);
      if (process.state.SayJoined(process.to_join)) {
        joined_[process.to_join].insert(process.slot);
        Say(&process, message);
      }
      process.to_join = 0;
    } else if (!process.loaded && process.state.Replay().empty() && assigned_.contains(at->first)) {
      v1::WorkerMessage message;
      message.mutable_loaded()->set_bytes(1);
      process.loaded = true;
      if (process.state.SayLoaded(message.loaded())) Say(&process, message);
    }
  }

  void Say(Process* process, const v1::WorkerMessage& message) {
    sessions_[process->session].up.push_back(message);
  }

  void Connect(Process* process) {
    process->session = ++num_sessions_;
    Session& session = sessions_[process->session];
    session.worker_id = process->worker_id;
    v1::WorkerMessage message;
    v1::Hello* hello = message.mutable_hello();
    hello->set_worker_id(process->worker_id);
    hello->set_nonce(process->nonce);
    hello->set_numerics_id("cpu");
    hello->set_slot_hint(process->slot);
    process->state.FillHello(hello);
    session.up.push_back(std::move(message));
    for (v1::WorkerMessage& replayed : process->state.Replay()) {
      session.up.push_back(std::move(replayed));
    }
  }

  // One message of one session moves, in the order of its queue; or an exit is reported.
  void Deliver() {
    if (!exits_.empty() && Draw(3) == 0) {
      const std::string id = exits_.front();
      exits_.pop_front();
      Exit(id);
      return;
    }
    if (sessions_.empty()) return;
    auto at = sessions_.begin();
    std::advance(at, Draw(static_cast<int>(sessions_.size())));
    const uint64_t number = at->first;
    Session& session = at->second;
    const auto found = processes_.find(session.worker_id);
    Process* process =
        found != processes_.end() && found->second.session == number ? &found->second : nullptr;
    if (Draw(2) == 0 && !session.up.empty()) {
      const v1::WorkerMessage message = std::move(session.up.front());
      session.up.pop_front();
      Do(SessionMessage{number, message});
    } else if (!session.down.empty() && process != nullptr && !process->hung) {
      const v1::ControllerMessage message = std::move(session.down.front());
      session.down.pop_front();
      Hear(process, message);
    } else if (session.down.empty() && session.closed_by_controller) {
      if (process != nullptr) process->session = 0;
      sessions_.erase(at);
      Do(SessionClosed{number});
    } else if (process == nullptr && session.up.empty()) {
      // The worker's end is gone and all that it said has arrived.
      sessions_.erase(at);
      Do(SessionClosed{number});
    }
  }

  void Hear(Process* process, const v1::ControllerMessage& message) {
    using Delivery = SessionState::Delivery;
    for (const Delivery& delivery : process->state.Receive(message).deliveries) {
      switch (delivery.kind) {
        case Delivery::kAssign:
          assigned_.insert(process->worker_id);
          break;
        case Delivery::kPrepare:
          EXPECT_EQ(process->running, 0u) << "prepared while an epoch runs";
          process->to_prepare = delivery.message.prepare().epoch();
          break;
        case Delivery::kJoin:
          process->to_join = delivery.message.join().epoch();
          process->bootstrap = delivery.message.join().bootstrap();
          break;
        case Delivery::kActivate:
          process->running = delivery.message.activate().epoch();
          break;
        case Delivery::kAbort:
          process->running = 0;
          process->to_prepare = 0;
          process->to_join = 0;
          break;
        case Delivery::kDismiss:
          // Refused: the process ends.
          exits_.push_back(process->worker_id);
          break;
      }
    }
  }

  void Exit(const std::string& id) {
    const auto found = processes_.find(id);
    if (found == processes_.end()) return;
    const int slot = found->second.slot;
    processes_.erase(found);
    Do(WorkerExited{slot, id, "was killed by signal 9 (Killed)", ""});
  }

  void Fault() {
    if (processes_.empty()) return;
    auto at = processes_.begin();
    std::advance(at, Draw(static_cast<int>(processes_.size())));
    Process& process = at->second;
    switch (Draw(7)) {
      case 0:
      case 1: {  // it dies; what it said before may still arrive, before or after the exit
        const std::string id = at->first;
        if (Draw(2) == 0) {
          Exit(id);
        } else {
          process.session = 0;
          process.hung = true;
          exits_.push_back(id);
        }
        break;
      }
      case 2:
        // Nobody could notice that a lone rank hangs whose session is lost too.
        if (num_slots_ > 1 || process.session != 0) process.hung = true;
        break;
      case 3:  // its session breaks: what was under way is lost
        if (process.session != 0 && !process.hung) {
          Session& session = sessions_[process.session];
          session.down.clear();
          const size_t kept = static_cast<size_t>(Draw(static_cast<int>(session.up.size()) + 1));
          session.up.resize(kept);
          process.session = 0;
        }
        break;
      case 4:  // it fails its epoch, and may blame anybody
        FailEpoch(&process, Draw(num_slots_ + 1) - 1);
        break;
      case 5: {  // a second process under its name
        v1::WorkerMessage message;
        message.mutable_hello()->set_worker_id(process.worker_id);
        message.mutable_hello()->set_nonce(random_());
        message.mutable_hello()->set_numerics_id("cpu");
        if (process.session == 0) break;  // then it would be taken for the worker itself
        const uint64_t number = ++num_sessions_;
        sessions_[number].worker_id = "stranger";
        if (GroupKnows(process)) sessions_[number].up.push_back(message);
        break;
      }
      case 6:  // the controller is replaced; it finds the processes, they find it
        NewController();
        for (auto& [id, p] : processes_) p.session = 0;
        sessions_.clear();
        for (const auto& [id, p] : processes_) Do(WorkerStarted{p.slot, id});
        break;
    }
  }

  // Whether the group holds this process as a connected member, so that a stranger is refused.
  bool GroupKnows(const Process& process) const {
    const Session& session = sessions_.at(process.session);
    const bool hello_arrived = session.up.empty() || !session.up.front().has_hello();
    return hello_arrived && !session.closed_by_controller;
  }

  const int num_slots_;
  std::mt19937_64 random_;
  absl::Time now_ = absl::UnixEpoch();
  std::optional<Group> group_;
  uint64_t term_ = 0;
  bool faults_now_ = false;

  std::map<std::string, Process> processes_;
  std::map<uint64_t, Session> sessions_;
  std::deque<std::string> exits_;  // processes that are about to end
  std::set<std::string> assigned_;
  int num_moves_ = 0;
  uint64_t num_started_ = 0;
  uint64_t num_sessions_ = 0;

  std::set<uint64_t> claimed_;
  std::set<uint64_t> activated_;
  std::map<uint64_t, std::set<std::string>> members_;
  std::map<uint64_t, std::set<int>> joined_;
};

void Simulate(int num_slots, uint64_t seed, int num_faulty_moves, int* num_epochs) {
  SCOPED_TRACE(absl::StrCat("slots ", num_slots, ", seed ", seed));
  Cluster cluster(num_slots, seed);
  for (int i = 0; i < num_faulty_moves; ++i) {
    cluster.Move(/*faults=*/true);
    if (i % num_slots == 0) cluster.CheckInvariants();
    if (::testing::Test::HasFatalFailure() || ::testing::Test::HasNonfatalFailure()) return;
  }
  // Hung processes stay hung: the group must notice them.
  const int limit = 10'000 * num_slots;  // 500 seconds of the group's time
  int moves = 0;
  while (!cluster.Settled()) {
    cluster.Move(/*faults=*/false);
    if (moves % num_slots == 0) cluster.CheckInvariants();
    if (::testing::Test::HasFatalFailure()) return;
    ASSERT_LT(++moves, limit) << "did not become active again\n" << cluster.Describe();
  }
  *num_epochs += cluster.num_epochs();
}

TEST(GroupSimulationTest, ThousandsOfFaultyHistoriesKeepTheRulesAndEndActive) {
  int num_epochs = 0;
  for (uint64_t seed = 1; seed <= 3000; ++seed) {
    const int num_slots = 1 + static_cast<int>(seed % 5);
    Simulate(num_slots, seed, 300 * num_slots, &num_epochs);
    if (HasFailure()) return;
  }
  // The simulation must reach the interesting states, not only survive.
  std::printf("%d epochs became active\n", num_epochs);
  EXPECT_GT(num_epochs, 3000);
}

TEST(GroupSimulationTest, AFullWidthGroupKeepsTheRulesToo) {
  int num_epochs = 0;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    Simulate(64, seed, 20'000, &num_epochs);
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace moe::coordinator
