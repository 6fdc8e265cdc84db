// Epochs between ranks on emulated GPUs, whose rows travel over a fake NCCL between threads: by the
// worker daemon's own exchange.
#ifndef MOE_TESTS_SYSTEM_FAKE_NCCL_GROUP_H_
#define MOE_TESTS_SYSTEM_FAKE_NCCL_GROUP_H_

#include <memory>
#include <string>
#include <vector>

#include "tests/system/in_process_group.h"
#include "tests/worker/exchange/nccl/fake_nccl.h"
#include "worker/daemon/nccl_group_exchange.h"
#include "worker/exchange/nccl/step_pattern.h"
#include "worker/exchange/tcp_listener.h"

namespace moe::testing {

// NCCL of one rank of `world`, which outlives it.
worker::NcclGroupsOptions FakeNcclOptions(exchange::FakeNccl* world, int rank);

// For ranks that a CudaBackend loaded. Must outlive the group that uses it.
class FakeNcclGroup : public EndMaker {
 public:
  FakeNcclGroup(int num_ranks, const exchange::PatternThresholds& thresholds);
  // Expects that nothing is left and that NCCL was called as it may be.
  ~FakeNcclGroup() override;

  absl::Status Take(const exchange::GroupShape& shape, int rank, model::RankModel* model) override;
  absl::StatusOr<std::shared_ptr<worker::GroupExchange>> Make(
      int rank, uint64_t epoch, const std::string& bootstrap) override;

  int64_t num_bytes_received() { return nccl_.num_bytes_received(); }

 private:
  struct Rank {
    std::unique_ptr<exchange::TcpListener> listener;
    std::unique_ptr<worker::NcclGroups> groups;
    std::unique_ptr<worker::GroupExchangeMaker> maker;  // of the process that has the rank
  };

  exchange::FakeNccl nccl_;
  std::vector<Rank> ranks_;
};

}  // namespace moe::testing

#endif  // MOE_TESTS_SYSTEM_FAKE_NCCL_GROUP_H_
