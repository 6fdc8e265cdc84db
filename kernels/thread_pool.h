// A fixed set of threads that run one parallel loop at a time.
#ifndef MOE_KERNELS_THREAD_POOL_H_
#define MOE_KERNELS_THREAD_POOL_H_

#include <functional>
#include <memory>

#include "kernels/scratch.h"

namespace moe::kernels {

// Owned by one thread, which calls ParallelFor and takes part in the work; not thread-safe beyond
// that. With num_threads == 1 no thread is started and ParallelFor is a plain loop.
class ThreadPool {
 public:
  struct Options {
    int num_threads = 1;  // the caller included
    // How long a worker spins for the next loop before it sleeps. 0 where many processes share few
    // cores; a step of one process has hundreds of short loops, so spinning pays there.
    int spin_microseconds = 50;
  };

  explicit ThreadPool(const Options& options);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const;

  // Calls fn(task) once for each task in [0, num_tasks), in any order, on any of the threads, and
  // returns when all are done. Tasks are taken one at a time, so they should be larger than about
  // 10 us. `fn` must not throw and must not call ParallelFor. All threads hold
  // ScopedFlushDenormals.
  void ParallelFor(int num_tasks, const std::function<void(int task)>& fn);

  // Memory for the operations of this folder, one at a time. Used by the owning thread between
  // loops; the tasks of a loop may share out what it returned.
  Scratch& scratch() { return scratch_; }

 private:
  struct State;
  std::unique_ptr<State> state_;
  Scratch scratch_;
};

}  // namespace moe::kernels

#endif  // MOE_KERNELS_THREAD_POOL_H_
