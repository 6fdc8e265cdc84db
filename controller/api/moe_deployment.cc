// See moe_deployment.h.
#include "controller/api/moe_deployment.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"

namespace moe::api {

int IntOrPercent::Resolve(int total, bool round_up) const {
  if (!percent) {
    return std::max(value, 0);
  }
  const int64_t hundredths = std::max<int64_t>(0, int64_t{value} * std::max(total, 0));
  const int64_t resolved = round_up ? (hundredths + 99) / 100 : hundredths / 100;
  return static_cast<int>(std::min<int64_t>(resolved, std::numeric_limits<int>::max()));
}

std::string StrategyString(int expert, int tensor, int pipeline, int replicas) {
  return absl::StrCat("EP", expert, "_TP", tensor, "_PP", pipeline, "_DP", replicas);
}

}  // namespace moe::api
