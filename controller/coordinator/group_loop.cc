#include "controller/coordinator/group_loop.h"

#include <chrono>
#include <optional>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "controller/coordinator/placement.h"
#include "spdlog/spdlog.h"

namespace moe::coordinator {
namespace {

// Monotonic; its zero means nothing.
absl::Time SteadyNow() {
  return absl::UnixEpoch() + absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

}  // namespace

absl::StatusOr<std::shared_ptr<GroupLoop>> GroupLoop::Start(GroupLoopOptions options,
                                                            std::unique_ptr<EpochStore> store,
                                                            runtime::Runtime* runtime) {
  if (absl::Status status = CheckPlacement(options.group.placement); !status.ok()) return status;
  if (options.group.num_attention_ranks < 1 ||
      options.group.num_attention_ranks > options.group.placement.num_slots) {
    return absl::InvalidArgumentError(
        absl::StrCat("attention ranks: ", options.group.num_attention_ranks, " is not in 1 to ",
                     options.group.placement.num_slots, ", the number of workers"));
  }
  options.group.term = store->term();
  options.group.last_epoch = store->last_epoch();
  std::shared_ptr<GroupLoop> loop(new GroupLoop(std::move(options), std::move(store), runtime));
  // The runtime may keep its callbacks for longer than the loop lives. What it reports here comes
  // before the first tick, which starts the workers that are missing.
  runtime->SetCallbacks(
      {.on_exit =
           [weak = loop->weak_from_this()](const runtime::WorkerExit& exit) {
             if (const auto self = weak.lock()) {
               self->Push(
                   WorkerExited{exit.slot, exit.worker_id, exit.description, exit.last_lines});
             }
           },
       .on_started =
           [weak = loop->weak_from_this()](int slot, const std::string& worker_id) {
             if (const auto self = weak.lock()) self->Push(WorkerStarted{slot, worker_id});
           }});
  loop->loop_ = std::thread([raw = loop.get()] { raw->Loop(); });
  return loop;
}

GroupLoop::GroupLoop(GroupLoopOptions options, std::unique_ptr<EpochStore> store,
                     runtime::Runtime* runtime)
    : options_(std::move(options)),
      store_(std::move(store)),
      runtime_(runtime),
      log_name_(options_.group.name.empty() ? "" : absl::StrCat(options_.group.name, ": ")),
      group_(options_.group),
      published_(std::make_shared<const v1::GroupState>(group_.State())) {}

GroupLoop::~GroupLoop() = default;

void GroupLoop::Connect(uint64_t session, std::shared_ptr<WorkerSession> stream,
                        v1::WorkerMessage hello) {
  absl::Status closed;
  {
    absl::MutexLock lock(&mu_);
    if (!loop_ends_) {
      sessions_[session] = std::move(stream);
      events_.emplace_back(SessionMessage{session, std::move(hello)});
      return;
    }
    closed = end_status_;
  }
  stream->Close(closed);
}

void GroupLoop::Receive(uint64_t session, v1::WorkerMessage message) {
  Push(SessionMessage{session, std::move(message)});
}

void GroupLoop::Disconnect(uint64_t session) {
  absl::MutexLock lock(&mu_);
  sessions_.erase(session);
  if (!loop_ends_) events_.emplace_back(SessionClosed{session});
}

void GroupLoop::SetDraining() { Push(DrainRequested{}); }

void GroupLoop::StopWorkers(absl::Duration grace) {
  {
    absl::MutexLock lock(&mu_);
    if (!loop_ends_) events_.emplace_back(StopRequested{});
    // Until the loop has told the workers and will start no more of them.
    const auto told = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
      return stop_handled_ || loop_ended_;
    };
    mu_.Await(absl::Condition(&told));
  }
  runtime_->StopAll(grace);
}

void GroupLoop::Stop(const absl::Status& status) {
  std::map<uint64_t, std::shared_ptr<WorkerSession>> sessions;
  {
    absl::MutexLock lock(&mu_);
    if (loop_ends_) {
      mu_.Await(absl::Condition(&loop_ended_));
      return;
    }
    loop_ends_ = true;
    end_status_ = status;
  }
  loop_.join();
  store_.reset();  // others may hold this object for longer
  {
    absl::MutexLock lock(&mu_);
    sessions.swap(sessions_);
    loop_ended_ = true;
  }
  for (const auto& [id, session] : sessions) session->Close(status);
}

std::shared_ptr<const v1::GroupState> GroupLoop::State() const {
  absl::MutexLock lock(&mu_);
  return published_;
}

void GroupLoop::Push(Event event) {
  absl::MutexLock lock(&mu_);
  if (!loop_ends_) events_.push_back(std::move(event));
}

std::shared_ptr<WorkerSession> GroupLoop::FindSession(uint64_t session) const {
  absl::MutexLock lock(&mu_);
  const auto found = sessions_.find(session);
  return found == sessions_.end() ? nullptr : found->second;
}

// ---- The loop's thread ----

void GroupLoop::Loop() {
  absl::Time next_tick = SteadyNow();
  while (true) {
    std::deque<Event> events;
    {
      absl::MutexLock lock(&mu_);
      mu_.AwaitWithTimeout(absl::Condition(this, &GroupLoop::HasWork), next_tick - SteadyNow());
      if (loop_ends_) break;
      events.swap(events_);
    }
    // All that has come before the clock moves on: a heartbeat in the queue is no silence.
    for (; !events.empty(); events.pop_front()) Handle(events.front());
    const absl::Time now = SteadyNow();
    if (now >= next_tick) {
      Handle(Tick{});
      next_tick = now + options_.tick;
    }
    Publish(now);
  }
  Publish(SteadyNow());
}

void GroupLoop::Handle(const Event& event) {
  // What follows from carrying out actions comes before what others report: a worker's Hello must
  // find its process known.
  std::deque<Event> events = {event};
  for (; !events.empty(); events.pop_front()) {
    for (Action& action : group_.Step(events.front(), SteadyNow())) {
      std::visit([&](auto& a) { Do(a, &events); }, action);
    }
    if (const auto* message = std::get_if<SessionMessage>(&events.front())) {
      if (const auto session = FindSession(message->session)) session->ReadNext();
    }
  }
  if (std::holds_alternative<StopRequested>(event)) {
    absl::MutexLock lock(&mu_);
    stop_handled_ = true;
  }
}

void GroupLoop::Do(SendMessage& action, std::deque<Event>* /*events*/) {
  if (const auto session = FindSession(action.session)) session->Send(std::move(action.message));
}

void GroupLoop::Do(CloseSession& action, std::deque<Event>* /*events*/) {
  const auto session = FindSession(action.session);
  if (session == nullptr) return;
  session->Close(action.retry_reason.empty() ? absl::OkStatus()
                                             : absl::UnavailableError(action.retry_reason));
}

void GroupLoop::Do(StartWorker& action, std::deque<Event>* events) {
  const absl::StatusOr<std::optional<std::string>> worker_id = runtime_->StartWorker(action.slot);
  if (!worker_id.ok()) {
    events->push_back(WorkerStartFailed{action.slot, std::string(worker_id.status().message())});
  } else if (worker_id->has_value()) {
    events->push_back(WorkerStarted{action.slot, **worker_id});
  }
}

void GroupLoop::Do(KillWorker& action, std::deque<Event>* /*events*/) {
  runtime_->Kill(action.worker_id, action.reason);
}

void GroupLoop::Do(ClaimEpoch& action, std::deque<Event>* events) {
  events->push_back(EpochClaimed{action.epoch, store_->Claim(action.epoch)});
}

void GroupLoop::Do(GiveUp& action, std::deque<Event>* /*events*/) {
  spdlog::error("{}the group has failed: {}", log_name_, action.reason);
}

void GroupLoop::Do(LogLine& action, std::deque<Event>* /*events*/) {
  spdlog::log(action.warning ? spdlog::level::warn : spdlog::level::info, "{}{}", log_name_,
              action.text);
}

// Publishes a change of phase, epoch or draining at once, anything else every publish_interval.
void GroupLoop::Publish(absl::Time now) {
  const bool changed = group_.version() != published_version_;
  const bool urgent =
      changed && (group_.phase() != published_phase_ || group_.epoch() != published_epoch_ ||
                  group_.draining() != published_draining_);
  if (!urgent && now - published_at_ < options_.publish_interval) return;
  published_version_ = group_.version();
  published_phase_ = group_.phase();
  published_epoch_ = group_.epoch();
  published_draining_ = group_.draining();
  published_at_ = now;
  auto state = std::make_shared<const v1::GroupState>(group_.State());
  {
    absl::MutexLock lock(&mu_);
    published_ = state;
  }
  if (options_.on_published) options_.on_published(state, urgent);
}

}  // namespace moe::coordinator
