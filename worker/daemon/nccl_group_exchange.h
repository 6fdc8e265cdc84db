// Epochs of ranks on GPUs, whose rows travel over NCCL. Only builds with MOE_CUDA have it.
//
// The buffers are allocated once for the group's shape, beside the rank's own memory and in its
// stream; each epoch registers them with its communicator.
//
// Tested by tests/worker/daemon/nccl_group_exchange_test.cc and nccl_worker_test.cc and by
// tests/system/cuda_group_test.cc, on the emulator over a fake NCCL.
#ifndef MOE_WORKER_DAEMON_NCCL_GROUP_EXCHANGE_H_
#define MOE_WORKER_DAEMON_NCCL_GROUP_EXCHANGE_H_

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "device/stream.h"
#include "worker/daemon/group_exchange.h"
#include "worker/exchange/nccl/nccl_api.h"
#include "worker/exchange/nccl/nccl_epoch.h"
#include "worker/exchange/nccl/step_pattern.h"

namespace moe::worker {

// NCCL for the communicators of one stream, which outlives it.
using MakeNcclApi = std::function<std::unique_ptr<exchange::NcclApi>(const device::Stream& stream)>;

struct NcclGroupsOptions {
  // Finds the library; nccl_library.h has the real one.
  std::function<absl::StatusOr<MakeNcclApi>()> load;
  // spans_nodes follows from the addresses of each epoch.
  exchange::PatternThresholds thresholds = {};
  // To make a communicator takes NCCL seconds, and more with every GPU. Not measured on GPUs yet.
  absl::Duration join_deadline = absl::Seconds(60);
  exchange::WatchOptions watch = {};
};

class NcclGroups final : public DeviceGroups {
 public:
  explicit NcclGroups(NcclGroupsOptions options) : options_(std::move(options)) {}

  absl::Status Load() override;
  uint64_t DeviceBytes(const exchange::GroupShape& shape, int rank) const override;
  // InvalidArgument: `model` is no cuda::CudaRank.
  absl::StatusOr<std::unique_ptr<GroupExchangeMaker>> MakeMaker(const RankPlace& place,
                                                                exchange::TcpListener* listener,
                                                                model::RankModel* model) override;

 private:
  const NcclGroupsOptions options_;
  MakeNcclApi make_api_;  // null until Load was OK
};

// Whether two of these HOST:PORT are of different hosts.
bool SpansNodes(const std::vector<std::string>& addresses);

}  // namespace moe::worker

#endif  // MOE_WORKER_DAEMON_NCCL_GROUP_EXCHANGE_H_
