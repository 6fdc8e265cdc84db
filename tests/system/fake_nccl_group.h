// Epochs between ranks on emulated GPUs, whose rows travel over a fake NCCL between threads.
#ifndef MOE_TESTS_SYSTEM_FAKE_NCCL_GROUP_H_
#define MOE_TESTS_SYSTEM_FAKE_NCCL_GROUP_H_

#include <map>
#include <memory>
#include <vector>

#include "tests/system/epoch_end.h"
#include "tests/worker/exchange/nccl/fake_nccl.h"
#include "worker/exchange/nccl/exchange_buffers.h"
#include "worker/exchange/nccl/step_pattern.h"
#include "worker/exchange/tcp.h"

namespace moe::testing {

// For ranks that a CudaBackend loaded. Must outlive the group that uses it.
class FakeNcclGroup {
 public:
  FakeNcclGroup(int num_ranks, const exchange::PatternThresholds& thresholds);
  // Expects that nothing is left and that NCCL was called as it may be.
  ~FakeNcclGroup();

  absl::StatusOr<std::unique_ptr<EpochEnd>> MakeEnd(const EpochRequest& request);

  int64_t num_bytes_received() { return nccl_.num_bytes_received(); }

 private:
  struct Rank {
    std::unique_ptr<exchange::TcpListener> listener;
    std::unique_ptr<exchange::FakeNcclApi> api;
    const model::RankModel* model = nullptr;  // whose stream the buffers were made with
    std::unique_ptr<exchange::ExchangeBuffers> buffers;
  };

  const exchange::PatternThresholds thresholds_;
  exchange::FakeNccl nccl_;
  std::vector<Rank> ranks_;
};

}  // namespace moe::testing

#endif  // MOE_TESTS_SYSTEM_FAKE_NCCL_GROUP_H_
