// What the operator counts, for GET /metrics.
//
// Thread-safe. Tested by tests/controller/operator/operator_metrics_test.cc.
#ifndef MOE_CONTROLLER_OPERATOR_OPERATOR_METRICS_H_
#define MOE_CONTROLLER_OPERATOR_OPERATOR_METRICS_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "controller/kube/api.h"
#include "controller/operator/recovery.h"
#include "prometheus/collectable.h"
#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"

namespace moe::controller {

class OperatorMetrics : public prometheus::Collectable {
 public:
  OperatorMetrics();

  void CountReconcile(absl::Duration took, bool ok);
  void CountRequest(const char* verb);
  void CountEpoch();
  void AddRecovery(RecoveryPhase phase, absl::Duration took);
  void SetLeader(bool leads);
  void SetReady(const kube::ObjectKey& deployment, bool ready);
  void Forget(const kube::ObjectKey& deployment);
  void ForgetAll();

  // Asked at each Collect; must not block. Before the first one.
  struct Sources {
    std::function<size_t()> queue_depth;
    std::function<int64_t()> num_watch_restarts;  // never falls
  };
  void SetSources(Sources sources);

  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  prometheus::Registry registry_;
  Sources sources_;
  prometheus::Family<prometheus::Histogram>& reconcile_;
  prometheus::Histogram& reconcile_ok_;
  prometheus::Histogram& reconcile_failed_;
  prometheus::Family<prometheus::Counter>& requests_;
  prometheus::Counter& epochs_;
  prometheus::Family<prometheus::Histogram>& recovery_;
  prometheus::Gauge& leader_;
  prometheus::Gauge& queue_depth_;
  prometheus::Counter& watch_restarts_;
  prometheus::Family<prometheus::Gauge>& ready_;

  mutable absl::Mutex mu_;
  std::map<kube::ObjectKey, prometheus::Gauge*> ready_of_ ABSL_GUARDED_BY(mu_);
  mutable int64_t num_watch_restarts_ ABSL_GUARDED_BY(mu_) = 0;
};

// Counts requests on their way to another Api.
class CountingApi : public kube::Api {
 public:
  // Both outlive it.
  CountingApi(kube::Api* api, OperatorMetrics* metrics) : api_(api), metrics_(metrics) {}

  absl::StatusOr<kube::Json> Get(const kube::ResourceType& type,
                                 const kube::ObjectKey& key) override;
  absl::StatusOr<kube::Json> List(const kube::ResourceType& type, const std::string& ns,
                                  const std::string& selector) override;
  absl::StatusOr<kube::Json> Create(const kube::ResourceType& type, const std::string& ns,
                                    const kube::Json& object, bool dry_run = false) override;
  absl::StatusOr<kube::Json> Update(const kube::ResourceType& type,
                                    const kube::Json& object) override;
  absl::StatusOr<kube::Json> UpdateStatus(const kube::ResourceType& type,
                                          const kube::Json& object) override;
  absl::StatusOr<kube::Json> Apply(const kube::ResourceType& type,
                                   const kube::Json& object) override;
  absl::StatusOr<kube::Json> MergePatch(const kube::ResourceType& type, const kube::ObjectKey& key,
                                        const kube::Json& patch) override;
  absl::Status Delete(const kube::ResourceType& type, const kube::ObjectKey& key,
                      const kube::DeleteOptions& options) override;

 private:
  kube::Api* const api_;
  OperatorMetrics* const metrics_;
};

}  // namespace moe::controller

#endif  // MOE_CONTROLLER_OPERATOR_OPERATOR_METRICS_H_
