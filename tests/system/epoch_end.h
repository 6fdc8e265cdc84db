// A rank's end of an epoch, whatever moves its rows.
#ifndef MOE_TESTS_SYSTEM_EPOCH_END_H_
#define MOE_TESTS_SYSTEM_EPOCH_END_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/exchange/exchange.h"
#include "worker/model/backend.h"

namespace moe::testing {

class EpochEnd {
 public:
  virtual ~EpochEnd() = default;
  virtual std::string bootstrap() const = 0;
  virtual absl::Status Connect() = 0;
  virtual void Abort(std::string_view reason) = 0;
  virtual exchange::ControlChannel* control() = 0;
  // After Connect.
  virtual model::RankExchange exchange() = 0;
};

struct EpochRequest {
  const exchange::GroupShape* shape = nullptr;
  uint64_t epoch = 0;
  int rank = 0;
  std::string bootstrap;              // of rank 0's end; empty for rank 0
  model::RankModel* model = nullptr;  // outlives the end
};
using MakeEpochEnd = std::function<absl::StatusOr<std::unique_ptr<EpochEnd>>(const EpochRequest&)>;

}  // namespace moe::testing

#endif  // MOE_TESTS_SYSTEM_EPOCH_END_H_
