// See journal.h. This file: groups, their connections, and where sequences go.
#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gateway/journal/engine_view.h"
#include "gateway/journal/journal.h"
#include "gateway/journal/routing.h"

namespace moe::gateway {
namespace {

using coordinator::v1::GroupState;
using engine::v1::GatewayMessage;
using engine::v1::Welcome;

constexpr absl::Duration kLastingConnection = absl::Seconds(10);

}  // namespace

std::shared_ptr<Journal::Group> Journal::Find(const std::string& group) const {
  const auto found = groups_.find(group);
  return found == groups_.end() ? nullptr : found->second;
}

bool Journal::Computes(const Group& group) const {
  // A leader that waits for the next epoch speaks, but computes nothing.
  const bool between_epochs =
      group.state.phase() == GroupState::RECOVERING || group.state.phase() == GroupState::FAILED;
  return group.connected && !stopping_ && !between_epochs &&
         options_.now() - group.last_heard <= options_.silence;
}

bool Journal::IsLost(const Group& group) const {
  return group.gone || group.other_model || group.state.phase() == GroupState::FAILED ||
         options_.now() - group.lost_since >= options_.group_grace;
}

void Journal::UpdateLost(Group& group) {
  if (Computes(group)) {
    group.lost_since = absl::InfiniteFuture();
  } else {
    group.lost_since = std::min(group.lost_since, options_.now());
  }
}

bool Journal::AllFailed() const {
  return NumUsable() > 0 && std::all_of(groups_.begin(), groups_.end(), [](const auto& entry) {
           return entry.second->other_model || entry.second->state.phase() == GroupState::FAILED;
         });
}

bool Journal::OnlyDrainingOfItsModel() const {
  bool any_other = false;
  for (const auto& [name, group] : groups_) {
    // One that has loaded nothing yet may be of any model.
    const bool is_own =
        !group->other_model && (group->connected || !group->state.model_digest().empty());
    if (is_own && !group->state.draining()) {
      return false;
    }
    any_other = any_other || group->other_model;
  }
  return any_other;
}

int Journal::NumUsable() const {
  return static_cast<int>(std::count_if(groups_.begin(), groups_.end(), [](const auto& entry) {
    return !entry.second->other_model;
  }));
}

void Journal::SetModel(const std::string& name, const std::string& digest, Group& group) {
  const bool other = !options_.model_digest.empty() && digest != options_.model_digest;
  if (other && !group.other_model && options_.log) {
    options_.log(absl::StrCat("group ", name, " serves another model (digest ", digest,
                              ") than this gateway (", options_.model_digest,
                              "): nothing is sent to it"));
  }
  group.other_model = other;
}

void Journal::OnGroups(const coordinator::v1::GroupStates& groups) {
  absl::MutexLock lock(&mutex_);
  ever_listed_ = true;
  std::set<std::string> listed;
  for (const GroupState& state : groups.groups()) {
    listed.insert(state.group());
    std::shared_ptr<Group>& group = groups_[state.group()];
    if (group == nullptr) {
      group = std::make_shared<Group>();
    }
    group->state = state;
    // Empty before anybody has loaded it.
    if (!state.model_digest().empty()) {
      SetModel(state.group(), state.model_digest(), *group);
    }
    if (group->other_model) {
      Disconnect(*group);
    }
    UpdateLost(*group);
  }
  for (auto it = groups_.begin(); it != groups_.end();) {
    if (listed.count(it->first) != 0) {
      ++it;
      continue;
    }
    it->second->gone = true;
    Disconnect(*it->second);
    it = groups_.erase(it);
  }
  if (AllFailed()) {
    EndAll(absl::UnavailableError("the engine has failed"));
    return;
  }
  // Nothing more comes from a group that was given up, though its leader may still be connected.
  for (const auto& [order, sequence] : live_) {
    if (sequence->number != 0 && sequence->group->state.phase() == GroupState::FAILED) {
      Cancel(*sequence);
      sequence->stalled_since = std::min(sequence->stalled_since, options_.now());
    }
  }
  PlaceAll();
}

absl::Status Journal::OnWelcome(const std::string& group_name, const Welcome& welcome) {
  absl::MutexLock lock(&mutex_);
  if (stopping_) {
    return absl::UnavailableError("The server is shutting down.");
  }
  const std::shared_ptr<Group> group = Find(group_name);
  if (group == nullptr) {
    return absl::FailedPreconditionError("the group is gone");
  }
  SetModel(group_name, welcome.model_digest(), *group);
  if (group->other_model) {
    PlaceAll();
    return absl::FailedPreconditionError("the group serves another model than this gateway");
  }
  const bool other_model =
      group->ever_connected && welcome.model_digest() != group->welcome.model_digest();
  if (other_model && options_.single_group) {
    group->refused_reason = "the engine serves another model than when this gateway started";
    EndAll(absl::FailedPreconditionError(group->refused_reason));
    return absl::FailedPreconditionError(group->refused_reason);
  }
  // A group of another model has begun a life of its own under an old name.
  if (!other_model && welcome.epoch() < group->epoch) {
    group->refused_reason = absl::StrCat("a leader of epoch ", welcome.epoch(), " answered; epoch ",
                                         group->epoch, " is already known");
    return absl::FailedPreconditionError(group->refused_reason);
  }
  group->refused_reason.clear();
  num_failovers_ += group->ever_connected ? 1 : 0;
  group->connected = true;
  group->ever_connected = true;
  ever_connected_ = true;
  group->epoch = welcome.epoch();
  group->welcome = welcome;
  last_welcome_ = welcome;
  group->last_heard = group->connected_at = options_.now();
  group->outgoing.clear();
  UpdateLost(*group);
  const std::map<uint64_t, std::shared_ptr<Sequence>> live = live_;
  for (const auto& [order, sequence] : live) {
    const bool can_go_on =
        !sequence->begun() || (sequence->model_digest == welcome.model_digest() &&
                               sequence->numerics_id == welcome.numerics_id());
    if (sequence->group != group || can_go_on) {
      continue;
    }
    if (options_.single_group) {
      End(sequence, absl::FailedPreconditionError("the engine's numerics changed"));
    } else {
      sequence->group = nullptr;
    }
  }
  PlaceAll();
  return absl::OkStatus();
}

void Journal::OnDisconnect(const std::string& group_name) {
  absl::MutexLock lock(&mutex_);
  if (const std::shared_ptr<Group> group = Find(group_name); group != nullptr) {
    Disconnect(*group);
    PlaceAll();
  }
}

void Journal::Disconnect(Group& group) {
  if (!group.connected) {
    return;
  }
  const absl::Time now = options_.now();
  // A leader that lasted is a success, so the deadline starts anew. One that dies at once is not:
  // a group in a crash loop must reach the deadline.
  const bool lasted = now - group.connected_at >= kLastingConnection;
  for (const auto& [number, sequence] : group.submitted) {
    sequence->number = 0;
    sequence->retry_at = absl::InfinitePast();
    sequence->stalled_since = lasted ? now : std::min(sequence->stalled_since, now);
    Recount(*sequence);
  }
  group.connected = false;
  group.submitted.clear();
  group.outgoing.clear();
  group.outgoing_changed.SignalAll();
  UpdateLost(group);
}

std::shared_ptr<Journal::Group> Journal::Choose(const Sequence& sequence, bool placed) const {
  const absl::Time now = options_.now();
  // What is asked of this gateway has nowhere else to go, so the last groups of its model take new
  // sequences until they are stopped.
  const bool last_of_model = OnlyDrainingOfItsModel();
  std::vector<std::shared_ptr<Group>> groups;
  std::vector<RouteGroup> candidates;
  for (const auto& [name, group] : groups_) {
    RouteGroup& candidate = candidates.emplace_back();
    candidate.connected = group->connected && group->state.phase() != GroupState::FAILED;
    candidate.serving = Computes(*group);
    candidate.draining = group->state.draining() && !last_of_model;
    candidate.full = now < group->full_until;
    candidate.model_digest = group->welcome.model_digest();
    candidate.numerics_id = group->welcome.numerics_id();
    candidate.max_sequence_tokens = SequenceLimit(group->welcome);
    candidate.outstanding_tokens = group->outstanding_tokens;
    candidate.num_own = static_cast<int64_t>(group->submitted.size());
    candidate.num_reported = int64_t{group->stats.num_running()} + group->stats.num_waiting();
    groups.push_back(group);
  }
  RouteSequence route;
  route.begun = sequence.begun();
  route.model_digest = sequence.model_digest;
  route.numerics_id = sequence.numerics_id;
  route.placed = placed;
  route.num_tokens = static_cast<int64_t>(sequence.request.prompt_tokens.size()) +
                     sequence.request.sampling.max_tokens();
  route.turn = sequence.order;
  const std::optional<size_t> chosen = ChooseGroup(candidates, route);
  return chosen.has_value() ? groups[*chosen] : nullptr;
}

void Journal::Place(const std::shared_ptr<Sequence>& sequence) {
  const std::shared_ptr<Group> home = sequence->group;
  const bool waits = sequence->number == 0;
  if (waits && options_.now() < sequence->retry_at) {
    return;
  }
  if (waits && !sequence->begun()) {
    if (const std::shared_ptr<Group> group = Choose(*sequence, /*placed=*/false)) {
      Submit(sequence, group);
    }
    return;
  }
  const bool refused = waits && sequence->num_refusals > 0;
  if (home == nullptr || refused || IsLost(*home)) {
    const std::shared_ptr<Group> other = Choose(*sequence, /*placed=*/true);
    if (other != nullptr && (waits || other != home)) {
      num_moved_ += sequence->begun() && other != home ? 1 : 0;
      Cancel(*sequence);
      sequence->stalled_since = std::min(sequence->stalled_since, options_.now());
      Submit(sequence, other);
      return;
    }
  }
  if (waits && home != nullptr && home->connected && home->state.phase() != GroupState::FAILED) {
    Submit(sequence, home);
  }
}

void Journal::PlaceAll() {
  for (const auto& [order, sequence] : live_) {
    Place(sequence);
  }
}

void Journal::Tick() {
  absl::MutexLock lock(&mutex_);
  const absl::Time now = options_.now();
  for (const auto& [name, group] : groups_) {
    UpdateLost(*group);
  }
  const std::map<uint64_t, std::shared_ptr<Sequence>> live = live_;
  for (const auto& [order, sequence] : live) {
    // Time in a live leader's queue is not a stall: the leader has it and says so by its silence.
    if (sequence->number == 0 && now - sequence->stalled_since >= options_.failover_deadline) {
      End(sequence, absl::UnavailableError("no engine took this request over in time"));
    } else {
      Place(sequence);
    }
  }
}

bool Journal::TakeOutgoing(const std::string& group_name, absl::Duration timeout,
                           std::vector<GatewayMessage>* messages) {
  messages->clear();
  absl::MutexLock lock(&mutex_);
  const std::shared_ptr<Group> group = Find(group_name);
  if (group == nullptr) {
    return false;
  }
  const absl::Time deadline = absl::Now() + timeout;
  while (group->connected && !stopping_ && group->outgoing.empty() &&
         timeout > absl::ZeroDuration()) {
    if (group->outgoing_changed.WaitWithDeadline(&mutex_, deadline)) {
      break;
    }
  }
  if (!group->connected) {
    return false;
  }
  messages->swap(group->outgoing);
  return !stopping_ || !messages->empty();
}

bool Journal::connected(const std::string& group_name) const {
  absl::MutexLock lock(&mutex_);
  const std::shared_ptr<Group> group = Find(group_name);
  return group != nullptr && group->connected;
}

absl::Time Journal::last_heard(const std::string& group_name) const {
  absl::MutexLock lock(&mutex_);
  const std::shared_ptr<Group> group = Find(group_name);
  return group == nullptr ? absl::InfinitePast() : group->last_heard;
}

std::string Journal::WhyNotServing(const Group& group) const {
  if (group.other_model) {
    return "It serves another model than this gateway.";
  }
  switch (group.state.phase()) {
    case GroupState::STARTING:
      return "The engine is starting.";
    case GroupState::LOADING:
      return "The engine is loading the model.";
    case GroupState::CONNECTING:
      return "The engine is connecting its workers.";
    case GroupState::RECOVERING:
      return "The engine is recovering from the loss of a worker.";
    case GroupState::FAILED:
      return "The engine has failed.";
    case GroupState::STOPPING:
      return "The engine is stopping.";
    default:
      break;
  }
  if (!group.refused_reason.empty()) {
    return absl::StrCat("The engine can't be used: ", group.refused_reason, ".");
  }
  return group.ever_connected ? "The engine does not answer." : "The engine is not connected yet.";
}

Welcome Journal::welcome() const {
  absl::MutexLock lock(&mutex_);
  const Welcome* longest = nullptr;
  for (const auto& [name, group] : groups_) {
    if (group->ever_connected && !group->other_model && !group->state.draining() &&
        (longest == nullptr || SequenceLimit(group->welcome) > SequenceLimit(*longest))) {
      longest = &group->welcome;
    }
  }
  return longest == nullptr ? last_welcome_ : *longest;
}

EngineView Journal::MakeView() const {
  std::vector<GroupView> groups;
  groups.reserve(groups_.size());
  for (const auto& [name, group] : groups_) {
    GroupView& shown = groups.emplace_back();
    shown.name = name;
    shown.serving = Computes(*group);
    shown.other_model = group->other_model;
    shown.reason = shown.serving ? "" : WhyNotServing(*group);
    shown.welcome = group->welcome;
    shown.stats = group->stats;
    shown.state = group->state;
    shown.num_sequences = static_cast<int64_t>(group->submitted.size());
    shown.outstanding_tokens = group->outstanding_tokens;
  }
  EngineView view = Summarize(std::move(groups), last_welcome_);
  if (stopping_) {
    view.reason = "The server is shutting down.";
  } else if (!ever_listed_) {
    view.reason = "The engine is not connected yet.";
  }
  view.num_failovers = num_failovers_;
  view.num_moved = num_moved_;
  view.num_dropped_events = num_dropped_events_;
  return view;
}

EngineView Journal::view() const {
  absl::MutexLock lock(&mutex_);
  return MakeView();
}

}  // namespace moe::gateway
