// Epochs of ranks whose rows lie in the memory of the host: of one machine, or over TCP.
//
// Tested by tests/worker/daemon/host_group_exchange_test.cc.
#ifndef MOE_WORKER_DAEMON_HOST_GROUP_EXCHANGE_H_
#define MOE_WORKER_DAEMON_HOST_GROUP_EXCHANGE_H_

#include <memory>
#include <utility>
#include <vector>

#include "worker/daemon/group_exchange.h"

namespace moe::worker {

class HostGroupExchange final : public GroupExchange {
 public:
  explicit HostGroupExchange(std::unique_ptr<exchange::EpochExchange> exchange)
      : exchange_(std::move(exchange)) {}

  std::string bootstrap() const override { return exchange_->bootstrap(); }
  absl::Status Connect() override { return exchange_->Connect(); }
  exchange::ControlChannel* control() override { return exchange_.get(); }
  model::RankExchange exchange() override { return {.host = exchange_.get()}; }
  void Abort(std::string_view reason) override { exchange_->Abort(reason); }
  int suspect() const override { return exchange_->suspect(); }
  exchange::ExchangeStats stats() const override { return exchange_->stats(); }

 private:
  const std::unique_ptr<exchange::EpochExchange> exchange_;
};

// `experts` are the rank's, not owned; null for a rank that computes on a GPU, in a group of its
// own. `cores`: those that the ranks of this machine share.
std::unique_ptr<GroupExchangeMaker> MakeSharedMemoryGroups(const RankPlace& place,
                                                           exchange::LocalExperts* experts,
                                                           const std::vector<int>& cores);

// `listener` is not owned.
std::unique_ptr<GroupExchangeMaker> MakeTcpGroups(const RankPlace& place,
                                                  exchange::LocalExperts* experts,
                                                  exchange::TcpListener* listener);

}  // namespace moe::worker

#endif  // MOE_WORKER_DAEMON_HOST_GROUP_EXCHANGE_H_
