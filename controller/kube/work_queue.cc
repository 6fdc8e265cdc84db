#include "controller/kube/work_queue.h"

#include <algorithm>

namespace moe::kube {

void WorkQueueState::Add(const ObjectKey& key) {
  if (!dirty_.insert(key).second) {
    return;
  }
  if (!working_.contains(key)) {
    ready_.push_back(key);
  }
}

void WorkQueueState::AddAt(const ObjectKey& key, absl::Time due) {
  const auto found = due_.find(key);
  if (found != due_.end()) {
    if (found->second <= due) {
      return;
    }
    by_time_.erase({found->second, key});
  }
  due_[key] = due;
  by_time_.insert({due, key});
}

void WorkQueueState::AddFailed(const ObjectKey& key, absl::Time now) {
  const int failures = failures_[key]++;
  // Above the maximum long before the shift would overflow.
  const absl::Duration own =
      failures >= 40
          ? options_.max_backoff
          : std::min(options_.max_backoff, options_.first_backoff * (int64_t{1} << failures));
  AddAt(key, now + std::max(own, limiter_.Reserve(now)));
}

int WorkQueueState::num_failures(const ObjectKey& key) const {
  const auto found = failures_.find(key);
  return found == failures_.end() ? 0 : found->second;
}

void WorkQueueState::MoveDue(absl::Time now) {
  while (!by_time_.empty() && by_time_.begin()->first <= now) {
    const ObjectKey key = by_time_.begin()->second;
    by_time_.erase(by_time_.begin());
    due_.erase(key);
    Add(key);
  }
}

std::optional<ObjectKey> WorkQueueState::Take(absl::Time now) {
  MoveDue(now);
  if (ready_.empty()) {
    return std::nullopt;
  }
  ObjectKey key = std::move(ready_.front());
  ready_.pop_front();
  dirty_.erase(key);
  working_.insert(key);
  return key;
}

void WorkQueueState::Done(const ObjectKey& key) {
  working_.erase(key);
  if (dirty_.contains(key)) {
    ready_.push_back(key);
  }
}

absl::Time WorkQueueState::next_due() const {
  return by_time_.empty() ? absl::InfiniteFuture() : by_time_.begin()->first;
}

void WorkQueue::Add(const ObjectKey& key) {
  absl::MutexLock lock(&mutex_);
  state_.Add(key);
  changed_.Signal();
}

void WorkQueue::AddAfter(const ObjectKey& key, absl::Duration delay) {
  absl::MutexLock lock(&mutex_);
  if (delay <= absl::ZeroDuration()) {
    state_.Add(key);
  } else {
    state_.AddAt(key, now_() + delay);
  }
  // All: the one that would be woken may be busy by the time that is due.
  changed_.SignalAll();
}

void WorkQueue::AddFailed(const ObjectKey& key) {
  absl::MutexLock lock(&mutex_);
  state_.AddFailed(key, now_());
  changed_.SignalAll();
}

void WorkQueue::Forget(const ObjectKey& key) {
  absl::MutexLock lock(&mutex_);
  state_.Forget(key);
}

std::optional<ObjectKey> WorkQueue::Get() {
  absl::MutexLock lock(&mutex_);
  while (!shut_down_) {
    const absl::Time now = now_();
    if (std::optional<ObjectKey> key = state_.Take(now)) {
      return key;
    }
    changed_.WaitWithTimeout(&mutex_, state_.next_due() - now);
  }
  return std::nullopt;
}

void WorkQueue::Done(const ObjectKey& key) {
  absl::MutexLock lock(&mutex_);
  state_.Done(key);
  changed_.Signal();
}

void WorkQueue::ShutDown() {
  absl::MutexLock lock(&mutex_);
  shut_down_ = true;
  changed_.SignalAll();
}

size_t WorkQueue::depth() const {
  absl::MutexLock lock(&mutex_);
  return state_.num_ready();
}

void WorkQueue::ClockMoved() {
  absl::MutexLock lock(&mutex_);
  changed_.SignalAll();
}

}  // namespace moe::kube
