// Finds NaN and infinity in bf16 data, at about the speed of memory.
//
// Tested by tests/worker/model/load_test.cc.
#ifndef MOE_WORKER_MODEL_FINITE_H_
#define MOE_WORKER_MODEL_FINITE_H_

#include <cstddef>
#include <cstdint>

#include "kernels/bf16.h"

namespace moe::model {

struct NonFiniteCount {
  uint64_t num_nan = 0;
  uint64_t num_infinite = 0;

  NonFiniteCount& operator+=(const NonFiniteCount& other) {
    num_nan += other.num_nan;
    num_infinite += other.num_infinite;
    return *this;
  }
};

NonFiniteCount CountNonFinite(const kernels::BFloat16* values, size_t count);

}  // namespace moe::model

#endif  // MOE_WORKER_MODEL_FINITE_H_
