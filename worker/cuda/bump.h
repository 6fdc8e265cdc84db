// One range of device memory, handed out part by part. The same code lays parts out twice: without
// memory, to learn how many bytes it takes, and then in an allocation of that size.
#ifndef MOE_WORKER_CUDA_BUMP_H_
#define MOE_WORKER_CUDA_BUMP_H_

#include <cstddef>
#include <cstdint>

namespace moe::cuda {

class Bump {
 public:
  // What cudaMalloc promises, and more than any kernel asks for.
  static constexpr uint64_t kAlignment = 256;

  // Counts only: what Take returns must not be used.
  Bump() = default;
  // From `base`, which the caller knows to be large enough. Not owned.
  explicit Bump(std::byte* base) : base_(base) {}

  // `size` elements of T.
  template <typename T>
  T* Take(int64_t size) {
    const uint64_t at = num_bytes_;
    const uint64_t wanted = static_cast<uint64_t>(size) * sizeof(T);
    num_bytes_ += (wanted + kAlignment - 1) / kAlignment * kAlignment;
    return base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + at);
  }

  uint64_t num_bytes() const { return num_bytes_; }

 private:
  std::byte* base_ = nullptr;
  uint64_t num_bytes_ = 0;
};

}  // namespace moe::cuda

#endif  // MOE_WORKER_CUDA_BUMP_H_
