// What a worker exports to Prometheus, read from the engine's own counters at each scrape.
//
// Tested by tests/worker/daemon/worker_metrics_test.cc.
#ifndef MOE_WORKER_DAEMON_WORKER_METRICS_H_
#define MOE_WORKER_DAEMON_WORKER_METRICS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "prometheus/collectable.h"
#include "prometheus/metric_family.h"
#include "proto/coordinator.pb.h"
#include "worker/daemon/group_exchange.h"
#include "worker/exchange/exchange.h"
#include "worker/model/expert_counts.h"
#include "worker/model/step_times.h"

namespace moe::worker {

// Thread-safe. Counters never go back while the process lives, across epochs.
class WorkerMetrics : public prometheus::Collectable {
 public:
  struct LoadFigures {
    uint64_t num_bytes = 0;
    uint64_t resident_bytes = 0;
    double seconds = 0;
    uint64_t kv_capacity_tokens = 0;
  };

  // Written by the engine thread without a lock.
  model::StepTimes* step_times() { return &step_times_; }

  void SetSlot(int slot) ABSL_LOCKS_EXCLUDED(mutex_);
  // Not owned; must outlive this or be replaced by null first.
  void SetExperts(const model::ExpertCounts* experts) ABSL_LOCKS_EXCLUDED(mutex_);
  void SetLoad(const LoadFigures& load) ABSL_LOCKS_EXCLUDED(mutex_);
  // The exchange of the running epoch; null when it ended: its figures are kept.
  void SetEpoch(uint64_t epoch, std::shared_ptr<const GroupExchange> exchange)
      ABSL_LOCKS_EXCLUDED(mutex_);

  // Busy seconds and expert tokens, as the controller wants them.
  void FillHeartbeat(coordinator::v1::Heartbeat* heartbeat) const ABSL_LOCKS_EXCLUDED(mutex_);

  std::vector<prometheus::MetricFamily> Collect() const override ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  exchange::ExchangeStats TotalExchange() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Time in which this rank computed: not waiting for others, not idle.
  double BusySeconds() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  model::StepTimes step_times_;
  mutable absl::Mutex mutex_;
  int slot_ ABSL_GUARDED_BY(mutex_) = -1;
  const model::ExpertCounts* experts_ ABSL_GUARDED_BY(mutex_) = nullptr;
  LoadFigures load_ ABSL_GUARDED_BY(mutex_);
  uint64_t epoch_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t num_epochs_ ABSL_GUARDED_BY(mutex_) = 0;
  std::shared_ptr<const GroupExchange> exchange_ ABSL_GUARDED_BY(mutex_);
  exchange::ExchangeStats ended_ ABSL_GUARDED_BY(mutex_);  // sum over ended epochs
};

}  // namespace moe::worker

#endif  // MOE_WORKER_DAEMON_WORKER_METRICS_H_
