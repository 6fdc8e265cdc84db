#include "tests/system/fake_nccl_group.h"

#include <string>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/cuda/rank.h"
#include "worker/exchange/nccl/nccl_epoch.h"
#include "worker/exchange/nccl/nccl_exchange.h"

namespace moe::testing {
namespace {

class NcclEnd : public EpochEnd {
 public:
  NcclEnd(std::unique_ptr<exchange::NcclEpoch> epoch,
          std::unique_ptr<exchange::NcclExchange> exchange)
      : epoch_(std::move(epoch)), exchange_(std::move(exchange)) {}

  std::string bootstrap() const override { return epoch_->bootstrap(); }
  absl::Status Connect() override {
    absl::Status status = epoch_->Connect();
    return status.ok() ? exchange_->Connect() : status;
  }
  void Abort(std::string_view reason) override { epoch_->Abort(reason); }
  exchange::ControlChannel* control() override { return epoch_.get(); }
  model::RankExchange exchange() override { return {.device = exchange_.get()}; }

 private:
  const std::unique_ptr<exchange::NcclEpoch> epoch_;
  const std::unique_ptr<exchange::NcclExchange> exchange_;
};

}  // namespace

FakeNcclGroup::FakeNcclGroup(int num_ranks, const exchange::PatternThresholds& thresholds)
    : thresholds_(thresholds) {
  for (int rank = 0; rank < num_ranks; ++rank) {
    auto listener = exchange::TcpListener::Start("127.0.0.1:0");
    EXPECT_TRUE(listener.ok()) << listener.status();
    ranks_.push_back({.listener = *std::move(listener),
                      .api = std::make_unique<exchange::FakeNcclApi>(&nccl_, rank),
                      .buffers = nullptr});
  }
}

FakeNcclGroup::~FakeNcclGroup() {
  EXPECT_EQ(nccl_.num_communicators(), 0);
  EXPECT_EQ(nccl_.num_registrations(), 0);
  EXPECT_THAT(nccl_.violations(), ::testing::IsEmpty());
}

absl::StatusOr<std::unique_ptr<EpochEnd>> FakeNcclGroup::MakeEnd(const EpochRequest& request) {
  constexpr absl::Duration kDeadline = absl::Seconds(120);  // none is expected to pass
  Rank& rank = ranks_[static_cast<size_t>(request.rank)];
  auto* const model = static_cast<cuda::CudaRank*>(request.model);
  if (rank.model != request.model) {
    rank.model = request.model;
    auto buffers = exchange::ExchangeBuffers::Create(*request.shape, request.rank,
                                                     request.shape->max_rows, model->stream());
    if (!buffers.ok()) return buffers.status();
    rank.buffers = *std::move(buffers);
  }
  exchange::NcclEpochOptions options{.control = {.listener = rank.listener.get(),
                                                 .step_deadline = kDeadline,
                                                 .join_deadline = kDeadline},
                                     .watch = {.interval = absl::Milliseconds(5)}};
  for (const Rank& other : ranks_) options.control.addresses.push_back(other.listener->address());
  auto epoch =
      request.rank == 0
          ? exchange::NcclEpoch::Create(*request.shape, request.epoch, rank.api.get(), options)
          : exchange::NcclEpoch::Open(request.bootstrap, *request.shape, request.epoch,
                                      request.rank, rank.api.get(), options);
  if (!epoch.ok()) return epoch.status();
  auto exchange = exchange::NcclExchange::Create({.epoch = epoch->get(),
                                                  .buffers = rank.buffers.get(),
                                                  .stream = &model->stream(),
                                                  .experts = model->device_experts()},
                                                 thresholds_);
  if (!exchange.ok()) return exchange.status();
  return std::make_unique<NcclEnd>(*std::move(epoch), *std::move(exchange));
}

}  // namespace moe::testing
