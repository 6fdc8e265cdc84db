#include "worker/daemon/host_group_exchange.h"

#include "worker/exchange/shared_memory.h"
#include "worker/exchange/tcp.h"

namespace moe::worker {
namespace {

// Ranks of one machine share its cores, so only a rank that is alone may spin in the exchange.
constexpr absl::Duration kLoneRankSpin = absl::Microseconds(50);

// Group: SharedMemoryGroup or TcpGroup, whose Create and Open are alike.
template <typename Group, typename Options>
absl::StatusOr<std::shared_ptr<GroupExchange>> MakeEpoch(const RankPlace& place,
                                                         exchange::LocalExperts* experts,
                                                         const EpochRequest& request,
                                                         const Options& options) {
  auto made = place.rank == 0 ? Group::Create(place.shape, request.epoch, experts, options)
                              : Group::Open(request.bootstrap, place.shape, request.epoch,
                                            place.rank, experts, options);
  if (!made.ok()) return made.status();
  return std::make_shared<HostGroupExchange>(*std::move(made));
}

class SharedMemoryGroups final : public GroupExchangeMaker {
 public:
  SharedMemoryGroups(const RankPlace& place, exchange::LocalExperts* experts,
                     const std::vector<int>& cores)
      : place_(place), experts_(experts) {
    options_.step_deadline = place.step_deadline;
    if (place.shape.num_ranks == 1) options_.spin = kLoneRankSpin;
    if (place.shape.num_ranks > static_cast<int>(cores.size())) options_.cores = cores;
  }

  absl::StatusOr<std::shared_ptr<GroupExchange>> Make(const EpochRequest& request) override {
    return MakeEpoch<exchange::SharedMemoryGroup>(place_, experts_, request, options_);
  }

 private:
  const RankPlace place_;
  exchange::LocalExperts* const experts_;
  exchange::SharedMemoryOptions options_;
};

class TcpGroups final : public GroupExchangeMaker {
 public:
  TcpGroups(const RankPlace& place, exchange::LocalExperts* experts,
            exchange::TcpListener* listener)
      : place_(place), experts_(experts), listener_(listener) {}

  absl::StatusOr<std::shared_ptr<GroupExchange>> Make(const EpochRequest& request) override {
    const exchange::TcpOptions options{.listener = listener_,
                                       .addresses = request.addresses,
                                       .step_deadline = place_.step_deadline};
    return MakeEpoch<exchange::TcpGroup>(place_, experts_, request, options);
  }

 private:
  const RankPlace place_;
  exchange::LocalExperts* const experts_;
  exchange::TcpListener* const listener_;
};

}  // namespace

std::unique_ptr<GroupExchangeMaker> MakeSharedMemoryGroups(const RankPlace& place,
                                                           exchange::LocalExperts* experts,
                                                           const std::vector<int>& cores) {
  return std::make_unique<SharedMemoryGroups>(place, experts, cores);
}

std::unique_ptr<GroupExchangeMaker> MakeTcpGroups(const RankPlace& place,
                                                  exchange::LocalExperts* experts,
                                                  exchange::TcpListener* listener) {
  return std::make_unique<TcpGroups>(place, experts, listener);
}

}  // namespace moe::worker
