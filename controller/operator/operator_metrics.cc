#include "controller/operator/operator_metrics.h"

#include <utility>

namespace moe::controller {
namespace {

using kube::Json;
using kube::ObjectKey;
using kube::ResourceType;

prometheus::Histogram::BucketBoundaries ReconcileBuckets() {
  return {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30};
}

prometheus::Histogram::BucketBoundaries RecoveryBuckets() {
  return {0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 30, 60, 120, 300};
}

}  // namespace

OperatorMetrics::OperatorMetrics()
    : reconcile_(prometheus::BuildHistogram()
                     .Name("moe_controller_reconcile_seconds")
                     .Help("Time to observe, decide and act for one MoEDeployment")
                     .Register(registry_)),
      reconcile_ok_(reconcile_.Add({{"result", "ok"}}, ReconcileBuckets())),
      reconcile_failed_(reconcile_.Add({{"result", "error"}}, ReconcileBuckets())),
      requests_(prometheus::BuildCounter()
                    .Name("moe_controller_api_requests_total")
                    .Help("Requests to the API server, without watches and their lists")
                    .Register(registry_)),
      epochs_(prometheus::BuildCounter()
                  .Name("moe_controller_epochs_total")
                  .Help("Epochs that became active, of all groups")
                  .Register(registry_)
                  .Add({})),
      recovery_(prometheus::BuildHistogram()
                    .Name("moe_controller_recovery_seconds")
                    .Help("Parts of the time from a failure of a group to its next active epoch")
                    .Register(registry_)),
      leader_(prometheus::BuildGauge()
                  .Name("moe_controller_leader")
                  .Help("1 in the controller that leads")
                  .Register(registry_)
                  .Add({})),
      queue_depth_(prometheus::BuildGauge()
                       .Name("moe_controller_work_queue_depth")
                       .Help("MoEDeployments that wait to be looked at")
                       .Register(registry_)
                       .Add({})),
      watch_restarts_(prometheus::BuildCounter()
                          .Name("moe_controller_watch_restarts_total")
                          .Help("Watches that were begun again, and lists behind them")
                          .Register(registry_)
                          .Add({})),
      ready_(prometheus::BuildGauge()
                 .Name("moe_deployment_ready")
                 .Help("1 while the condition Ready of the MoEDeployment is True")
                 .Register(registry_)) {
  // A series that is there from the start can be alerted on.
  for (const RecoveryPhase phase : {RecoveryPhase::kDetect, RecoveryPhase::kReplace,
                                    RecoveryPhase::kLoad, RecoveryPhase::kJoin}) {
    recovery_.Add({{"phase", RecoveryPhaseName(phase)}}, RecoveryBuckets());
  }
}

void OperatorMetrics::CountReconcile(absl::Duration took, bool ok) {
  (ok ? reconcile_ok_ : reconcile_failed_).Observe(absl::ToDoubleSeconds(took));
}

void OperatorMetrics::CountRequest(const char* verb) {
  requests_.Add({{"verb", verb}}).Increment();
}

void OperatorMetrics::CountEpoch() { epochs_.Increment(); }

void OperatorMetrics::AddRecovery(RecoveryPhase phase, absl::Duration took) {
  recovery_.Add({{"phase", RecoveryPhaseName(phase)}}, RecoveryBuckets())
      .Observe(absl::ToDoubleSeconds(took));
}

void OperatorMetrics::SetLeader(bool leads) { leader_.Set(leads ? 1 : 0); }

void OperatorMetrics::SetReady(const ObjectKey& deployment, bool ready) {
  absl::MutexLock lock(&mu_);
  prometheus::Gauge*& gauge = ready_of_[deployment];
  if (gauge == nullptr) {
    gauge = &ready_.Add({{"namespace", deployment.ns}, {"deployment", deployment.name}});
  }
  gauge->Set(ready ? 1 : 0);
}

void OperatorMetrics::Forget(const ObjectKey& deployment) {
  absl::MutexLock lock(&mu_);
  const auto found = ready_of_.find(deployment);
  if (found == ready_of_.end()) return;
  ready_.Remove(found->second);
  ready_of_.erase(found);
}

void OperatorMetrics::ForgetAll() {
  absl::MutexLock lock(&mu_);
  for (const auto& [deployment, gauge] : ready_of_) ready_.Remove(gauge);
  ready_of_.clear();
}

void OperatorMetrics::SetSources(Sources sources) { sources_ = std::move(sources); }

std::vector<prometheus::MetricFamily> OperatorMetrics::Collect() const {
  if (sources_.queue_depth) queue_depth_.Set(static_cast<double>(sources_.queue_depth()));
  if (sources_.num_watch_restarts) {
    absl::MutexLock lock(&mu_);
    const int64_t present = sources_.num_watch_restarts();
    if (present > num_watch_restarts_) {
      watch_restarts_.Increment(static_cast<double>(present - num_watch_restarts_));
      num_watch_restarts_ = present;
    }
  }
  return registry_.Collect();
}

absl::StatusOr<Json> CountingApi::Get(const ResourceType& type, const ObjectKey& key) {
  metrics_->CountRequest("get");
  return api_->Get(type, key);
}

absl::StatusOr<Json> CountingApi::List(const ResourceType& type, const std::string& ns,
                                       const std::string& selector) {
  metrics_->CountRequest("list");
  return api_->List(type, ns, selector);
}

absl::StatusOr<Json> CountingApi::Create(const ResourceType& type, const std::string& ns,
                                         const Json& object, bool dry_run) {
  metrics_->CountRequest("create");
  return api_->Create(type, ns, object, dry_run);
}

absl::StatusOr<Json> CountingApi::Update(const ResourceType& type, const Json& object) {
  metrics_->CountRequest("update");
  return api_->Update(type, object);
}

absl::StatusOr<Json> CountingApi::UpdateStatus(const ResourceType& type, const Json& object) {
  metrics_->CountRequest("update");
  return api_->UpdateStatus(type, object);
}

absl::StatusOr<Json> CountingApi::Apply(const ResourceType& type, const Json& object) {
  metrics_->CountRequest("patch");
  return api_->Apply(type, object);
}

absl::StatusOr<Json> CountingApi::MergePatch(const ResourceType& type, const ObjectKey& key,
                                             const Json& patch) {
  metrics_->CountRequest("patch");
  return api_->MergePatch(type, key, patch);
}

absl::Status CountingApi::Delete(const ResourceType& type, const ObjectKey& key,
                                 const kube::DeleteOptions& options) {
  metrics_->CountRequest("delete");
  return api_->Delete(type, key, options);
}

}  // namespace moe::controller
