#include "tests/kernels/emulator/memory.h"

#include <sys/mman.h>

#include <bit>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>
#include <mutex>

namespace moe::emulator {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kAlignment = 16;   // what the kernels ask for; more would hide reads past the end
constexpr size_t kMaxGuarded = 32;  // allocations

struct Mapping {
  unsigned char* start = nullptr;  // of its pages
  size_t usable_bytes = 0;         // without the page at its end
  MemoryRange range;
};

struct Memory {
  std::mutex mutex;
  std::map<uintptr_t, Mapping> mappings;  // by the addresses that were given out
  int num_accesses = 0;                   // under way
  bool is_open = false;                   // whether all device memory may be touched
};
Memory& The() {
  static auto* memory = new Memory;
  return *memory;
}
using Lock = std::lock_guard<std::mutex>;

void Protect(const Mapping& mapping, int protection) {
  if (mprotect(mapping.start, mapping.usable_bytes, protection) != 0) std::abort();
}

// REQUIRES: the mutex is held.
void SetOpen(Memory& memory, bool open) {
  if (!open && memory.mappings.size() > kMaxGuarded) open = true;
  if (memory.is_open == open) return;
  memory.is_open = open;
  for (const auto& [address, mapping] : memory.mappings) {
    if (mapping.range.kind == MemoryKind::kDevice) {
      Protect(mapping, open ? PROT_READ | PROT_WRITE : PROT_NONE);
    }
  }
}

}  // namespace

void* AllocateMemory(MemoryKind kind, size_t num_bytes) {
  const size_t aligned = (num_bytes + kAlignment - 1) / kAlignment * kAlignment;
  const size_t usable = (aligned + kPage - 1) / kPage * kPage;
  void* start =
      mmap(nullptr, usable + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED) return nullptr;
  auto* const bytes = static_cast<unsigned char*>(start);
  std::memset(bytes, 0xff, usable);
  if (mprotect(bytes + usable, kPage, PROT_NONE) != 0) std::abort();
  unsigned char* const memory = bytes + usable - aligned;
  const auto begin = std::bit_cast<uintptr_t>(memory);
  Memory& all = The();
  const Lock lock(all.mutex);
  const Mapping mapping = {
      .start = bytes, .usable_bytes = usable, .range = {begin, begin + aligned, kind}};
  all.mappings[begin] = mapping;
  if (all.mappings.size() > kMaxGuarded) SetOpen(all, true);
  if (!all.is_open && kind == MemoryKind::kDevice) Protect(mapping, PROT_NONE);
  return memory;
}

bool FreeMemory(void* memory) {
  Memory& all = The();
  const Lock lock(all.mutex);
  const auto it = all.mappings.find(std::bit_cast<uintptr_t>(memory));
  if (it == all.mappings.end()) return false;
  munmap(it->second.start, it->second.usable_bytes + kPage);
  all.mappings.erase(it);
  return true;
}

std::vector<MemoryRange> LiveMemory() {
  Memory& all = The();
  const Lock lock(all.mutex);
  std::vector<MemoryRange> ranges;
  ranges.reserve(all.mappings.size());
  for (const auto& [address, mapping] : all.mappings) ranges.push_back(mapping.range);
  return ranges;
}

bool IsKnown(const void* pointer) {
  const auto address = std::bit_cast<uintptr_t>(pointer);
  Memory& all = The();
  const Lock lock(all.mutex);
  const auto after = all.mappings.upper_bound(address);
  return after != all.mappings.begin() && address < std::prev(after)->second.range.end;
}

DeviceAccess::DeviceAccess() {
  Memory& all = The();
  const Lock lock(all.mutex);
  if (++all.num_accesses == 1) SetOpen(all, true);
}

DeviceAccess::~DeviceAccess() {
  Memory& all = The();
  const Lock lock(all.mutex);
  if (--all.num_accesses == 0) SetOpen(all, false);
}

}  // namespace moe::emulator
