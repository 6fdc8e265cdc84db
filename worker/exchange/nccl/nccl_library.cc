#include "worker/exchange/nccl/nccl_library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace moe::exchange {
namespace {

static_assert(sizeof(NcclId) == sizeof(ncclUniqueId));

// Rows and routes travel as what they are: bytes.
constexpr ncclDataType_t kBytes = ncclUint8;

absl::StatusOr<NcclProgress> ProgressOf(const NcclFunctions& functions, ncclResult_t result,
                                        ncclComm_t communicator) {
  if (absl::Status status = NcclStatus(functions, result, communicator); !status.ok()) {
    return status;
  }
  return result == ncclInProgress ? NcclProgress::kUnderWay : NcclProgress::kDone;
}

class LibraryCommunicator final : public NcclCommunicator {
 public:
  LibraryCommunicator(const NcclFunctions& functions, ncclComm_t communicator, cudaStream_t stream)
      : nccl_(functions), communicator_(communicator), stream_(stream) {}
  ~LibraryCommunicator() override { Abort(); }

  absl::StatusOr<NcclProgress> Poll() override {
    ncclResult_t state = ncclSuccess;
    const ncclResult_t result = nccl_.comm_get_async_error(communicator_, &state);
    return ProgressOf(nccl_, result == ncclSuccess ? state : result, communicator_);
  }

  absl::Status GroupStart() override { return Check(nccl_.group_start()); }
  absl::StatusOr<NcclProgress> GroupEnd() override {
    return ProgressOf(nccl_, nccl_.group_end(), communicator_);
  }

  absl::Status Send(const void* from, size_t num_bytes, int to) override {
    return Check(nccl_.send(from, num_bytes, kBytes, to, communicator_, stream_));
  }
  absl::Status Receive(void* to, size_t num_bytes, int from) override {
    return Check(nccl_.recv(to, num_bytes, kBytes, from, communicator_, stream_));
  }
  absl::Status AllGather(const void* from, void* to, size_t num_bytes) override {
    return Check(nccl_.all_gather(from, to, num_bytes, kBytes, communicator_, stream_));
  }
  absl::Status Broadcast(const void* from, void* to, size_t num_bytes, int root) override {
    return Check(nccl_.broadcast(from, to, num_bytes, kBytes, root, communicator_, stream_));
  }

  absl::StatusOr<void*> Register(void* buffer, size_t num_bytes) override {
    void* handle = nullptr;
    absl::Status status = Check(nccl_.comm_register(communicator_, buffer, num_bytes, &handle));
    if (!status.ok()) return status;
    return handle;
  }
  absl::Status Deregister(void* handle) override {
    return Check(nccl_.comm_deregister(communicator_, handle));
  }

  absl::StatusOr<NcclProgress> Finalize() override {
    return ProgressOf(nccl_, nccl_.comm_finalize(communicator_), communicator_);
  }
  absl::Status Destroy() override {
    // The communicator is gone whatever the answer is, so its last error can't be asked for.
    return NcclStatus(nccl_, nccl_.comm_destroy(std::exchange(communicator_, nullptr)), nullptr);
  }
  void Abort() override {
    if (communicator_ == nullptr) return;
    // There is nothing more that could be done about an error: the communicator is gone.
    static_cast<void>(nccl_.comm_abort(std::exchange(communicator_, nullptr)));
  }

 private:
  absl::Status Check(ncclResult_t result) const { return NcclStatus(nccl_, result, communicator_); }

  const NcclFunctions nccl_;
  ncclComm_t communicator_;
  const cudaStream_t stream_;
};

class LibraryApi final : public NcclApi {
 public:
  LibraryApi(const NcclFunctions& functions, cudaStream_t stream)
      : nccl_(functions), stream_(stream) {}

  absl::StatusOr<NcclId> MakeId() override {
    ncclUniqueId id;
    absl::Status status = NcclStatus(nccl_, nccl_.get_unique_id(&id), nullptr);
    if (!status.ok()) return status;
    NcclId copy;
    std::memcpy(copy.bytes.data(), id.internal, sizeof(id.internal));
    return copy;
  }

  absl::StatusOr<std::unique_ptr<NcclCommunicator>> Connect(const NcclId& id, int num_ranks,
                                                            int rank) override {
    ncclUniqueId unique_id;
    std::memcpy(unique_id.internal, id.bytes.data(), sizeof(unique_id.internal));
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    ncclComm_t communicator = nullptr;
    const ncclResult_t result =
        nccl_.comm_init_rank_config(&communicator, num_ranks, unique_id, rank, &config);
    absl::Status status = NcclStatus(nccl_, result, communicator);
    if (status.ok() && communicator == nullptr) {
      status = absl::InternalError("NCCL made no communicator and named no error");
    }
    if (status.ok()) {
      return std::make_unique<LibraryCommunicator>(nccl_, communicator, stream_);
    }
    if (communicator != nullptr) static_cast<void>(nccl_.comm_abort(communicator));
    return status;
  }

 private:
  const NcclFunctions nccl_;
  const cudaStream_t stream_;
};

std::string WhatToDo() {
  return absl::StrCat("install NCCL ", NcclVersionName(kMinNcclVersion),
                      " or newer, or put the folder of its libnccl.so.2 in LD_LIBRARY_PATH");
}

template <typename Function>
absl::Status Find(void* library, const std::string& path, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  if (*function != nullptr) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(path, " has no ", name, ": ", WhatToDo()));
}

absl::Status FindAll(void* library, const std::string& path, NcclFunctions* functions) {
  for (const absl::Status& status :
       {Find(library, path, "ncclGetVersion", &functions->get_version),
        Find(library, path, "ncclGetUniqueId", &functions->get_unique_id),
        Find(library, path, "ncclGetErrorString", &functions->get_error_string),
        Find(library, path, "ncclGetLastError", &functions->get_last_error),
        Find(library, path, "ncclCommInitRankConfig", &functions->comm_init_rank_config),
        Find(library, path, "ncclCommGetAsyncError", &functions->comm_get_async_error),
        Find(library, path, "ncclCommRegister", &functions->comm_register),
        Find(library, path, "ncclCommDeregister", &functions->comm_deregister),
        Find(library, path, "ncclCommFinalize", &functions->comm_finalize),
        Find(library, path, "ncclCommDestroy", &functions->comm_destroy),
        Find(library, path, "ncclCommAbort", &functions->comm_abort),
        Find(library, path, "ncclGroupStart", &functions->group_start),
        Find(library, path, "ncclGroupEnd", &functions->group_end),
        Find(library, path, "ncclSend", &functions->send),
        Find(library, path, "ncclRecv", &functions->recv),
        Find(library, path, "ncclAllGather", &functions->all_gather),
        Find(library, path, "ncclBroadcast", &functions->broadcast)}) {
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace

std::string NcclVersionName(int version) {
  return absl::StrFormat("%d.%d.%d", version / 10000, version / 100 % 100, version % 100);
}

absl::Status CheckNcclVersion(int version) {
  if (version >= kMinNcclVersion && version / 10000 == kMinNcclVersion / 10000) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat("NCCL here is ", NcclVersionName(version), ", and this program was built for ",
                   NcclVersionName(kMinNcclVersion), ": ", WhatToDo()));
}

absl::StatusOr<NcclFunctions> LoadNccl(const std::string& path) {
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* const why = dlerror();
    const char* const folders = std::getenv("LD_LIBRARY_PATH");
    return absl::FailedPreconditionError(absl::StrCat(
        "NCCL can't be loaded (", why != nullptr ? why : path, "); it was looked for in ",
        folders != nullptr && *folders != '\0'
            ? absl::StrCat("LD_LIBRARY_PATH, ", folders, ", and ")
            : "",
        "the system's library folders: ", WhatToDo()));
  }
  NcclFunctions functions;
  if (absl::Status status = FindAll(library, path, &functions); !status.ok()) return status;
  int version = 0;
  if (absl::Status status = NcclStatus(functions, functions.get_version(&version), nullptr);
      !status.ok()) {
    return status;
  }
  if (absl::Status status = CheckNcclVersion(version); !status.ok()) return status;
  return functions;
}

absl::Status NcclStatus(const NcclFunctions& functions, ncclResult_t result,
                        ncclComm_t communicator) {
  if (result == ncclSuccess || result == ncclInProgress) return absl::OkStatus();
  std::string text = absl::StrCat("NCCL: ", functions.get_error_string(result));
  const char* const last = functions.get_last_error(communicator);
  if (last != nullptr && *last != '\0') absl::StrAppend(&text, ": ", last);
  return {result == ncclRemoteError ? absl::StatusCode::kUnavailable : absl::StatusCode::kInternal,
          text};
}

std::unique_ptr<NcclApi> MakeNccl(const NcclFunctions& functions, cudaStream_t stream) {
  return std::make_unique<LibraryApi>(functions, stream);
}

}  // namespace moe::exchange
