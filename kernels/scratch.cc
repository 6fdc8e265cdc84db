// See scratch.h. Tested by tests/kernels/thread_pool_test.cc.
#include "kernels/scratch.h"

#include <cstddef>
#include <memory>

namespace moe::kernels {

void* Scratch::Get(size_t num_bytes) {
  const size_t wanted = num_bytes + kAlignment;
  if (wanted > num_bytes_) {
    memory_.reset();  // before the new one: the two need not exist together
    memory_ = std::make_unique_for_overwrite<std::byte[]>(wanted);
    num_bytes_ = wanted;
  }
  void* start = memory_.get();
  size_t space = num_bytes_;
  return std::align(kAlignment, num_bytes, start, space);
}

}  // namespace moe::kernels
