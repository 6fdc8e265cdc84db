#include "tests/system/fake_nccl_group.h"

#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker/exchange/nccl/emulated_stream.h"

namespace moe::testing {
namespace {

constexpr absl::Duration kDeadline = absl::Seconds(120);  // none is expected to pass

}  // namespace

worker::NcclGroupsOptions FakeNcclOptions(exchange::FakeNccl* world, int rank) {
  return {.load = [world, rank]() -> absl::StatusOr<worker::MakeNcclApi> {
            return [world, rank](const device::Stream& stream) {
              auto api = std::make_unique<exchange::FakeNcclApi>(world, rank);
              api->UseStream(exchange::EmulatedStreamOf(stream));
              return api;
            };
          },
          .join_deadline = kDeadline,
          .watch = {.interval = absl::Milliseconds(5)}};
}

FakeNcclGroup::FakeNcclGroup(int num_ranks, const exchange::PatternThresholds& thresholds) {
  for (int rank = 0; rank < num_ranks; ++rank) {
    auto listener = exchange::TcpListener::Start("127.0.0.1:0");
    EXPECT_TRUE(listener.ok()) << listener.status();
    worker::NcclGroupsOptions options = FakeNcclOptions(&nccl_, rank);
    options.thresholds = thresholds;
    auto groups = std::make_unique<worker::NcclGroups>(options);
    EXPECT_TRUE(groups->Load().ok());
    ranks_.push_back(
        {.listener = *std::move(listener), .groups = std::move(groups), .maker = nullptr});
  }
}

FakeNcclGroup::~FakeNcclGroup() {
  EXPECT_EQ(nccl_.num_communicators(), 0);
  EXPECT_EQ(nccl_.num_registrations(), 0);
  EXPECT_THAT(nccl_.violations(), ::testing::IsEmpty());
}

absl::Status FakeNcclGroup::Take(const exchange::GroupShape& shape, int rank,
                                 model::RankModel* model) {
  Rank& self = ranks_[static_cast<size_t>(rank)];
  auto maker = self.groups->MakeMaker({.shape = shape, .rank = rank, .step_deadline = kDeadline},
                                      self.listener.get(), model);
  if (!maker.ok()) return maker.status();
  self.maker = *std::move(maker);
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<worker::GroupExchange>> FakeNcclGroup::Make(
    int rank, uint64_t epoch, const std::string& bootstrap) {
  worker::EpochRequest request{.epoch = epoch, .bootstrap = bootstrap, .addresses = {}};
  for (const Rank& other : ranks_) request.addresses.push_back(other.listener->address());
  return ranks_[static_cast<size_t>(rank)].maker->Make(request);
}

}  // namespace moe::testing
