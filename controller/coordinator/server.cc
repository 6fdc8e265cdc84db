#include "controller/coordinator/server.h"

#include <grpcpp/grpcpp.h>
#include <grpcpp/server_builder.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "controller/coordinator/group_loop.h"
#include "controller/coordinator/server_limits.h"
#include "controller/coordinator/streams.h"
#include "identity/peer_identity.h"
#include "identity/worker_id.h"
#include "proto/coordinator.grpc.pb.h"

namespace moe::coordinator {

std::string_view DeploymentOfGroup(std::string_view group) {
  const size_t slash = group.rfind('/');
  return slash == std::string_view::npos ? std::string_view() : group.substr(0, slash);
}

class CoordinatorServer::Impl : public v1::Coordinator::CallbackService {
 public:
  explicit Impl(ServerOptions options)
      : options_(std::move(options)),
        leading_(options_.leading),
        leader_address_(options_.leader_address) {}

  ~Impl() override { Shutdown(); }

  absl::Status Listen() {
    grpc::ServerBuilder builder;
    SetLimits(options_, &builder);
    int port = 0;
    builder.AddListeningPort(
        options_.listen_address,
        options_.credentials != nullptr ? options_.credentials : grpc::InsecureServerCredentials(),
        &port);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port == 0) {
      return absl::UnavailableError(absl::StrCat("cannot listen on ", options_.listen_address));
    }
    address_ = options_.listen_address;
    if (!absl::StartsWith(address_, "unix:")) {
      address_ = absl::StrCat(address_.substr(0, address_.rfind(':')), ":", port);
    }
    janitor_ = std::thread([this] { EndSilentSessions(); });
    return absl::OkStatus();
  }

  absl::Status AddGroup(const std::string& name, GroupOptions group,
                        std::unique_ptr<EpochStore> store, runtime::Runtime* runtime,
                        StateCallback on_state) {
    absl::MutexLock admin(&admin_mu_);
    const std::string deployment(DeploymentOfGroup(name));
    {
      absl::MutexLock lock(&mu_);
      if (!leading_ || shut_down_) {
        return absl::FailedPreconditionError("this coordinator does not lead");
      }
      if (groups_.contains(name)) {
        return absl::AlreadyExistsError(absl::StrCat("group '", name, "' is led already"));
      }
    }
    group.name = name;
    auto loop =
        GroupLoop::Start({.group = std::move(group),
                          .tick = options_.tick,
                          .publish_interval = options_.publish_interval,
                          .on_published =
                              [this, deployment, on_state = std::move(on_state)](
                                  const std::shared_ptr<const v1::GroupState>& state, bool urgent) {
                                if (on_state) on_state(*state);
                                absl::MutexLock lock(&mu_);
                                ShowIfDue(deployment, urgent);
                              }},
                         std::move(store), runtime);
    if (!loop.ok()) return loop.status();
    absl::MutexLock lock(&mu_);
    groups_[name] = *std::move(loop);
    ShowIfDue(deployment, /*urgent=*/true);
    return absl::OkStatus();
  }

  void SetDraining(const std::string& name) {
    if (const auto loop = FindGroup(name)) loop->SetDraining();
  }

  void StopGroup(const std::string& name, absl::Duration grace) {
    if (const auto loop = FindGroup(name)) loop->StopWorkers(grace);
  }

  void RemoveGroup(const std::string& name) {
    absl::MutexLock admin(&admin_mu_);
    std::shared_ptr<GroupLoop> loop;
    {
      absl::MutexLock lock(&mu_);
      const auto found = groups_.find(name);
      if (found == groups_.end()) return;
      loop = std::move(found->second);
      groups_.erase(found);
      ShowIfDue(std::string(DeploymentOfGroup(name)), /*urgent=*/true);
    }
    loop->Stop(NotLed(name));
  }

  void ShowDeployment(const std::string& deployment) {
    absl::MutexLock lock(&mu_);
    if (!leading_) return;
    shown_.try_emplace(deployment, absl::InfinitePast());
    ShowIfDue(deployment, /*urgent=*/true);
  }

  void HideDeployment(const std::string& deployment) {
    absl::MutexLock lock(&mu_);
    shown_.erase(deployment);
    for (const auto& [id, watcher] : watchers_) {
      if (watcher.deployment == deployment) {
        watcher.stream->Close(absl::UnavailableError("the deployment is not led here any more"));
      }
    }
  }

  void SetDismissed(const std::string& deployment, std::set<std::string> pod_uids) {
    absl::MutexLock lock(&mu_);
    if (pod_uids.empty() || !leading_) {
      dismissed_.erase(deployment);
    } else {
      dismissed_[deployment] = std::move(pod_uids);
    }
  }

  void SetLeading(bool leading, const std::string& leader_address) {
    absl::MutexLock admin(&admin_mu_);
    std::map<std::string, std::shared_ptr<GroupLoop>, std::less<>> groups;
    {
      absl::MutexLock lock(&mu_);
      leading_ = leading;
      leader_address_ = leader_address;
      if (leading) return;
      groups.swap(groups_);
      shown_.clear();
      dismissed_.clear();
      for (const auto& [id, session] : sessions_) session.stream->Redirect(leader_address);
      for (const auto& [id, watcher] : watchers_) watcher.stream->Redirect(leader_address);
    }
    for (const auto& [name, loop] : groups) loop->Stop(NotLed(name));
  }

  std::shared_ptr<const v1::GroupState> State(std::string_view name) const {
    const auto loop = FindGroup(name);
    return loop == nullptr ? nullptr : loop->State();
  }

  void Shutdown() {
    absl::MutexLock admin(&admin_mu_);
    std::map<std::string, std::shared_ptr<GroupLoop>, std::less<>> groups;
    const absl::Status ended = ShuttingDown();
    {
      absl::MutexLock lock(&mu_);
      if (std::exchange(shut_down_, true)) return;
      groups = groups_;
    }
    for (const auto& [name, loop] : groups) loop->Stop(ended);
    {
      absl::MutexLock lock(&mu_);
      for (const auto& [id, session] : sessions_) session.stream->Close(ended);
      for (const auto& [id, watcher] : watchers_) watcher.stream->Close(ended);
    }
    if (server_ != nullptr) {
      server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
      server_->Wait();
    }
    if (janitor_.joinable()) janitor_.join();
  }

  const std::string& address() const { return address_; }

 private:
  struct SessionEntry {
    std::shared_ptr<SessionStream> stream;
    std::optional<identity::PeerIdentity> peer;  // without in local mode
    absl::Time opened_at;
    std::shared_ptr<GroupLoop> loop;  // from Hello on
  };
  struct WatcherEntry {
    std::shared_ptr<WatchStream> stream;
    std::string deployment;
  };

  static absl::Status NotLed(const std::string& name) {
    return absl::UnavailableError(absl::StrCat("group '", name, "' is not led here now"));
  }

  static absl::Status ShuttingDown() {
    return absl::UnavailableError("the coordinator is shutting down");
  }

  std::shared_ptr<GroupLoop> FindGroup(std::string_view name) const {
    absl::MutexLock lock(&mu_);
    const auto found = groups_.find(name);
    return found == groups_.end() ? nullptr : found->second;
  }

  // ---- gRPC's threads ----

  grpc::ServerBidiReactor<v1::WorkerMessage, v1::ControllerMessage>* Session(
      grpc::CallbackServerContext* context) override {
    absl::StatusOr<std::optional<identity::PeerIdentity>> peer = Identify(*context);
    if (peer.ok() && peer->has_value() && (*peer)->role != identity::Role::kWorker) {
      peer = absl::PermissionDeniedError("a session is for workers");
    }
    absl::MutexLock lock(&mu_);
    const uint64_t id = ++last_stream_;
    const auto stream = SessionStream::Create(
        context, id, options_.max_unread_messages,
        {.on_message = [this](
                           uint64_t session,
                           v1::WorkerMessage message) { OnMessage(session, std::move(message)); },
         .on_closed = [this](uint64_t session) { OnSessionClosed(session); }});
    if (!leading_) {
      stream->Redirect(leader_address_);
    } else if (shut_down_) {
      stream->Close(ShuttingDown());
    } else if (!peer.ok()) {
      stream->Close(peer.status());
    } else if (sessions_.size() >= options_.max_sessions ||
               num_greeting_ >= options_.max_greeting_sessions) {
      stream->Close(absl::ResourceExhaustedError("too many sessions"));
    } else {
      sessions_[id] = {
          .stream = stream, .peer = *std::move(peer), .opened_at = absl::Now(), .loop = nullptr};
      ++num_greeting_;
      stream->ReadNext();
    }
    return stream.get();
  }

  grpc::ServerWriteReactor<v1::GroupStates>* WatchGroups(
      grpc::CallbackServerContext* context, const v1::WatchGroupsRequest* request) override {
    absl::StatusOr<std::optional<identity::PeerIdentity>> peer = Identify(*context);
    if (peer.ok() && peer->has_value() && (*peer)->DeploymentName() != request->deployment()) {
      peer = absl::PermissionDeniedError("the groups of another deployment");
    }
    absl::MutexLock lock(&mu_);
    const uint64_t id = ++last_stream_;
    const auto stream = WatchStream::Create(context, [this, id] {
      absl::MutexLock inner(&mu_);
      watchers_.erase(id);
    });
    if (!leading_) {
      stream->Redirect(leader_address_);
    } else if (shut_down_) {
      stream->Close(ShuttingDown());
    } else if (!peer.ok()) {
      stream->Close(peer.status());
    } else if (watchers_.size() >= options_.max_watchers) {
      stream->Close(absl::ResourceExhaustedError("too many watchers"));
    } else {
      watchers_[id] = {.stream = stream, .deployment = request->deployment()};
      if (shown_.contains(request->deployment())) stream->Show(StatesOf(request->deployment()));
    }
    return stream.get();
  }

  grpc::ServerUnaryReactor* Certify(grpc::CallbackServerContext* context,
                                    const v1::CertifyRequest* request,
                                    v1::CertifyReply* reply) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    if (options_.certifier == nullptr) {
      reactor->Finish({grpc::StatusCode::UNIMPLEMENTED, "this coordinator gives no certificates"});
      return reactor;
    }
    {
      absl::MutexLock lock(&mu_);
      if (!leading_) {
        reactor->Finish(RedirectStatus(leader_address_, context));
        return reactor;
      }
    }
    options_.certifier->Certify(*request,
                                [reactor, reply](absl::StatusOr<v1::CertifyReply> answer) {
                                  const grpc::Status status = ToGrpc(answer.status());
                                  if (answer.ok()) *reply = *std::move(answer);
                                  reactor->Finish(status);
                                });
    return reactor;
  }

  // Nobody in local mode; else who the certificate names, or Unauthenticated.
  absl::StatusOr<std::optional<identity::PeerIdentity>> Identify(
      const grpc::CallbackServerContext& context) const {
    if (options_.certifier == nullptr) return std::nullopt;
    absl::StatusOr<identity::PeerIdentity> peer = identity::PeerOf(*context.auth_context());
    if (!peer.ok()) return peer.status();
    return *std::move(peer);
  }

  void OnMessage(uint64_t id, v1::WorkerMessage message) {
    std::shared_ptr<SessionStream> stream;
    std::shared_ptr<GroupLoop> loop;
    absl::Status refusal;
    bool first = false;
    {
      absl::MutexLock lock(&mu_);
      const auto found = sessions_.find(id);
      if (found == sessions_.end()) return;
      SessionEntry& session = found->second;
      stream = session.stream;
      first = session.loop == nullptr;
      if (first) refusal = Route(message, &session);
      loop = session.loop;
    }
    if (loop == nullptr) {
      stream->Close(refusal);
    } else if (first) {
      loop->Connect(id, stream, std::move(message));
    } else {
      loop->Receive(id, std::move(message));
    }
  }

  // Finds the group that the first message of a session is for. Without one the session is over:
  // with an error, or because the worker was dismissed.
  absl::Status Route(const v1::WorkerMessage& message, SessionEntry* session)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (!message.has_hello()) {
      return absl::InvalidArgumentError("the first message of a session is Hello");
    }
    const v1::Hello& hello = message.hello();
    if (session->peer.has_value() &&
        (identity::PodUidOf(hello.worker_id()) != session->peer->pod_uid ||
         DeploymentOfGroup(hello.group()) != session->peer->DeploymentName())) {
      return absl::PermissionDeniedError("the certificate is for another worker");
    }
    const auto dismissed = dismissed_.find(DeploymentOfGroup(hello.group()));
    if (dismissed != dismissed_.end() &&
        dismissed->second.contains(std::string(identity::PodUidOf(hello.worker_id())))) {
      v1::ControllerMessage answer;
      answer.mutable_dismiss()->set_reason("its deployment is gone");
      session->stream->Send(std::move(answer));
      return absl::OkStatus();
    }
    const auto found = groups_.find(hello.group());
    if (found == groups_.end() || !leading_ || shut_down_) return NotLed(hello.group());
    session->loop = found->second;
    --num_greeting_;
    return absl::OkStatus();
  }

  void OnSessionClosed(uint64_t id) {
    std::shared_ptr<GroupLoop> loop;
    {
      absl::MutexLock lock(&mu_);
      const auto found = sessions_.find(id);
      if (found == sessions_.end()) return;
      loop = std::move(found->second.loop);
      sessions_.erase(found);
      if (loop == nullptr) --num_greeting_;
    }
    if (loop != nullptr) loop->Disconnect(id);
  }

  // ---- The loops' threads ----

  // Shows its watchers the groups of `deployment`: at once, or when they have changed in counters
  // only, every publish_interval.
  void ShowIfDue(const std::string& deployment, bool urgent) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    const auto shown = shown_.find(deployment);
    if (shown == shown_.end()) return;
    const absl::Time now = absl::Now();
    // Each loop publishes that often; half of it lets none of them wait for a second round.
    const absl::Duration since = now - shown->second;
    if (!urgent && since >= absl::ZeroDuration() && since < options_.publish_interval / 2) return;
    shown->second = now;
    std::shared_ptr<const v1::GroupStates> states;
    for (const auto& [id, watcher] : watchers_) {
      if (watcher.deployment != deployment) continue;
      if (states == nullptr) states = StatesOf(deployment);
      watcher.stream->Show(states);
    }
  }

  std::shared_ptr<const v1::GroupStates> StatesOf(const std::string& deployment)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    auto states = std::make_shared<v1::GroupStates>();
    for (const auto& [name, loop] : groups_) {
      if (DeploymentOfGroup(name) == deployment) *states->add_groups() = *loop->State();
    }
    return states;
  }

  // ---- The janitor's thread ----

  void EndSilentSessions() {
    const absl::Duration pause =
        std::clamp(options_.hello_deadline / 4, absl::Milliseconds(10), absl::Seconds(1));
    absl::MutexLock lock(&mu_);
    while (!mu_.AwaitWithTimeout(absl::Condition(&shut_down_), pause)) {
      const absl::Time now = absl::Now();
      for (const auto& [id, session] : sessions_) {
        if (session.loop == nullptr && now - session.opened_at > options_.hello_deadline) {
          session.stream->Close(absl::DeadlineExceededError("no Hello came"));
        }
      }
    }
  }

  const ServerOptions options_;
  std::string address_;
  std::thread janitor_;

  // Held while groups come and go; taken before mu_, and never by a loop's thread.
  absl::Mutex admin_mu_;
  // Taken before the loops' and the streams' own.
  mutable absl::Mutex mu_;
  bool leading_ ABSL_GUARDED_BY(mu_);
  bool shut_down_ ABSL_GUARDED_BY(mu_) = false;
  std::string leader_address_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, std::shared_ptr<GroupLoop>, std::less<>> groups_ ABSL_GUARDED_BY(mu_);
  // The deployments that are shown, and when they last were.
  std::map<std::string, absl::Time> shown_ ABSL_GUARDED_BY(mu_);
  // By deployment; see SetDismissed.
  std::map<std::string, std::set<std::string>, std::less<>> dismissed_ ABSL_GUARDED_BY(mu_);
  uint64_t last_stream_ ABSL_GUARDED_BY(mu_) = 0;
  size_t num_greeting_ ABSL_GUARDED_BY(mu_) = 0;  // sessions without a Hello
  std::map<uint64_t, SessionEntry> sessions_ ABSL_GUARDED_BY(mu_);
  std::map<uint64_t, WatcherEntry> watchers_ ABSL_GUARDED_BY(mu_);

  // Last, so that no call reaches a member that is gone.
  std::unique_ptr<grpc::Server> server_;
};

absl::StatusOr<std::unique_ptr<CoordinatorServer>> CoordinatorServer::Start(ServerOptions options) {
  auto impl = std::make_unique<Impl>(std::move(options));
  if (absl::Status status = impl->Listen(); !status.ok()) return status;
  return std::unique_ptr<CoordinatorServer>(new CoordinatorServer(std::move(impl)));
}

CoordinatorServer::CoordinatorServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
CoordinatorServer::~CoordinatorServer() = default;

absl::Status CoordinatorServer::AddGroup(const std::string& name, GroupOptions options,
                                         std::unique_ptr<EpochStore> store,
                                         runtime::Runtime* runtime, StateCallback on_state) {
  return impl_->AddGroup(name, std::move(options), std::move(store), runtime, std::move(on_state));
}
void CoordinatorServer::SetDraining(const std::string& name) { impl_->SetDraining(name); }
void CoordinatorServer::StopGroup(const std::string& name, absl::Duration grace) {
  impl_->StopGroup(name, grace);
}
void CoordinatorServer::RemoveGroup(const std::string& name) { impl_->RemoveGroup(name); }
void CoordinatorServer::ShowDeployment(const std::string& deployment) {
  impl_->ShowDeployment(deployment);
}
void CoordinatorServer::HideDeployment(const std::string& deployment) {
  impl_->HideDeployment(deployment);
}
void CoordinatorServer::SetDismissed(const std::string& deployment,
                                     std::set<std::string> pod_uids) {
  impl_->SetDismissed(deployment, std::move(pod_uids));
}
void CoordinatorServer::SetLeading(bool leading, const std::string& leader_address) {
  impl_->SetLeading(leading, leader_address);
}
std::shared_ptr<const v1::GroupState> CoordinatorServer::State(std::string_view name) const {
  return impl_->State(name);
}
void CoordinatorServer::Shutdown() { impl_->Shutdown(); }
const std::string& CoordinatorServer::address() const { return impl_->address(); }

}  // namespace moe::coordinator
