// One kind of pattern alone, for tests that have to see each.
#ifndef MOE_TESTS_WORKER_EXCHANGE_NCCL_ONLY_PATTERN_H_
#define MOE_TESTS_WORKER_EXCHANGE_NCCL_ONLY_PATTERN_H_

#include <cstdint>
#include <limits>

#include "worker/exchange/nccl/step_pattern.h"

namespace moe::exchange {

// Slots wherever there are as many, or exact numbers wherever they can be.
inline PatternThresholds Only(bool exact) {
  PatternThresholds thresholds;
  thresholds.surplus_bytes_in_node = thresholds.surplus_bytes_over_network =
      exact ? std::numeric_limits<int64_t>::min() : std::numeric_limits<int64_t>::max();
  return thresholds;
}

}  // namespace moe::exchange

#endif  // MOE_TESTS_WORKER_EXCHANGE_NCCL_ONLY_PATTERN_H_
