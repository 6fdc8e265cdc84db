#include "runtime/pod_runtime.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "identity/worker_id.h"
#include "runtime/slot_ranks.h"

namespace moe::runtime {

PodRuntime::PodRuntime(std::vector<int> slot_of_rank, std::function<void()> on_change)
    : ranks_per_pod_(RanksPerPod(slot_of_rank)),
      on_change_(std::move(on_change)),
      slot_of_rank_(std::move(slot_of_rank)) {}

std::string PodRuntime::WorkerIdOf(const std::string& uid, int rank) const {
  return identity::WorkerId(uid, rank % ranks_per_pod_, ranks_per_pod_);
}

void PodRuntime::Observe(const std::vector<WorkerPod>& pods) {
  bool changed = false;
  {
    absl::MutexLock lock(&mu_);
    if (stopped_) return;
    if (!connected_) {
      observed_ = pods;
      return;
    }
    changed = Apply(pods);
  }
  if (changed && on_change_) on_change_();
}

void PodRuntime::Assign(const std::vector<int>& slot_of_rank) {
  absl::MutexLock lock(&mu_);
  if (slot_of_rank.size() != slot_of_rank_.size() || RanksPerPod(slot_of_rank) != ranks_per_pod_) {
    return;
  }
  // A rank that waits for a pod waits for that of its new slot.
  std::set<int> wanted;
  for (size_t rank = 0; rank < slot_of_rank.size(); ++rank) {
    if (wanted_.contains(slot_of_rank_[rank])) wanted.insert(slot_of_rank[rank]);
  }
  wanted_ = std::move(wanted);
  slot_of_rank_ = slot_of_rank;
}

void PodRuntime::RaiseIncarnations(const std::vector<int>& claimed) {
  absl::MutexLock lock(&mu_);
  for (size_t slot = 0; slot < claimed.size(); ++slot) {
    int& highest = incarnation_.try_emplace(static_cast<int>(slot), claimed[slot]).first->second;
    highest = std::max(highest, claimed[slot]);
  }
}

void PodRuntime::SetCallbacks(Callbacks callbacks) {
  bool changed = false;
  {
    absl::MutexLock lock(&mu_);
    callbacks_ = std::move(callbacks);
    if (std::exchange(connected_, true)) return;
    changed = Apply(std::exchange(observed_, {}));
  }
  if (changed && on_change_) on_change_();
}

// Returns whether what is wanted or unwanted has changed.
bool PodRuntime::Apply(const std::vector<WorkerPod>& pods) {
  bool changed = false;
  std::map<std::string, const WorkerPod*, std::less<>> seen;
  for (const WorkerPod& pod : pods) {
    if (RankOf(slot_of_rank_, pod.slot) < 0) continue;
    seen[pod.uid] = &pod;
    int& highest = incarnation_.try_emplace(pod.slot, pod.incarnation).first->second;
    highest = std::max(highest, pod.incarnation);
  }
  // Ends first: a slot has one pod at a time.
  for (auto it = pods_.begin(); it != pods_.end();) {
    Pod& pod = it->second;
    const auto found = seen.find(it->first);
    if (found == seen.end()) {
      Exit(it->first, &pod, "was deleted", "");
      changed = changed || pod.unwanted;
      it = pods_.erase(it);
      continue;
    }
    if (found->second->ended) {
      Exit(it->first, &pod, found->second->description, found->second->last_lines);
    } else if (pod.incarnation < incarnation_[pod.slot] && !pod.unwanted) {
      Exit(it->first, &pod, "was replaced by another pod", "");
      pod.unwanted = true;
      changed = true;
    }
    ++it;
  }
  for (const auto& [uid, observed] : seen) {
    if (pods_.contains(uid)) continue;
    Pod& pod = pods_[uid];
    pod.slot = observed->slot;
    pod.incarnation = observed->incarnation;
    if (pod.incarnation < incarnation_[pod.slot]) {
      pod.exited = true;  // it never counts
      pod.unwanted = !observed->ended;
      changed = changed || pod.unwanted;
      continue;
    }
    changed = wanted_.erase(pod.slot) > 0 || changed;
    Start(uid, &pod);
    if (observed->ended) Exit(uid, &pod, observed->description, observed->last_lines);
  }
  return changed;
}

void PodRuntime::Start(const std::string& uid, Pod* pod) {
  pod->started = true;
  pod->first_rank = RankOf(slot_of_rank_, pod->slot);
  if (!callbacks_.on_started) return;
  const int first = pod->first_rank;
  for (int rank = first; rank < first + ranks_per_pod_; ++rank) {
    callbacks_.on_started(rank, WorkerIdOf(uid, rank));
  }
}

void PodRuntime::Exit(const std::string& uid, Pod* pod, const std::string& description,
                      const std::string& last_lines) {
  if (std::exchange(pod->exited, true) || !pod->started || !callbacks_.on_exit) return;
  const int first = pod->first_rank;
  for (int rank = first; rank < first + ranks_per_pod_; ++rank) {
    callbacks_.on_exit({.slot = rank,
                        .worker_id = WorkerIdOf(uid, rank),
                        .description = description,
                        .last_lines = last_lines});
  }
}

absl::StatusOr<std::optional<std::string>> PodRuntime::StartWorker(int rank) {
  {
    absl::MutexLock lock(&mu_);
    if (stopped_) return absl::FailedPreconditionError("the runtime is stopping");
    if (rank < 0 || rank >= static_cast<int>(slot_of_rank_.size())) {
      return absl::InvalidArgumentError(absl::StrCat("there is no rank ", rank));
    }
    const int slot = slot_of_rank_[static_cast<size_t>(rank)];
    const bool has_pod = std::any_of(pods_.begin(), pods_.end(), [slot](const auto& entry) {
      return entry.second.slot == slot && entry.second.started && !entry.second.exited;
    });
    if (has_pod || !wanted_.insert(slot).second) return std::nullopt;
  }
  if (on_change_) on_change_();
  return std::nullopt;
}

void PodRuntime::Kill(std::string_view worker_id, std::string_view reason) {
  {
    absl::MutexLock lock(&mu_);
    const auto found = pods_.find(identity::PodUidOf(worker_id));
    if (stopped_ || found == pods_.end() || found->second.exited) return;
    found->second.unwanted = true;
    found->second.kill_reason = std::string(reason);
    Exit(found->first, &found->second, "was ended", "");
  }
  if (on_change_) on_change_();
}

void PodRuntime::StopAll(absl::Duration /*grace*/) {
  absl::MutexLock lock(&mu_);
  stopped_ = true;
  callbacks_ = {};
  wanted_.clear();
}

std::vector<int> PodRuntime::WantedSlots() const {
  absl::MutexLock lock(&mu_);
  return {wanted_.begin(), wanted_.end()};
}

std::vector<UnwantedPod> PodRuntime::UnwantedPods() const {
  absl::MutexLock lock(&mu_);
  std::vector<UnwantedPod> unwanted;
  for (const auto& [uid, pod] : pods_) {
    if (pod.unwanted) unwanted.push_back({uid, pod.kill_reason});
  }
  return unwanted;
}

}  // namespace moe::runtime
