// A group that a test drives by hand: events in, actions out, on a clock that only the test moves.
#ifndef MOE_TESTS_CONTROLLER_COORDINATOR_GROUP_FIXTURE_H_
#define MOE_TESTS_CONTROLLER_COORDINATOR_GROUP_FIXTURE_H_

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "controller/coordinator/group.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::coordinator {

// Drives a group by hand: carries out claims and starts at once, keeps all actions for looking at.
class GroupTest : public ::testing::Test {
 protected:
  void Make(int num_slots, GroupOptions options = {}) {
    options.placement = *PlaceInBlocks(2 * num_slots, num_slots);
    options.num_layers = 1;
    group_.emplace(std::move(options));
  }

  // Steps and returns what is to be done, after starting processes and claiming epochs.
  std::vector<Action> Step(const Event& event) {
    std::vector<Action> all;
    std::vector<Event> events = {event};
    for (size_t i = 0; i < events.size(); ++i) {
      const Event current = events[i];
      for (Action& action : group_->Step(current, now_)) {
        if (const auto* start = std::get_if<StartWorker>(&action)) {
          const std::string id = absl::StrCat("w", start->slot, ".", ++starts_[start->slot]);
          ids_[start->slot] = id;
          events.emplace_back(WorkerStarted{start->slot, id});
        } else if (const auto* claim = std::get_if<ClaimEpoch>(&action)) {
          claims_.push_back(claim->epoch);
          events.emplace_back(EpochClaimed{claim->epoch, claim_status_});
        }
        all.push_back(std::move(action));
      }
    }
    return all;
  }

  std::vector<Action> Advance(absl::Duration duration) {
    std::vector<Action> all;
    const absl::Time until = now_ + duration;
    while (now_ < until) {
      now_ += absl::Milliseconds(100);
      if (heartbeats_) {
        for (const auto& [slot, session] : sessions_) {
          if (silent_.contains(slot)) continue;
          v1::WorkerMessage message;
          message.mutable_heartbeat();
          Append(Step(SessionMessage{session, message}), &all);
        }
      }
      Append(Step(Tick{}), &all);
    }
    return all;
  }

  static void Append(std::vector<Action> more, std::vector<Action>* all) {
    for (Action& action : more) all->push_back(std::move(action));
  }

  v1::WorkerMessage HelloOf(int slot, uint64_t epoch = 0) {
    v1::WorkerMessage message;
    v1::Hello* hello = message.mutable_hello();
    hello->set_worker_id(ids_[slot]);
    hello->set_nonce(1000 + static_cast<uint64_t>(100 * slot + starts_[slot]));
    hello->set_numerics_id("cpu-1");
    hello->set_engine_address(absl::StrCat("unix:engine-", slot));
    hello->set_slot_hint(slot);
    hello->set_epoch(epoch);
    return message;
  }

  std::vector<Action> Hello(int slot, uint64_t epoch = 0) {
    sessions_[slot] = ++last_session_;
    return Step(SessionMessage{last_session_, HelloOf(slot, epoch)});
  }
  std::vector<Action> Loaded(int slot, const std::string& digest = "digest") {
    v1::WorkerMessage message;
    message.mutable_loaded()->set_model_digest(digest);
    message.mutable_loaded()->set_bytes(100);
    message.mutable_loaded()->set_kv_capacity_tokens(slot == 0 ? 640 : 0);
    return Step(SessionMessage{sessions_[slot], message});
  }
  std::vector<Action> Prepared(int slot, uint64_t epoch, const std::string& bootstrap = "") {
    v1::WorkerMessage message;
    message.mutable_prepared()->set_epoch(epoch);
    message.mutable_prepared()->set_bootstrap(bootstrap);
    return Step(SessionMessage{sessions_[slot], message});
  }
  std::vector<Action> Joined(int slot, uint64_t epoch) {
    v1::WorkerMessage message;
    message.mutable_joined()->set_epoch(epoch);
    return Step(SessionMessage{sessions_[slot], message});
  }
  std::vector<Action> EpochFailed(int slot, uint64_t epoch, int suspect) {
    v1::WorkerMessage message;
    message.mutable_epoch_failed()->set_epoch(epoch);
    message.mutable_epoch_failed()->set_reason("no rows came");
    message.mutable_epoch_failed()->set_suspect_slot(suspect);
    return Step(SessionMessage{sessions_[slot], message});
  }
  std::vector<Action> Exit(int slot, const std::string& how = "was killed by signal 9 (Killed)") {
    sessions_.erase(slot);
    return Step(WorkerExited{slot, ids_[slot], how, "line one\nline two"});
  }

  void LoadAll() {
    Step(Tick{});
    for (size_t i = 0; i < group_->spec().num_slots(); ++i) {
      const int slot = static_cast<int>(i);
      if (!sessions_.contains(slot)) {
        Hello(slot);
        Loaded(slot);
      }
    }
  }
  // Answers Prepare and Join of the last claimed epoch for all.
  void Form() {
    const uint64_t epoch = claims_.back();
    for (const auto& [slot, session] : sessions_) Prepared(slot, epoch, slot == 0 ? "secret" : "");
    for (const auto& [slot, session] : sessions_) Joined(slot, epoch);
    ASSERT_EQ(group_->phase(), v1::GroupState::ACTIVE);
  }
  void MakeActive(int num_slots, GroupOptions options = {}) {
    Make(num_slots, std::move(options));
    LoadAll();
    Form();
  }

  // The second controller of a group, whose processes run already.
  void TakeOver(int num_slots, uint64_t last_epoch) {
    GroupOptions options;
    options.term = 2;
    options.last_epoch = last_epoch;
    Make(num_slots, options);
    for (int slot = 0; slot < num_slots; ++slot) {
      ids_[slot] = absl::StrCat("old", slot);
      Step(WorkerStarted{slot, ids_[slot]});
    }
  }

  template <typename T>
  static std::vector<T> Only(const std::vector<Action>& actions) {
    std::vector<T> result;
    for (const Action& action : actions) {
      if (const T* t = std::get_if<T>(&action)) result.push_back(*t);
    }
    return result;
  }
  // "SLOT:kind epoch" of each message sent to an open session.
  std::vector<std::string> Sent(const std::vector<Action>& actions) const {
    std::vector<std::string> sent;
    for (const SendMessage& send : Only<SendMessage>(actions)) {
      std::string to = "?";
      for (const auto& [slot, session] : sessions_) {
        if (session == send.session) to = absl::StrCat(slot);
      }
      const v1::ControllerMessage& m = send.message;
      std::string what;
      if (m.has_assign()) what = absl::StrCat("assign ", m.assign().slot());
      if (m.has_prepare()) what = absl::StrCat("prepare ", m.prepare().epoch());
      if (m.has_join()) what = absl::StrCat("join ", m.join().epoch());
      if (m.has_activate()) what = absl::StrCat("activate ", m.activate().epoch());
      if (m.has_abort()) what = absl::StrCat("abort ", m.abort().epoch());
      if (m.has_dismiss()) what = absl::StrCat("dismiss ", m.dismiss().reason());
      sent.push_back(absl::StrCat(to, ":", what));
    }
    return sent;
  }

  std::optional<Group> group_;
  absl::Time now_ = absl::UnixEpoch();
  absl::Status claim_status_;
  bool heartbeats_ = true;
  std::map<int, bool> silent_;
  std::map<int, std::string> ids_;
  std::map<int, int> starts_;
  std::map<int, uint64_t> sessions_;
  std::vector<uint64_t> claims_;
  uint64_t last_session_ = 0;
};

}  // namespace moe::coordinator

#endif  // MOE_TESTS_CONTROLLER_COORDINATOR_GROUP_FIXTURE_H_
