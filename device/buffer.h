// Memory of the calling thread's GPU, and host memory that it can copy from and to while the CPU
// goes on. Movable owners; not thread-safe. Allocate at the start: both kinds wait for the device.
// Tested by tests/device/gpu_memory_test.cc.
#ifndef MOE_DEVICE_BUFFER_H_
#define MOE_DEVICE_BUFFER_H_

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "device/stream.h"

namespace moe::device {

namespace internal {
// nullptr for no bytes. ResourceExhausted says how much was asked for and how much is free.
absl::StatusOr<void*> AllocateDevice(size_t num_bytes);
absl::StatusOr<void*> AllocatePinned(size_t num_bytes);
void FreeDevice(void* memory);
void FreePinned(void* memory);
absl::Status Copy(void* to, const void* from, size_t num_bytes, const Stream& stream);
absl::Status Fill(void* to, int byte, size_t num_bytes, const Stream& stream);
}  // namespace internal

// `size` elements on the GPU, 256-byte aligned, not initialised.
template <typename T>
class DeviceBuffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  static absl::StatusOr<DeviceBuffer> Create(int64_t size) {
    absl::StatusOr<void*> memory = internal::AllocateDevice(size * sizeof(T));
    if (!memory.ok()) return memory.status();
    return DeviceBuffer(static_cast<T*>(*memory), size);
  }
  DeviceBuffer() = default;
  ~DeviceBuffer() { internal::FreeDevice(data_); }
  DeviceBuffer(DeviceBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }

  T* data() const { return data_; }  // a device address
  int64_t size() const { return size_; }

 private:
  DeviceBuffer(T* data, int64_t size) : data_(data), size_(size) {}

  T* data_ = nullptr;
  int64_t size_ = 0;
};

// `size` elements of pinned host memory, not initialised.
template <typename T>
class PinnedBuffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  static absl::StatusOr<PinnedBuffer> Create(int64_t size) {
    absl::StatusOr<void*> memory = internal::AllocatePinned(size * sizeof(T));
    if (!memory.ok()) return memory.status();
    return PinnedBuffer(static_cast<T*>(*memory), size);
  }
  PinnedBuffer() = default;
  ~PinnedBuffer() { internal::FreePinned(data_); }
  PinnedBuffer(PinnedBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }

  T* data() const { return data_; }
  int64_t size() const { return size_; }
  T& operator[](int64_t i) const { return data_[i]; }

 private:
  PinnedBuffer(T* data, int64_t size) : data_(data), size_(size) {}

  T* data_ = nullptr;
  int64_t size_ = 0;
};

// Enqueue a copy. The host side must stay as it is until the stream has got there; with memory that
// is not pinned the call itself waits. REQUIRES: the device side holds as many elements.
template <typename T>
absl::Status CopyToDevice(absl::Span<const T> from, T* to, const Stream& stream) {
  return internal::Copy(to, from.data(), from.size() * sizeof(T), stream);
}
template <typename T>
absl::Status CopyToHost(const T* from, absl::Span<T> to, const Stream& stream) {
  return internal::Copy(to.data(), from, to.size() * sizeof(T), stream);
}
// Enqueues filling every byte of `buffer`.
template <typename T>
absl::Status FillBytes(const DeviceBuffer<T>& buffer, int byte, const Stream& stream) {
  return internal::Fill(buffer.data(), byte, buffer.size() * sizeof(T), stream);
}

}  // namespace moe::device

#endif  // MOE_DEVICE_BUFFER_H_
