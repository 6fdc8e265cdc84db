// A bounded number of threads that run tasks, and a bounded queue before them.
//
// Threads start when they are needed and stay. Thread-safe.
//
// Tested by tests/gateway/http/http_faults_test.cc.
#ifndef MOE_GATEWAY_HTTP_WORKER_POOL_H_
#define MOE_GATEWAY_HTTP_WORKER_POOL_H_

#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace moe::gateway {

class WorkerPool {
 public:
  WorkerPool(int max_threads, int max_queue) : max_threads_(max_threads), max_queue_(max_queue) {}
  // Runs what is queued, then ends the threads.
  ~WorkerPool() { Stop(); }
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  // False, and the task is not run, when every thread is busy and the queue is full, or after Stop.
  bool Submit(std::function<void()> task);
  void Stop();

 private:
  void Work();

  const int max_threads_;
  const int max_queue_;
  absl::Mutex mutex_;
  std::deque<std::function<void()>> tasks_ ABSL_GUARDED_BY(mutex_);
  int num_idle_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace moe::gateway

#endif  // MOE_GATEWAY_HTTP_WORKER_POOL_H_
