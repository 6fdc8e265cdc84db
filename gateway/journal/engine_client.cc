// See engine_client.h.
#include "gateway/journal/engine_client.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "gateway/journal/engine_view.h"
#include "identity/credentials.h"
#include "proto/coordinator.grpc.pb.h"

namespace moe::gateway {
namespace {

using coordinator::v1::GroupState;
using coordinator::v1::GroupStates;

// A step's events may carry the log-probabilities of a long prompt; a list of groups, the load of
// every expert.
constexpr int kMaxMessageBytes = 64 << 20;

// `target_name` is the name that the other end's certificate must have; empty: the address' host.
std::shared_ptr<grpc::Channel> Connect(const std::string& address,
                                       const std::shared_ptr<grpc::ChannelCredentials>& credentials,
                                       const std::string& target_name) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // Each connection starts afresh: the backoff is ours.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  identity::SetTargetName(target_name, &arguments);
  return grpc::CreateCustomChannel(
      address, credentials == nullptr ? grpc::InsecureChannelCredentials() : credentials,
      arguments);
}

JournalOptions OptionsOfJournal(const EngineClientOptions& options) {
  JournalOptions journal = options.journal;
  journal.single_group = options.deployment.empty();
  return journal;
}

}  // namespace

EngineClient::EngineClient(EngineClientOptions options)
    : options_(std::move(options)),
      journal_(std::make_shared<Journal>(OptionsOfJournal(options_))),
      route_(options_.coordinator) {
  threads_.emplace_back([this] { Follow(); });
  threads_.emplace_back([this] { Supervise(); });
}

EngineClient::~EngineClient() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    if (watch_ != nullptr) {
      watch_->context.TryCancel();
    }
    for (const auto& [name, connection] : connections_) {
      connection->Retire();
    }
  }
  journal_->Stop();
  for (std::thread& thread : threads_) {
    thread.join();
  }
}

absl::StatusOr<std::unique_ptr<Generation>> EngineClient::Start(GenerationRequest request) {
  return journal_->Start(std::move(request));
}

engine::v1::Welcome EngineClient::welcome() const { return journal_->welcome(); }

EngineView EngineClient::view() const {
  EngineView view = journal_->view();
  absl::MutexLock lock(&mutex_);
  view.num_ignored_groups = num_ignored_groups_;
  return view;
}

bool EngineClient::Sleep(absl::Duration duration) {
  absl::MutexLock lock(&mutex_);
  mutex_.AwaitWithTimeout(absl::Condition(&stopping_), duration);
  return !stopping_;
}

void EngineClient::Follow() {
  if (options_.credentials) {
    absl::StatusOr<EngineCredentials> credentials = options_.credentials();
    if (!credentials.ok()) {
      return;
    }
    credentials_ = *std::move(credentials);
  }
  absl::Duration backoff = options_.min_backoff;
  do {
    const bool heard = RunWatch();
    backoff = heard ? options_.min_backoff : std::min(backoff * 2, options_.max_backoff);
  } while (Sleep(backoff));
}

bool EngineClient::RunWatch() {
  const auto watch = std::make_shared<Watch>();
  watch->last_heard = absl::Now();
  {
    absl::MutexLock lock(&mutex_);
    if (stopping_) {
      return false;
    }
    watch_ = watch;
  }
  const auto stub = coordinator::v1::Coordinator::NewStub(
      Connect(route_.address(), credentials_.coordinator, route_.target_name()));
  coordinator::v1::WatchGroupsRequest request;
  request.set_deployment(options_.deployment);
  const auto reader = stub->WatchGroups(&watch->context, request);
  GroupStates groups;
  bool heard = false;
  while (reader->Read(&groups)) {
    heard = true;
    OnGroups(std::move(groups));
    absl::MutexLock lock(&mutex_);
    watch->last_heard = absl::Now();
  }
  const grpc::Status status = reader->Finish();
  route_.OnCallEnd(watch->context, status);
  absl::MutexLock lock(&mutex_);
  watch_ = nullptr;
  return heard;
}

std::unique_ptr<LeaderConnection> EngineClient::MakeConnection(const std::string& group) const {
  LeaderConnectionOptions options;
  options.gateway_id = options_.gateway_id;
  options.connect = [credentials = credentials_.leader](const std::string& address) {
    return Connect(address, credentials, "");
  };
  options.welcome_deadline = options_.welcome_deadline;
  options.leader_silence = options_.leader_silence;
  options.min_backoff = options_.min_backoff;
  options.max_backoff = options_.max_backoff;
  return std::make_unique<LeaderConnection>(group, std::move(options), journal_);
}

void EngineClient::OnGroups(GroupStates groups) {
  auto* list = groups.mutable_groups();
  // The first ones are kept, and the same ones each time.
  std::stable_sort(list->begin(), list->end(), [](const GroupState& a, const GroupState& b) {
    return GroupIndex(a.group()) < GroupIndex(b.group());
  });
  const size_t num_groups = std::min(static_cast<size_t>(list->size()), options_.max_groups);
  const size_t num_ignored = static_cast<size_t>(list->size()) - num_groups;
  list->DeleteSubrange(static_cast<int>(num_groups), static_cast<int>(num_ignored));
  // Before a connection may say Welcome for a group.
  journal_->OnGroups(groups);

  // There is nothing to say to a group of another model.
  const std::string& digest = options_.journal.model_digest;
  std::map<std::string, std::string> leaders;  // of the groups to connect to, by name
  for (const GroupState& group : *list) {
    if (digest.empty() || group.model_digest().empty() || group.model_digest() == digest) {
      leaders[group.group()] = group.leader_address();
    }
  }
  std::vector<std::unique_ptr<LeaderConnection>> same_name;
  {
    absl::MutexLock lock(&mutex_);
    num_ignored_groups_ = num_ignored;
    for (auto it = connections_.begin(); it != connections_.end();) {
      if (leaders.count(it->first) != 0) {
        ++it;
        continue;
      }
      it->second->Retire();
      retired_.emplace(it->first, std::move(it->second));
      it = connections_.erase(it);
    }
    for (auto it = retired_.begin(); it != retired_.end();) {
      if (leaders.count(it->first) != 0) {
        same_name.push_back(std::move(it->second));
        it = retired_.erase(it);
      } else {
        ++it;
      }
    }
  }
  // A group that comes again waits for the end of its old connection: what that still says must not
  // be taken for the new one's.
  same_name.clear();
  for (const auto& [name, address] : leaders) {
    absl::MutexLock lock(&mutex_);
    if (stopping_) {
      return;
    }
    std::unique_ptr<LeaderConnection>& connection = connections_[name];
    if (connection == nullptr) {
      connection = MakeConnection(name);
    }
    connection->SetLeader(address);
  }
}

void EngineClient::Supervise() {
  while (Sleep(absl::Milliseconds(100))) {
    journal_->Tick();
    std::vector<std::unique_ptr<LeaderConnection>> ended;
    absl::MutexLock lock(&mutex_);
    bool in_need = connections_.empty();
    for (const auto& [name, connection] : connections_) {
      connection->CheckSilence();
      in_need = in_need || !journal_->connected(name);
    }
    const absl::Duration silence =
        in_need ? options_.coordinator_silence_in_need : options_.coordinator_silence;
    if (watch_ != nullptr && absl::Now() - watch_->last_heard > silence) {
      watch_->context.TryCancel();
    }
    for (auto it = retired_.begin(); it != retired_.end();) {
      if (it->second->done()) {
        ended.push_back(std::move(it->second));
        it = retired_.erase(it);
      } else {
        ++it;
      }
    }
  }
}

}  // namespace moe::gateway
