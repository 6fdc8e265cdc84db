// Which exchange a rank has: of the kind that its group was assigned, by the means of its process.
//
// Tested by tests/worker/daemon/exchange_choice_test.cc.
#ifndef MOE_WORKER_DAEMON_EXCHANGE_CHOICE_H_
#define MOE_WORKER_DAEMON_EXCHANGE_CHOICE_H_

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/coordinator.pb.h"
#include "worker/daemon/group_exchange.h"

namespace moe::worker {

// What this process has for exchanges. Nothing is owned; all must outlive what is made of it.
struct ExchangeMeans {
  bool on_device = false;                     // the rank computes on a GPU
  DeviceGroups* device_groups = nullptr;      // null: a build without CUDA
  exchange::TcpListener* listener = nullptr;  // null: no --exchange-address
  std::vector<int> cores;                     // that the ranks of this machine share
};

// Before anything is loaded: whether a group of `num_ranks` can exchange by `kind` here. Pure.
// FailedPrecondition, or Unimplemented for a kind of a later version, says what to change.
absl::Status CheckExchange(coordinator::v1::ExchangeKind kind, int num_ranks,
                           const ExchangeMeans& means);

// REQUIRES: CheckExchange was OK and, for NCCL, DeviceGroups::Load. `model` outlives the result.
absl::StatusOr<std::unique_ptr<GroupExchangeMaker>> MakeExchangeMaker(
    coordinator::v1::ExchangeKind kind, const RankPlace& place, const ExchangeMeans& means,
    model::RankModel* model);

}  // namespace moe::worker

#endif  // MOE_WORKER_DAEMON_EXCHANGE_CHOICE_H_
