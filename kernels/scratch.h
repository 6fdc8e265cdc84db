// Memory that an operation needs while it runs.
#ifndef MOE_KERNELS_SCRATCH_H_
#define MOE_KERNELS_SCRATCH_H_

#include <cstddef>
#include <memory>

namespace moe::kernels {

// Grows to the largest request and is then reused. Not thread-safe.
class Scratch {
 public:
  Scratch() = default;
  Scratch(Scratch&&) = default;
  Scratch& operator=(Scratch&&) = default;

  // At least `num_bytes`, aligned to a cache line, with unspecified contents. Valid until the next
  // call.
  void* Get(size_t num_bytes);
  template <typename T>
  T* Get(size_t count) {
    return static_cast<T*>(Get(count * sizeof(T)));
  }

  static constexpr size_t kAlignment = 64;

 private:
  std::unique_ptr<std::byte[]> memory_;
  size_t num_bytes_ = 0;
};

}  // namespace moe::kernels

#endif  // MOE_KERNELS_SCRATCH_H_
