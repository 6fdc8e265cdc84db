// The real NCCL, loaded when it is first needed: programs start on machines without it and say in
// words what is missing.
//
// Tested by tests/worker/exchange/nccl/nccl_library_test.cc, on functions that only note how they
// were called; nccl_gpu_test.cc needs GPUs.
#ifndef MOE_WORKER_EXCHANGE_NCCL_NCCL_LIBRARY_H_
#define MOE_WORKER_EXCHANGE_NCCL_NCCL_LIBRARY_H_

#include <nccl.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/exchange/nccl/nccl_api.h"

namespace moe::exchange {

// The functions that are used, with the types of the header that this program is built with.
struct NcclFunctions {
  decltype(&ncclGetVersion) get_version = nullptr;
  decltype(&ncclGetUniqueId) get_unique_id = nullptr;
  decltype(&ncclGetErrorString) get_error_string = nullptr;
  decltype(&ncclGetLastError) get_last_error = nullptr;
  decltype(&ncclCommInitRankConfig) comm_init_rank_config = nullptr;
  decltype(&ncclCommGetAsyncError) comm_get_async_error = nullptr;
  decltype(&ncclCommRegister) comm_register = nullptr;
  decltype(&ncclCommDeregister) comm_deregister = nullptr;
  decltype(&ncclCommFinalize) comm_finalize = nullptr;
  decltype(&ncclCommDestroy) comm_destroy = nullptr;
  decltype(&ncclCommAbort) comm_abort = nullptr;
  decltype(&ncclGroupStart) group_start = nullptr;
  decltype(&ncclGroupEnd) group_end = nullptr;
  decltype(&ncclSend) send = nullptr;
  decltype(&ncclRecv) recv = nullptr;
  decltype(&ncclAllGather) all_gather = nullptr;
  decltype(&ncclBroadcast) broadcast = nullptr;
};

// The oldest library that fits: the version of the header. NCCL promises that later ones serve
// programs that were built for an earlier one.
inline constexpr int kMinNcclVersion = NCCL_VERSION_CODE;

// "2.28.9" for 22809.
std::string NcclVersionName(int version);

// Loads a library, which stays for the life of the process: NCCL has threads of its own.
// FailedPrecondition, saying what to do, where there is none, where it lacks a function, or where
// it is older than kMinNcclVersion.
absl::StatusOr<NcclFunctions> LoadNccl(const std::string& path = "libnccl.so.2");

// FailedPrecondition for a version that is too old, or of another major version.
absl::Status CheckNcclVersion(int version);

// An error of NCCL as a status: what was done, NCCL's own words, and those of its last error.
// OK for ncclSuccess and ncclInProgress. Unavailable where another rank or the network failed;
// Internal for the rest. `communicator` may be null.
absl::Status NcclStatus(const NcclFunctions& functions, ncclResult_t result,
                        ncclComm_t communicator);

// Communicators that enqueue in `stream`, which is not owned and must outlive them.
std::unique_ptr<NcclApi> MakeNccl(const NcclFunctions& functions, cudaStream_t stream);

}  // namespace moe::exchange

#endif  // MOE_WORKER_EXCHANGE_NCCL_NCCL_LIBRARY_H_
