#include "controller/coordinator/server.h"

#include <grpcpp/grpcpp.h>
#include <grpcpp/server_builder.h>

#include <chrono>
#include <deque>
#include <map>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "controller/coordinator/streams.h"
#include "proto/coordinator.grpc.pb.h"
#include "spdlog/spdlog.h"

namespace moe::coordinator {
namespace {

// Monotonic; its zero means nothing.
absl::Time SteadyNow() {
  return absl::UnixEpoch() + absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

}  // namespace

class CoordinatorServer::Impl : public v1::Coordinator::CallbackService {
 public:
  Impl(CoordinatorOptions options, std::unique_ptr<EpochStore> store, runtime::Runtime* runtime)
      : options_(std::move(options)),
        store_(std::move(store)),
        runtime_(runtime),
        group_(options_.group) {
    published_ = std::make_shared<v1::GroupState>(group_.State());
  }

  ~Impl() override { Shutdown(absl::ZeroDuration()); }

  absl::Status Listen() {
    grpc::ServerBuilder builder;
    // SO_REUSEPORT would let a second controller listen beside this one unnoticed.
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    int port = 0;
    builder.AddListeningPort(options_.listen_address, grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr) {
      return absl::UnavailableError(absl::StrCat("cannot listen on ", options_.listen_address));
    }
    address_ = options_.listen_address;
    if (!absl::StartsWith(address_, "unix:")) {
      address_ = absl::StrCat(address_.substr(0, address_.rfind(':')), ":", port);
    }
    return absl::OkStatus();
  }

  void StartLoop() {
    runtime_->SetExitCallback([this](const runtime::WorkerExit& exit) {
      Push(WorkerExited{exit.slot, exit.worker_id, exit.description, exit.last_lines});
    });
    loop_ = std::thread([this] { Loop(); });
  }

  void Shutdown(absl::Duration grace) {
    {
      absl::MutexLock lock(&mu_);
      if (shutdown_begun_) {
        mu_.Await(absl::Condition(&shutdown_done_));
        return;
      }
      shutdown_begun_ = true;
    }
    if (loop_.joinable()) {
      Push(StopRequested{});
      {
        // Until the loop has told the workers and will start no more of them.
        absl::MutexLock lock(&mu_);
        mu_.Await(absl::Condition(&stop_handled_));
      }
      runtime_->StopAll(grace);
      {
        absl::MutexLock lock(&mu_);
        loop_ends_ = true;
      }
      loop_.join();
    }
    if (server_ != nullptr) {
      std::vector<std::shared_ptr<WatchStream>> watchers;
      {
        absl::MutexLock lock(&mu_);
        for (const auto& [id, watcher] : watchers_) watchers.push_back(watcher);
      }
      for (const auto& watcher : watchers) watcher->Close();
      server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
      server_->Wait();
    }
    absl::MutexLock lock(&mu_);
    shutdown_done_ = true;
  }

  v1::GroupState State() const {
    absl::MutexLock lock(&mu_);
    return *published_;
  }
  const std::string& address() const { return address_; }

 private:
  // ---- gRPC's threads ----

  grpc::ServerBidiReactor<v1::WorkerMessage, v1::ControllerMessage>* Session(
      grpc::CallbackServerContext* /*context*/) override {
    std::shared_ptr<SessionStream> stream;
    {
      absl::MutexLock lock(&mu_);
      const uint64_t id = ++last_stream_;
      stream = SessionStream::Create(id, {.on_message =
                                              [this](uint64_t session, v1::WorkerMessage message) {
                                                Push(SessionMessage{session, std::move(message)});
                                              },
                                          .on_closed =
                                              [this](uint64_t session) {
                                                absl::MutexLock inner(&mu_);
                                                sessions_.erase(session);
                                                events_.emplace_back(SessionClosed{session});
                                              }});
      sessions_[id] = stream;
    }
    stream->ReadNext();
    return stream.get();
  }

  grpc::ServerWriteReactor<v1::GroupState>* WatchGroup(
      grpc::CallbackServerContext* /*context*/, const v1::WatchGroupRequest* /*request*/) override {
    std::shared_ptr<WatchStream> stream;
    std::shared_ptr<const v1::GroupState> state;
    {
      absl::MutexLock lock(&mu_);
      const uint64_t id = ++last_stream_;
      stream = WatchStream::Create([this, id] {
        absl::MutexLock inner(&mu_);
        watchers_.erase(id);
      });
      watchers_[id] = stream;
      state = published_;
    }
    stream->Show(std::move(state));
    return stream.get();
  }

  void Push(Event event) {
    absl::MutexLock lock(&mu_);
    events_.push_back(std::move(event));
  }

  // ---- The loop thread ----

  bool HasWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return !events_.empty() || loop_ends_; }

  void Loop() {
    absl::Time next_tick = SteadyNow();
    while (true) {
      std::deque<Event> events;
      {
        absl::MutexLock lock(&mu_);
        mu_.AwaitWithTimeout(absl::Condition(this, &Impl::HasWork), next_tick - SteadyNow());
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

  void Handle(const Event& event) {
    // What follows from carrying out actions comes before what others report: a worker's Hello must
    // find its process known.
    std::deque<Event> events = {event};
    for (; !events.empty(); events.pop_front()) {
      for (Action& action : group_.Step(events.front(), SteadyNow())) {
        std::visit([&](auto& a) { Do(a, &events); }, action);
      }
      if (const auto* message = std::get_if<SessionMessage>(&events.front())) {
        if (const auto stream = FindSession(message->session)) stream->ReadNext();
      }
    }
    if (std::holds_alternative<StopRequested>(event)) {
      absl::MutexLock lock(&mu_);
      stop_handled_ = true;
    }
  }

  void Do(SendMessage& action, std::deque<Event>* /*events*/) {
    if (const auto stream = FindSession(action.session)) stream->Send(std::move(action.message));
  }
  void Do(CloseSession& action, std::deque<Event>* /*events*/) {
    if (const auto stream = FindSession(action.session)) stream->Close();
  }
  void Do(StartWorker& action, std::deque<Event>* events) {
    const absl::StatusOr<std::string> worker_id = runtime_->StartWorker(action.slot);
    if (worker_id.ok()) {
      events->push_back(WorkerStarted{action.slot, *worker_id});
    } else {
      events->push_back(WorkerStartFailed{action.slot, std::string(worker_id.status().message())});
    }
  }
  void Do(KillWorker& action, std::deque<Event>* /*events*/) { runtime_->Kill(action.worker_id); }
  void Do(ClaimEpoch& action, std::deque<Event>* events) {
    events->push_back(EpochClaimed{action.epoch, store_->Claim(action.epoch)});
  }
  void Do(GiveUp& action, std::deque<Event>* /*events*/) {
    spdlog::error("the group has failed: {}", action.reason);
  }
  void Do(LogLine& action, std::deque<Event>* /*events*/) {
    spdlog::log(action.warning ? spdlog::level::warn : spdlog::level::info, "{}", action.text);
  }

  std::shared_ptr<SessionStream> FindSession(uint64_t session) {
    absl::MutexLock lock(&mu_);
    const auto found = sessions_.find(session);
    return found == sessions_.end() ? nullptr : found->second;
  }

  // Shows a change of phase or epoch at once, anything else every publish_interval.
  void Publish(absl::Time now) {
    const bool changed = group_.version() != published_version_;
    const bool urgent = changed && group_.phase() != published_phase_;
    const bool epoch_moved = changed && group_.epoch() != published_epoch_;
    if (!urgent && !epoch_moved && now - published_at_ < options_.publish_interval) return;
    published_version_ = group_.version();
    published_phase_ = group_.phase();
    published_epoch_ = group_.epoch();
    published_at_ = now;
    auto state = std::make_shared<const v1::GroupState>(group_.State());
    std::vector<std::shared_ptr<WatchStream>> watchers;
    {
      absl::MutexLock lock(&mu_);
      published_ = state;
      for (const auto& [id, watcher] : watchers_) watchers.push_back(watcher);
    }
    for (const auto& watcher : watchers) watcher->Show(state);
    if (options_.on_state) options_.on_state(*state);
  }

  const CoordinatorOptions options_;
  const std::unique_ptr<EpochStore> store_;  // used by the loop thread
  runtime::Runtime* const runtime_;
  std::string address_;
  std::thread loop_;

  // Of the loop thread.
  Group group_;
  uint64_t published_version_ = 0;
  uint64_t published_epoch_ = 0;
  v1::GroupState::Phase published_phase_ = v1::GroupState::PHASE_UNSPECIFIED;
  absl::Time published_at_ = absl::InfinitePast();

  mutable absl::Mutex mu_;
  std::deque<Event> events_ ABSL_GUARDED_BY(mu_);
  uint64_t last_stream_ ABSL_GUARDED_BY(mu_) = 0;
  std::map<uint64_t, std::shared_ptr<SessionStream>> sessions_ ABSL_GUARDED_BY(mu_);
  std::map<uint64_t, std::shared_ptr<WatchStream>> watchers_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<const v1::GroupState> published_ ABSL_GUARDED_BY(mu_);
  bool stop_handled_ ABSL_GUARDED_BY(mu_) = false;
  bool loop_ends_ ABSL_GUARDED_BY(mu_) = false;
  bool shutdown_begun_ ABSL_GUARDED_BY(mu_) = false;
  bool shutdown_done_ ABSL_GUARDED_BY(mu_) = false;

  // Last, so that no call reaches a member that is gone.
  std::unique_ptr<grpc::Server> server_;
};

absl::StatusOr<std::unique_ptr<CoordinatorServer>> CoordinatorServer::Start(
    CoordinatorOptions options, std::unique_ptr<EpochStore> store, runtime::Runtime* runtime) {
  if (absl::Status status = CheckPlacement(options.group.placement); !status.ok()) return status;
  if (options.group.num_attention_ranks < 1 ||
      options.group.num_attention_ranks > options.group.placement.num_slots) {
    return absl::InvalidArgumentError(
        absl::StrCat("attention ranks: ", options.group.num_attention_ranks, " is not in 1 to ",
                     options.group.placement.num_slots, ", the number of workers"));
  }
  options.group.term = store->term();
  options.group.last_epoch = store->last_epoch();
  auto impl = std::make_unique<Impl>(std::move(options), std::move(store), runtime);
  if (absl::Status status = impl->Listen(); !status.ok()) return status;
  impl->StartLoop();
  return std::unique_ptr<CoordinatorServer>(new CoordinatorServer(std::move(impl)));
}

CoordinatorServer::CoordinatorServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
CoordinatorServer::~CoordinatorServer() = default;

void CoordinatorServer::Shutdown(absl::Duration grace) { impl_->Shutdown(grace); }
v1::GroupState CoordinatorServer::State() const { return impl_->State(); }
const std::string& CoordinatorServer::address() const { return impl_->address(); }

}  // namespace moe::coordinator
