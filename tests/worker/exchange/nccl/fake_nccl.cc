#include "tests/worker/exchange/nccl/fake_nccl.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"

namespace moe::exchange {

using Lock = std::lock_guard<std::recursive_mutex>;

constexpr std::chrono::microseconds kPause(20);

// One rank's end.
class FakeCommunicator final : public NcclCommunicator {
 public:
  FakeCommunicator(FakeNccl* world, FakeNccl::Clique* clique, int rank, int caller,
                   FakeStream stream)
      : world_(world), clique_(clique), rank_(rank), caller_(caller), stream_(std::move(stream)) {}
  ~FakeCommunicator() override {
    if (!is_over_) Abort();
  }

  absl::StatusOr<NcclProgress> Poll() override {
    const OneCall call(this, NcclCall::kPoll, /*may_be_under_way=*/true);
    if (!call.status().ok()) return call.status();
    const auto broken = world_->broken_.find(caller_);
    if (broken != world_->broken_.end()) return broken->second;
    if (is_connecting_) {
      is_connecting_ = world_->never_ready.contains(caller_) ||
                       static_cast<int>(clique_->connected.size()) < clique_->num_ranks;
      if (is_connecting_) return NcclProgress::kUnderWay;
    }
    if (!launching_.empty() && std::exchange(was_polled_, true)) {
      stream_.enqueue(Replay(std::exchange(launching_, {})));
    }
    return IsUnderWay() ? NcclProgress::kUnderWay : NcclProgress::kDone;
  }

  absl::Status GroupStart() override {
    const OneCall call(this, NcclCall::kGroupStart, false);
    if (is_in_group_) world_->Violation(rank_, "GroupStart in a group");
    is_in_group_ = true;
    return call.status();
  }
  absl::StatusOr<NcclProgress> GroupEnd() override {
    const OneCall call(this, NcclCall::kGroupEnd, false);
    if (!is_in_group_) world_->Violation(rank_, "GroupEnd without GroupStart");
    is_in_group_ = false;
    std::vector<std::shared_ptr<FakeNccl::Pending>> group = std::exchange(group_, {});
    if (!call.status().ok()) return call.status();
    if (has_failed_) return absl::InternalError("the group had an error");
    if (stream_.enqueue != nullptr) {
      launching_ = std::move(group);
      was_polled_ = false;
      return IsUnderWay() ? NcclProgress::kUnderWay : NcclProgress::kDone;
    }
    for (const auto& pending : group) {
      under_way_.push_back(pending);
      world_->Post(*clique_, pending);
    }
    return IsUnderWay() ? NcclProgress::kUnderWay : NcclProgress::kDone;
  }

  absl::Status Send(const void* from, size_t num_bytes, int to) override {
    return Add(NcclCall::kSend,
               {.kind = Transfer::Kind::kSend, .peer = to, .from = from, .num_bytes = num_bytes});
  }
  absl::Status Receive(void* to, size_t num_bytes, int from) override {
    return Add(NcclCall::kReceive,
               {.kind = Transfer::Kind::kReceive, .peer = from, .to = to, .num_bytes = num_bytes});
  }
  absl::Status AllGather(const void* from, void* to, size_t num_bytes) override {
    return Add(
        NcclCall::kAllGather,
        {.kind = Transfer::Kind::kAllGather, .from = from, .to = to, .num_bytes = num_bytes});
  }
  absl::Status Broadcast(const void* from, void* to, size_t num_bytes, int root) override {
    return Add(NcclCall::kBroadcast, {.kind = Transfer::Kind::kBroadcast,
                                      .peer = root,
                                      .from = from,
                                      .to = to,
                                      .num_bytes = num_bytes});
  }

  absl::StatusOr<void*> Register(void* buffer, size_t num_bytes) override {
    const OneCall call(this, NcclCall::kRegister, false);
    if (!call.status().ok()) return call.status();
    if (buffer == nullptr || num_bytes == 0) world_->Violation(rank_, "nothing to register");
    registrations_.insert(buffer);
    ++world_->num_registrations_;
    return buffer;
  }
  absl::Status Deregister(void* handle) override {
    const OneCall call(this, NcclCall::kDeregister, false);
    if (!call.status().ok()) return call.status();
    if (registrations_.erase(handle) == 0) world_->Violation(rank_, "not registered");
    --world_->num_registrations_;
    return absl::OkStatus();
  }

  absl::StatusOr<NcclProgress> Finalize() override {
    const OneCall call(this, NcclCall::kFinalize, false);
    if (!call.status().ok()) return call.status();
    if (!registrations_.empty()) world_->Violation(rank_, "Finalize before Deregister");
    is_final_ = true;
    return NcclProgress::kUnderWay;
  }
  absl::Status Destroy() override {
    const OneCall call(this, NcclCall::kDestroy, false);
    if (!is_final_) world_->Violation(rank_, "Destroy before Finalize");
    if (in_graphs_.use_count() > 1) world_->Violation(rank_, "Destroy while a graph has transfers");
    End();
    return call.status();
  }
  void Abort() override {
    {
      const OneCall call(this, NcclCall::kAbort, true);
      End();
    }
    while (in_graphs_.use_count() > 1) std::this_thread::sleep_for(kPause);
  }

 private:
  // Holds the world and notes what is wrong with a call now.
  class OneCall {
   public:
    OneCall(FakeCommunicator* communicator, NcclCall call, bool may_be_under_way)
        : communicator_(communicator), was_busy_(communicator->is_busy_.exchange(true)) {
      communicator->world_->mutex_.lock();
      if (was_busy_) Note("two calls at once");
      if (communicator->is_over_) Note("a call after the end");
      if (!may_be_under_way && (communicator->is_connecting_ || communicator->IsUnderWay())) {
        Note("a call while something is under way");
      }
      if (communicator->has_failed_ && call != NcclCall::kAbort && call != NcclCall::kGroupEnd &&
          call != NcclCall::kPoll) {
        Note("a call after an error");
      }
      status_ = communicator->world_->Note(communicator->caller_, call);
      if (!status_.ok()) communicator->has_failed_ = true;
    }
    ~OneCall() {
      communicator_->world_->mutex_.unlock();
      communicator_->is_busy_ = false;
    }
    OneCall(const OneCall&) = delete;
    OneCall& operator=(const OneCall&) = delete;
    const absl::Status& status() const { return status_; }

   private:
    void Note(const char* what) { communicator_->world_->Violation(communicator_->rank_, what); }

    FakeCommunicator* const communicator_;
    const bool was_busy_;
    absl::Status status_;
  };

  bool IsUnderWay() {
    std::erase_if(under_way_, [](const auto& pending) { return pending->is_done; });
    return !under_way_.empty() || !launching_.empty();
  }

  absl::Status Add(NcclCall kind, const Transfer& transfer) {
    const OneCall call(this, kind, false);
    if (!call.status().ok()) return call.status();
    if (!is_in_group_) world_->Violation(rank_, "a transfer outside a group");
    if (transfer.num_bytes == 0) world_->Violation(rank_, "a transfer of nothing");
    if (transfer.peer < 0 || transfer.peer >= clique_->num_ranks) {
      world_->Violation(rank_, "a transfer with nobody");
    }
    if ((transfer.kind == Transfer::Kind::kSend || transfer.kind == Transfer::Kind::kReceive) &&
        transfer.peer == rank_) {
      world_->Violation(rank_, "a transfer with itself");
    }
    auto pending = std::make_shared<FakeNccl::Pending>();
    pending->transfer = transfer;
    pending->rank = rank_;
    group_.push_back(std::move(pending));
    return absl::OkStatus();
  }

  // What the stream does in the place of `group`, or each launch of the graph that it is captured
  // for. It may come after the end of everything but what it holds.
  std::function<void()> Replay(const std::vector<std::shared_ptr<FakeNccl::Pending>>& group) {
    std::vector<Transfer> transfers;
    for (const auto& pending : group) transfers.push_back(pending->transfer);
    std::shared_ptr<bool> in_graph;
    if (stream_.is_capturing()) in_graph = in_graphs_;
    return [world = world_, clique = clique_, rank = rank_, transfers, has_ended = has_ended_,
            in_graph] {
      if (*has_ended) return;
      std::vector<std::shared_ptr<FakeNccl::Pending>> under_way;
      {
        const Lock lock(world->mutex_);
        if (*has_ended) return;
        for (const Transfer& transfer : transfers) {
          under_way.push_back(std::make_shared<FakeNccl::Pending>());
          under_way.back()->transfer = transfer;
          under_way.back()->rank = rank;
          world->Post(*clique, under_way.back());
        }
      }
      while (!*has_ended) {
        {
          const Lock lock(world->mutex_);
          std::erase_if(under_way, [](const auto& pending) { return pending->is_done; });
          if (under_way.empty()) return;
        }
        std::this_thread::sleep_for(kPause);
      }
    };
  }

  void End() {
    if (is_over_) return;
    is_over_ = true;
    *has_ended_ = true;
    world_->Forget(*clique_, rank_);
    world_->num_registrations_ -= static_cast<int>(registrations_.size());
    --world_->num_communicators_;
  }

  FakeNccl* const world_;
  FakeNccl::Clique* const clique_;
  const int rank_;
  const int caller_;  // the rank that faults know it by
  const FakeStream stream_;
  // Whether the communicator has ended.
  const std::shared_ptr<std::atomic<bool>> has_ended_ = std::make_shared<std::atomic<bool>>(false);
  // Held by every group that a graph has.
  const std::shared_ptr<bool> in_graphs_ = std::make_shared<bool>(true);
  std::atomic<bool> is_busy_{false};
  bool is_connecting_ = true;
  bool is_in_group_ = false;
  bool has_failed_ = false;
  bool is_final_ = false;
  bool is_over_ = false;
  std::vector<std::shared_ptr<FakeNccl::Pending>> group_;
  std::vector<std::shared_ptr<FakeNccl::Pending>> launching_;  // not yet in the stream
  bool was_polled_ = false;                                    // since it is being launched
  std::vector<std::shared_ptr<FakeNccl::Pending>> under_way_;
  std::set<void*> registrations_;
};

// ---- FakeNcclApi

absl::StatusOr<NcclId> FakeNcclApi::MakeId() {
  const Lock lock(world_->mutex_);
  if (absl::Status status = world_->Note(rank_, NcclCall::kMakeId); !status.ok()) return status;
  NcclId id;
  const std::string text = absl::StrCat("unique id ", world_->num_ids_++);
  std::copy(text.begin(), text.end(), id.bytes.begin());
  world_->cliques_[text];
  return id;
}

absl::StatusOr<std::unique_ptr<NcclCommunicator>> FakeNcclApi::Connect(const NcclId& id,
                                                                       int num_ranks, int rank) {
  const Lock lock(world_->mutex_);
  if (absl::Status status = world_->Note(rank_, NcclCall::kConnect); !status.ok()) return status;
  const auto clique = world_->cliques_.find(id.bytes.data());
  if (clique == world_->cliques_.end()) return absl::InternalError("no such id");
  if (clique->second.num_ranks == 0) {
    clique->second.num_ranks = num_ranks;
    clique->second.num_collectives.resize(num_ranks);
  }
  if (clique->second.num_ranks != num_ranks) world_->Violation(rank, "another number of ranks");
  if (!clique->second.connected.insert(rank).second) world_->Violation(rank, "an id used twice");
  ++world_->num_communicators_;
  return std::make_unique<FakeCommunicator>(world_, &clique->second, rank, rank_, stream_);
}

// ---- FakeNccl

void FakeNccl::Break(int rank, absl::Status error) {
  const Lock lock(mutex_);
  broken_[rank] = std::move(error);
}
int FakeNccl::num_communicators() {
  const Lock lock(mutex_);
  return num_communicators_;
}
void FakeNccl::AwaitNoCommunicators() {
  while (num_communicators() > 0) std::this_thread::sleep_for(kPause);
}
int FakeNccl::num_registrations() {
  const Lock lock(mutex_);
  return num_registrations_;
}
std::vector<std::string> FakeNccl::violations() {
  const Lock lock(mutex_);
  return violations_;
}
std::vector<NcclCall> FakeNccl::calls(int rank) {
  const Lock lock(mutex_);
  return calls_[rank];
}
int64_t FakeNccl::num_bytes_received() {
  const Lock lock(mutex_);
  return num_bytes_received_;
}

absl::Status FakeNccl::Note(int rank, NcclCall call) {
  if (call != NcclCall::kPoll) calls_[rank].push_back(call);
  const int nth = num_calls_[{rank, call}]++;
  return fail == nullptr ? absl::OkStatus() : fail(rank, call, nth);
}

void FakeNccl::Violation(int rank, const std::string& what) {
  violations_.push_back(absl::StrCat("rank ", rank, ": ", what));
}

void FakeNccl::Post(Clique& clique, const std::shared_ptr<Pending>& pending) {
  const Transfer& transfer = pending->transfer;
  if (transfer.kind == Transfer::Kind::kSend) {
    const std::pair<int, int> ends(pending->rank, transfer.peer);
    clique.sends[ends].push_back(pending);
    MatchPair(clique, ends);
  } else if (transfer.kind == Transfer::Kind::kReceive) {
    const std::pair<int, int> ends(transfer.peer, pending->rank);
    clique.receives[ends].push_back(pending);
    MatchPair(clique, ends);
  } else {
    const int64_t number = clique.num_collectives[pending->rank]++;
    Collective& collective = clique.collectives[number];
    collective.of_rank.resize(clique.num_ranks);
    collective.of_rank[pending->rank] = pending;
    MatchCollective(clique, number);
  }
}

void FakeNccl::MatchPair(Clique& clique, const std::pair<int, int>& ends) {
  auto& sends = clique.sends[ends];
  auto& receives = clique.receives[ends];
  while (!sends.empty() && !receives.empty()) {
    Pending& send = *sends.front();
    Pending& receive = *receives.front();
    if (send.transfer.num_bytes != receive.transfer.num_bytes) {
      Violation(receive.rank,
                absl::StrCat("expects ", receive.transfer.num_bytes, " bytes of rank ", send.rank,
                             ", which sends ", send.transfer.num_bytes));
      return;
    }
    std::memcpy(receive.transfer.to, send.transfer.from, send.transfer.num_bytes);
    num_bytes_received_ += static_cast<int64_t>(send.transfer.num_bytes);
    send.is_done = receive.is_done = true;
    sends.pop_front();
    receives.pop_front();
  }
}

void FakeNccl::MatchCollective(Clique& clique, int64_t number) {
  const auto& all = clique.collectives[number].of_rank;
  for (const auto& pending : all) {
    if (pending == nullptr) return;
  }
  const Transfer& first = all[0]->transfer;
  for (const auto& pending : all) {
    const Transfer& transfer = pending->transfer;
    if (transfer.kind != first.kind || transfer.peer != first.peer ||
        transfer.num_bytes != first.num_bytes) {
      Violation(pending->rank, "a collective that differs from rank 0's");
      return;
    }
  }
  for (const auto& pending : all) {
    auto* const to = static_cast<char*>(pending->transfer.to);
    for (int rank = 0; rank < clique.num_ranks; ++rank) {
      const bool is_broadcast = first.kind == Transfer::Kind::kBroadcast;
      if (is_broadcast && rank != first.peer) continue;
      // memmove: a rank's own part may be in place.
      std::memmove(to + (is_broadcast ? 0 : rank * first.num_bytes), all[rank]->transfer.from,
                   first.num_bytes);
      if (rank != pending->rank) num_bytes_received_ += static_cast<int64_t>(first.num_bytes);
    }
  }
  for (const auto& pending : all) pending->is_done = true;
  clique.collectives.erase(number);
}

void FakeNccl::Forget(Clique& clique, int rank) {
  const auto is_of_rank = [rank](const auto& pending) {
    return pending != nullptr && pending->rank == rank;
  };
  for (auto* queues : {&clique.sends, &clique.receives}) {
    for (auto& [ends, queue] : *queues) std::erase_if(queue, is_of_rank);
  }
  for (auto& [number, collective] : clique.collectives) {
    for (auto& pending : collective.of_rank) {
      if (is_of_rank(pending)) pending = nullptr;
    }
  }
}

}  // namespace moe::exchange
