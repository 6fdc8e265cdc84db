// Memory of the emulated GPU and pinned memory of its host: where each lies, and who may touch it.
// Thread-safe.
#ifndef MOE_TESTS_KERNELS_EMULATOR_MEMORY_H_
#define MOE_TESTS_KERNELS_EMULATOR_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace moe::emulator {

enum class MemoryKind { kDevice, kPinned };

struct MemoryRange {
  uintptr_t begin = 0;
  uintptr_t end = 0;  // the first byte behind it
  MemoryKind kind = MemoryKind::kDevice;
};

// Filled with bytes of ones; its end, up to 16 bytes, touches a page that must not be used.
// nullptr: there is none.
void* AllocateMemory(MemoryKind kind, size_t num_bytes);
// False: no such allocation lives.
bool FreeMemory(void* memory);

// All that live, by their addresses.
std::vector<MemoryRange> LiveMemory();
// Whether `pointer` lies in an allocation, of either kind.
bool IsKnown(const void* pointer);

// While one lives, device memory may be touched: by kernels and copies. At other times it must not
// be, which is enforced while few allocations live (it takes two system calls for each).
class DeviceAccess {
 public:
  DeviceAccess();
  ~DeviceAccess();
  DeviceAccess(const DeviceAccess&) = delete;
  DeviceAccess& operator=(const DeviceAccess&) = delete;
};

}  // namespace moe::emulator

#endif  // MOE_TESTS_KERNELS_EMULATOR_MEMORY_H_
