// A MoEDeployment with every field that manifests look at, for the tests of this folder.
#ifndef MOE_TESTS_CONTROLLER_MANIFESTS_SAMPLE_H_
#define MOE_TESTS_CONTROLLER_MANIFESTS_SAMPLE_H_

#include <string>
#include <vector>

#include "controller/api/moe_deployment.h"
#include "controller/manifests/context.h"
#include "controller/manifests/worker_pod.h"

namespace moe::manifests {

inline api::MoEDeployment SampleDeployment() {
  api::MoEDeployment deployment;
  deployment.ns = "models";
  deployment.name = "olmoe";
  deployment.uid = "5e0a";
  deployment.spec.model = {.name = "olmoe-1b-7b", .uri = "pvc://weights/olmoe/v1"};
  deployment.spec.parallelism.expert = 4;
  deployment.spec.gateway.replicas = 2;
  deployment.spec.gateway.max_hold = absl::Seconds(60);
  for (int index : {0, 1}) {
    api::GroupStatus group;
    group.index = index;
    group.incarnations = {0, 0, 0, 0};
    group.slot_of_rank = {0, 1, 2, 3};
    deployment.status.groups.push_back(group);
  }
  return deployment;
}

inline Context SampleContext() {
  return {.operator_namespace = "moe-system",
          .coordinator_address = "moe-operator-coordinator.moe-system.svc:7700",
          .worker_image = "example.com/moe-worker:1",
          .gateway_image = "example.com/moe-gateway:1",
          .ca_bundle_pem = "-----BEGIN CERTIFICATE-----\n"};
}

inline WorkerPlace SamplePlace() {
  return {.group = 1, .slot = 3, .incarnation = 2, .num_slots = 4, .revision = "r1"};
}

}  // namespace moe::manifests

#endif  // MOE_TESTS_CONTROLLER_MANIFESTS_SAMPLE_H_
