#include "worker/daemon/nccl_group_exchange.h"

#include <algorithm>

#include "absl/strings/string_view.h"
#include "worker/cuda/graph_shape.h"
#include "worker/cuda/rank.h"
#include "worker/exchange/nccl/exchange_buffers.h"
#include "worker/exchange/nccl/nccl_exchange.h"

namespace moe::worker {
namespace {

using exchange::ExchangeBuffers;
using exchange::NcclEpoch;
using exchange::NcclExchange;

// Rows of one owner that there are slots for: more than a decode step that may become a graph has
// travel in exact numbers. The same at all ranks.
constexpr int kMaxSlotRows = cuda::kMaxGraphRows;

class NcclGroupExchange final : public GroupExchange {
 public:
  NcclGroupExchange(std::unique_ptr<NcclEpoch> epoch, std::unique_ptr<NcclExchange> exchange)
      : epoch_(std::move(epoch)), exchange_(std::move(exchange)) {}

  std::string bootstrap() const override { return epoch_->bootstrap(); }
  absl::Status Connect() override {
    absl::Status status = epoch_->Connect();
    return status.ok() ? exchange_->Connect() : status;
  }
  exchange::ControlChannel* control() override { return epoch_.get(); }
  model::RankExchange exchange() override { return {.device = exchange_.get()}; }
  void Abort(std::string_view reason) override { epoch_->Abort(reason); }
  int suspect() const override { return epoch_->suspect(); }
  exchange::ExchangeStats stats() const override { return exchange_->stats(); }

 private:
  const std::unique_ptr<NcclEpoch> epoch_;
  const std::unique_ptr<NcclExchange> exchange_;
};

class NcclGroupExchangeMaker final : public GroupExchangeMaker {
 public:
  NcclGroupExchangeMaker(const RankPlace& place, exchange::TcpListener* listener,
                         cuda::CudaRank* model, const NcclGroupsOptions& options,
                         std::unique_ptr<exchange::NcclApi> api,
                         std::unique_ptr<ExchangeBuffers> buffers)
      : place_(place),
        listener_(listener),
        model_(model),
        options_(options),
        api_(std::move(api)),
        buffers_(std::move(buffers)) {}

  absl::StatusOr<std::shared_ptr<GroupExchange>> Make(const EpochRequest& request) override {
    const exchange::NcclEpochOptions options{.control = {.listener = listener_,
                                                         .addresses = request.addresses,
                                                         .step_deadline = place_.step_deadline,
                                                         .join_deadline = options_.join_deadline},
                                             .watch = options_.watch};
    auto epoch = place_.rank == 0
                     ? NcclEpoch::Create(place_.shape, request.epoch, api_.get(), options)
                     : NcclEpoch::Open(request.bootstrap, place_.shape, request.epoch, place_.rank,
                                       api_.get(), options);
    if (!epoch.ok()) return epoch.status();
    exchange::PatternThresholds thresholds = options_.thresholds;
    thresholds.spans_nodes = SpansNodes(request.addresses);
    auto exchange = NcclExchange::Create({.epoch = epoch->get(),
                                          .buffers = buffers_.get(),
                                          .stream = &model_->stream(),
                                          .num_sms = model_->gpu().num_sms,
                                          .overlaps_kernels = model_->gpu().overlaps_kernels,
                                          .experts = model_->device_experts()},
                                         thresholds);
    if (!exchange.ok()) return exchange.status();
    return std::make_shared<NcclGroupExchange>(*std::move(epoch), *std::move(exchange));
  }

 private:
  const RankPlace place_;
  exchange::TcpListener* const listener_;
  cuda::CudaRank* const model_;
  const NcclGroupsOptions options_;
  const std::unique_ptr<exchange::NcclApi> api_;
  const std::unique_ptr<ExchangeBuffers> buffers_;
};

int SlotRows(const exchange::GroupShape& shape) { return std::min(kMaxSlotRows, shape.max_rows); }

absl::string_view HostOf(absl::string_view address) {
  return address.substr(0, address.rfind(':'));
}

}  // namespace

bool SpansNodes(const std::vector<std::string>& addresses) {
  return std::any_of(addresses.begin(), addresses.end(), [&](const std::string& address) {
    return HostOf(address) != HostOf(addresses.front());
  });
}

absl::Status NcclGroups::Load() {
  auto loaded = options_.load();
  if (!loaded.ok()) return loaded.status();
  make_api_ = *std::move(loaded);
  return absl::OkStatus();
}

uint64_t NcclGroups::DeviceBytes(const exchange::GroupShape& shape, int rank) const {
  return ExchangeBuffers::DeviceBytes(shape, rank, SlotRows(shape));
}

absl::StatusOr<std::unique_ptr<GroupExchangeMaker>> NcclGroups::MakeMaker(
    const RankPlace& place, exchange::TcpListener* listener, model::RankModel* model) {
  if (make_api_ == nullptr) return absl::FailedPreconditionError("NCCL was not loaded");
  auto* const rank = dynamic_cast<cuda::CudaRank*>(model);
  if (rank == nullptr) {
    return absl::InvalidArgumentError("the rank does not compute on a GPU, which NCCL needs");
  }
  auto buffers =
      ExchangeBuffers::Create(place.shape, place.rank, SlotRows(place.shape), rank->stream());
  if (!buffers.ok()) return buffers.status();
  return std::make_unique<NcclGroupExchangeMaker>(place, listener, rank, options_,
                                                  make_api_(rank->stream()), *std::move(buffers));
}

}  // namespace moe::worker
