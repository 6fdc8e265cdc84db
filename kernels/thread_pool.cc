// See thread_pool.h. Tested by tests/kernels/thread_pool_test.cc.
//
// A loop is published by storing its number of tasks in `unclaimed`; a task is claimed by counting
// that down. A worker looks at the loop's function only after it has claimed a task, and the caller
// leaves the loop only when all claimed tasks are done, so a worker that wakes late finds nothing
// to claim and the caller need not wait for it.
#include "kernels/thread_pool.h"

#include <emmintrin.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "absl/log/absl_check.h"
#include "kernels/numerics.h"

namespace moe::kernels {

namespace {

// Calls `ready` until it is true or the time is over. Returns whether it became true.
template <typename Ready>
bool SpinFor(std::chrono::microseconds limit, const Ready& ready) {
  if (ready()) return true;
  if (limit.count() == 0) return false;
  const auto end = std::chrono::steady_clock::now() + limit;
  do {
    for (int i = 0; i < 32; ++i) {
      if (ready()) return true;
      _mm_pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

}  // namespace

struct ThreadPool::State {
  explicit State(const Options& options)
      : num_threads(options.num_threads), spin(options.spin_microseconds) {}

  const int num_threads;
  const std::chrono::microseconds spin;

  // Of the current loop: written by the caller while no task is unclaimed or running.
  const std::function<void(int task)>* fn = nullptr;
  int num_tasks = 0;

  // On separate cache lines: they are written by all threads.
  alignas(64) std::atomic<int> unclaimed{0};
  alignas(64) std::atomic<int> done{0};
  // Counts loops; workers sleep on it.
  alignas(64) std::atomic<uint32_t> wake{0};
  std::atomic<bool> stop{false};

  std::vector<std::thread> workers;

  // Runs tasks until none is unclaimed.
  void Work() {
    int left = unclaimed.load(std::memory_order_acquire);
    while (left > 0) {
      if (!unclaimed.compare_exchange_weak(left, left - 1, std::memory_order_acq_rel,
                                           std::memory_order_acquire)) {
        continue;
      }
      const int total = num_tasks;
      (*fn)(total - left);
      if (done.fetch_add(1, std::memory_order_acq_rel) + 1 == total) done.notify_one();
      left = unclaimed.load(std::memory_order_acquire);
    }
  }

  void RunWorker() {
    const ScopedFlushDenormals flush;
    while (true) {
      const uint32_t seen = wake.load(std::memory_order_acquire);
      const auto has_work = [this] {
        return unclaimed.load(std::memory_order_relaxed) > 0 ||
               stop.load(std::memory_order_relaxed);
      };
      if (!SpinFor(spin, has_work)) {
        wake.wait(seen, std::memory_order_acquire);
      }
      if (stop.load(std::memory_order_acquire)) return;
      Work();
    }
  }
};

ThreadPool::ThreadPool(const Options& options) : state_(std::make_unique<State>(options)) {
  ABSL_CHECK_GE(options.num_threads, 1);
  ABSL_CHECK_GE(options.spin_microseconds, 0);
  state_->workers.reserve(options.num_threads - 1);
  for (int i = 1; i < options.num_threads; ++i) {
    state_->workers.emplace_back([state = state_.get()] { state->RunWorker(); });
  }
}

ThreadPool::~ThreadPool() {
  state_->stop.store(true, std::memory_order_release);
  state_->wake.fetch_add(1, std::memory_order_acq_rel);
  state_->wake.notify_all();
  for (std::thread& worker : state_->workers) worker.join();
}

int ThreadPool::num_threads() const { return state_->num_threads; }

void ThreadPool::ParallelFor(int num_tasks, const std::function<void(int task)>& fn) {
  if (num_tasks <= 0) return;
  const ScopedFlushDenormals flush;
  State& state = *state_;
  if (state.num_threads == 1 || num_tasks == 1) {
    for (int task = 0; task < num_tasks; ++task) fn(task);
    return;
  }
  state.fn = &fn;
  state.num_tasks = num_tasks;
  state.done.store(0, std::memory_order_relaxed);
  state.unclaimed.store(num_tasks, std::memory_order_release);
  state.wake.fetch_add(1, std::memory_order_acq_rel);
  state.wake.notify_all();  // no system call unless a worker sleeps
  state.Work();
  const auto all_done = [&state, num_tasks] {
    return state.done.load(std::memory_order_acquire) == num_tasks;
  };
  if (SpinFor(state.spin, all_done)) return;
  for (int done = state.done.load(std::memory_order_acquire); done != num_tasks;
       done = state.done.load(std::memory_order_acquire)) {
    state.done.wait(done, std::memory_order_acquire);
  }
}

}  // namespace moe::kernels
