// See full_status.h.
#include "tests/controller/api/full_status.h"

#include <optional>

namespace moe::api {

absl::Time FullStatusTime() { return absl::FromUnixMillis(1764345900123); }

MoEDeploymentStatus FullStatus() {
  const absl::Time time = FullStatusTime();
  MoEDeploymentStatus status;
  status.observed_generation = 3;
  status.strategy = "EP4_TP1_PP1_DP1";
  status.term = 5;
  status.replicas = 1;
  status.ready_replicas = 1;
  status.updated_replicas = 1;
  status.revision = "abc";
  status.worker_image = "w:1";
  status.gateway_image = "g:1";
  status.workers = "4/4";
  status.epoch = 9;
  status.url = "http://a.b.svc";
  status.hpa_pod_selector = "moe-operator.dev/slot=0";
  status.model = ModelStatus{"pvc://a/b", 16, 64, 8, 13800000000};
  GroupStatus& group = status.groups.emplace_back();
  group.index = 2;
  group.revision = "abc";
  group.phase = "Recovering";
  group.reason = "worker 3 was lost";
  group.epoch = 9;
  group.active = true;
  group.incarnations = {0, 0, 3, -1};
  group.slot_of_rank = {2, 0, 1, 3};
  group.gang_attempts = 2;
  group.gang_since = time;
  group.gang_retry_at = time + absl::Minutes(1);
  group.draining_since = time + absl::Minutes(2);
  group.ranks = {{0, "p0", std::nullopt, "n0", "0", "Active"}, {1, "p1", 3, "n1", "1-2", "Failed"}};
  group.ranks_left_out = 2;
  RevisionStatus& revision = status.revisions.emplace_back();
  revision = {"abc", 4, 2, 16, 64, 4, true, {32, 256, 128, 2048, uint64_t{3} << 30, 2.5}};
  status.next_incarnation = 7;
  status.removed_epoch = 8;
  status.progress_at = time + absl::Minutes(3);
  status.last_failure =
      FailureStatus{"p1", 2, 3, 1, "n1", 137, "OOMKilled", "line 1\nline \"2\"\n", time};
  status.startup = StartupStatus{time, time, time, time, time, time + absl::Nanoseconds(1)};
  status.expert_load = ExpertLoadStatus{5632, 1.51, "2 (2.4%)", "14 (1.1%)", time};
  status.conditions = {{"Ready", "False", "Recovering", "a worker was lost", time, 3}};
  return status;
}

}  // namespace moe::api
