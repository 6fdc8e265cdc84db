// What rank 0 gives to the others through the coordinator when rows travel over NCCL: the bootstrap
// of the control channel, and NCCL's id. A secret: no message holds any of it.
// Pure. Tested by tests/worker/exchange/nccl/nccl_bootstrap_test.cc.
#ifndef MOE_WORKER_EXCHANGE_NCCL_NCCL_BOOTSTRAP_H_
#define MOE_WORKER_EXCHANGE_NCCL_NCCL_BOOTSTRAP_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "worker/exchange/nccl/nccl_api.h"

namespace moe::exchange {

struct NcclBootstrap {
  NcclId id;
  std::string control;  // of the control channel, which checks it by itself
};

std::string MakeNcclBootstrap(const NcclBootstrap& bootstrap);
// InvalidArgument: not such a bootstrap.
absl::StatusOr<NcclBootstrap> ParseNcclBootstrap(std::string_view bytes);

}  // namespace moe::exchange

#endif  // MOE_WORKER_EXCHANGE_NCCL_NCCL_BOOTSTRAP_H_
