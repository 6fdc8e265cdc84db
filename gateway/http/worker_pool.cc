// See worker_pool.h.
#include "gateway/http/worker_pool.h"

#include <utility>

namespace moe::gateway {

bool WorkerPool::Submit(std::function<void()> task) {
  absl::MutexLock lock(&mutex_);
  if (stopping_) {
    return false;
  }
  const auto num_free = num_idle_ - static_cast<int>(tasks_.size());
  if (num_free <= 0) {
    if (static_cast<int>(threads_.size()) < max_threads_) {
      threads_.emplace_back([this] { Work(); });
    } else if (static_cast<int>(tasks_.size()) - num_idle_ >= max_queue_) {
      return false;
    }
  }
  tasks_.push_back(std::move(task));
  return true;
}

void WorkerPool::Work() {
  for (;;) {
    std::function<void()> task;
    {
      absl::MutexLock lock(&mutex_);
      ++num_idle_;
      const auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return stopping_ || !tasks_.empty();
      };
      mutex_.Await(absl::Condition(&ready));
      --num_idle_;
      if (tasks_.empty()) {
        return;
      }
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    task();
  }
}

void WorkerPool::Stop() {
  std::vector<std::thread> threads;
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    threads.swap(threads_);
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
}

}  // namespace moe::gateway
