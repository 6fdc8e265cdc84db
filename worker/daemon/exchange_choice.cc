#include "worker/daemon/exchange_choice.h"

#include "absl/strings/str_format.h"
#include "worker/daemon/host_group_exchange.h"

namespace moe::worker {
namespace {

using coordinator::v1::EXCHANGE_NCCL;
using coordinator::v1::EXCHANGE_SHARED_MEMORY;
using coordinator::v1::EXCHANGE_TCP;

absl::string_view KindName(coordinator::v1::ExchangeKind kind) {
  return kind == EXCHANGE_TCP ? "TCP" : "shared memory";
}

absl::Status NoListener(absl::string_view what) {
  return absl::FailedPreconditionError(absl::StrFormat(
      "the group exchanges over %s, and this worker was started without --exchange-address", what));
}

}  // namespace

absl::Status CheckExchange(coordinator::v1::ExchangeKind kind, int num_ranks,
                           const ExchangeMeans& means) {
  if (kind == EXCHANGE_NCCL) {
    if (!means.on_device) {
      return absl::FailedPreconditionError(
          "the group exchanges over NCCL, and this worker computes on a CPU: start it with "
          "--backend cuda");
    }
    if (means.device_groups == nullptr) {
      return absl::FailedPreconditionError(
          "the group exchanges over NCCL, and this moe-worker was built without it");
    }
    return means.listener != nullptr ? absl::OkStatus() : NoListener("NCCL");
  }
  if (kind != EXCHANGE_SHARED_MEMORY && kind != EXCHANGE_TCP) {
    return absl::UnimplementedError(absl::StrFormat("this worker does not know exchange %d", kind));
  }
  if (means.on_device && num_ranks > 1) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "the experts of this rank lie in the memory of a GPU, and the group of %d ranks exchanges "
        "by %s: a group of several ranks on GPUs needs NCCL",
        num_ranks, KindName(kind)));
  }
  if (kind == EXCHANGE_TCP && means.listener == nullptr) return NoListener("TCP");
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<GroupExchangeMaker>> MakeExchangeMaker(
    coordinator::v1::ExchangeKind kind, const RankPlace& place, const ExchangeMeans& means,
    model::RankModel* model) {
  if (kind == EXCHANGE_NCCL) return means.device_groups->MakeMaker(place, means.listener, model);
  if (kind == EXCHANGE_TCP) return MakeTcpGroups(place, model->host_experts(), means.listener);
  return MakeSharedMemoryGroups(place, model->host_experts(), means.cores);
}

}  // namespace moe::worker
