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
  status.model = ModelStatus{
      "pvc://a/b", 16,          64,
      8,           13800000000, ModelShapeStatus{2048, 1024, 16, 4, 128, 50304, 4096, true},
      true};
  const LayoutFigures figures{64, 1.933, 33113, 410.25, 31100000000, "latency of the exchange"};
  LayoutDecision& decision = status.decision.emplace();
  decision.choice = {"EP4_TP1_PP1_DP1+A2", 4, 2, true, 4, figures, ""};
  decision.basis = "Planned";
  decision.because = "it is the best";
  decision.gpus = "8 x A on 1 node";
  decision.assumptions = "64 sequences";
  decision.alternatives = {{"EP8_TP1_PP1_DP1", 8, 8, false, 8, figures, "worker.gpusPerPod: 8"},
                           {"EP2_TP1_PP1_DP1", 2, 2, false, 2, std::nullopt, ""}};
  decision.plain_replicas = PlainReplicas{true, 4, figures, "why"};
  decision.proposed = LayoutChoice{"EP8_TP1_PP1_DP1", 8, 8, false, 8, figures, ""};
  decision.proposed_gpus = "16 x A on 2 nodes";
  decision.review_problem = "no GPUs";
  decision.decided_at = time;
  decision.spec_key = "0123";
  decision.inputs_key = "4567";
  decision.adoption_seen = "EP4_TP1_PP1_DP1+A2";
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
  revision = {"abc",         4, 2, 16, 64, 4, true, {32, 256, 128, 2048, uint64_t{3} << 30, 2.5},
              Backend::kCuda};
  status.next_incarnation = 7;
  status.removed_epoch = 8;
  status.progress_at = time + absl::Minutes(3);
  status.last_failure =
      FailureStatus{"p1", 2, 3, 1, "n1", 137, "OOMKilled", "line 1\nline \"2\"\n", time};
  status.gpu_failures = {{"p1", "n1", time}, {"p2", "n1", time + absl::Hours(1)}};
  status.startup = StartupStatus{time, time, time, time, time, time + absl::Nanoseconds(1)};
  status.expert_load = ExpertLoadStatus{5632, 1.51, "2 (2.4%)", "14 (1.1%)", time};
  status.conditions = {{"Ready", "False", "Recovering", "a worker was lost", time, 3}};
  return status;
}

}  // namespace moe::api
