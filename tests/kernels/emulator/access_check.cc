#include "tests/kernels/emulator/access_check.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <unordered_map>
#include <vector>

#include "tests/kernels/emulator/memory.h"

// The program and its constants, and what kernels declare as __shared__, which is static here.
extern "C" const char __executable_start;  // NOLINT: the linker's names
extern "C" const char _end;                // NOLINT

namespace moe::emulator {
namespace {

constexpr int kWarpSize = 32;
constexpr uintptr_t kPage = 4096;
constexpr uintptr_t kCellBytes = 2;  // no kernel writes single bytes
constexpr size_t kMaxPages = 2048;   // of cells that are kept from launch to launch: 200 MB

// What this launch has done with two bytes. Of what was read, as much as a later write must know:
// who of one block has read since its last barrier, and whether other blocks have.
struct Cell {
  uint32_t launch = 0;      // other numbers: nothing yet
  uint32_t written_in = 0;  // the last launch before this one that has written; 0: none
  bool is_awaited = false;
  bool is_written = false;
  bool is_read = false;
  bool is_read_by_blocks = false;
  bool is_read_by_lanes = false;  // several of the warp of `reader`, since its last __syncwarp
  int16_t writer = 0;
  int16_t reader = 0;
  uint32_t read_by_warps = 0;  // bits
  uint32_t write_block = 0;
  uint32_t read_block = 0;
  uint32_t write_barriers = 0;
  uint32_t read_barriers = 0;
  uint32_t write_syncs = 0;
  uint32_t read_syncs = 0;
};
using CellPage = std::array<Cell, kPage / kCellBytes>;

enum class Access { kRead, kWrite };

// What is known of a launch; launches of a process take turns.
struct Launch : CheckedLaunch {
  AddressRange image;
  const MemoryRange* memory = nullptr;  // [num_ranges], in Cells::memory
  size_t num_ranges = 0;
  uint32_t number = 0;
  uint32_t number_before = 0;  // of the launch before it in the stream; 0: none
  uintptr_t last_page = 0;
  CellPage* last_cells = nullptr;  // nullptr: no last page
};
constinit Launch launch;
struct Cells {
  std::vector<MemoryRange> memory;  // when the launch began
  std::unordered_map<uintptr_t, std::unique_ptr<CellPage>> pages;
  std::unordered_map<const void*, uint32_t> last_launches;  // by stream
};
Cells& The() {
  static auto* cells = new Cells;
  return *cells;
}
constinit thread_local const ThreadPlace* checked = nullptr;

int WarpOf(int thread) { return thread / kWarpSize; }

const MemoryRange* FindMemory(uintptr_t address) {
  const MemoryRange* const after =
      std::upper_bound(launch.memory, launch.memory + launch.num_ranges, address,
                       [](uintptr_t at, const MemoryRange& range) { return at < range.begin; });
  if (after == launch.memory) return nullptr;
  const MemoryRange& range = *(after - 1);
  return address < range.end ? &range : nullptr;
}

// Begins the words of a failure.
void SayWho() {
  std::fprintf(stderr, "emulator: kernel '%s': thread %d of block %ld", launch.kernel,
               checked->thread, static_cast<long>(checked->block));
}

[[noreturn]] void FailAt(const char* what) {
  SayWho();
  std::fprintf(stderr, ": %s\n", what);
  std::abort();
}

[[noreturn]] void Fail(const char* verb, uintptr_t address, size_t num_bytes, const char* what) {
  SayWho();
  std::fprintf(stderr, " %s %zu bytes at ", verb, num_bytes);
  if (launch.shared.Has(address)) {
    std::fprintf(stderr, "dynamic shared memory + %zu", address - launch.shared.begin);
  } else if (launch.image.Has(address)) {
    std::fprintf(stderr, "declared shared memory");
  } else if (const MemoryRange* range = FindMemory(address); range != nullptr) {
    std::fprintf(stderr, "%s memory + %zu of %zu",
                 range->kind == MemoryKind::kDevice ? "device" : "pinned", address - range->begin,
                 range->end - range->begin);
  } else {
    std::fprintf(stderr, "%#zx", address);
  }
  std::fprintf(stderr, ": %s\n", what);
  std::abort();
}

[[noreturn]] void FailRace(Access access, uintptr_t address, size_t num_bytes, const char* verb,
                           int thread, uint32_t block) {
  std::array<char, 160> words;
  std::snprintf(words.data(), words.size(),
                "thread %d of block %u has %s it, and no barrier is between", thread, block, verb);
  Fail(access == Access::kRead ? "reads" : "writes", address, num_bytes, words.data());
}

CellPage& PageOf(uintptr_t address) {
  const uintptr_t page = address / kPage;
  if (page != launch.last_page || launch.last_cells == nullptr) {
    std::unique_ptr<CellPage>& cells = The().pages[page];
    if (cells == nullptr) cells = std::make_unique<CellPage>();
    launch.last_page = page;
    launch.last_cells = cells.get();
  }
  return *launch.last_cells;
}

// The cell at `address`, without what belongs to an earlier launch or, in shared memory, to another
// block.
Cell& CellAt(uintptr_t address, bool is_shared) {
  Cell& cell = PageOf(address)[address % kPage / kCellBytes];
  const auto block = static_cast<uint32_t>(checked->block);
  const bool is_old = cell.launch != launch.number ||
                      (is_shared && ((cell.is_written && cell.write_block != block) ||
                                     (cell.is_read && cell.read_block != block)));
  if (is_old) {
    const uint32_t written_in =
        cell.is_written && cell.launch != launch.number ? cell.launch : cell.written_in;
    cell = Cell();
    cell.launch = launch.number;
    cell.written_in = written_in;
  }
  return cell;
}

// Whether what `thread` of `block` did, so many barriers and __syncwarp ago, comes before
// `checked`.
bool IsOrdered(int thread, uint32_t block, uint32_t barriers, uint32_t syncs) {
  if (block != static_cast<uint32_t>(checked->block)) return false;
  if (thread == checked->thread) return true;
  if (barriers != static_cast<uint32_t>(checked->num_barriers)) return true;
  return WarpOf(thread) == WarpOf(checked->thread) &&
         syncs != static_cast<uint32_t>(checked->num_warp_syncs);
}

bool IsReadOrdered(const Cell& cell) {
  if (cell.is_read_by_blocks || cell.read_block != static_cast<uint32_t>(checked->block)) {
    return false;
  }
  if (cell.read_barriers != static_cast<uint32_t>(checked->num_barriers)) return true;
  if ((cell.read_by_warps & ~(1u << WarpOf(checked->thread))) != 0) return false;
  if (cell.read_syncs != static_cast<uint32_t>(checked->num_warp_syncs)) return true;
  return !cell.is_read_by_lanes && cell.reader == checked->thread;
}

void NoteRead(Cell& cell) {
  const auto block = static_cast<uint32_t>(checked->block);
  const auto barriers = static_cast<uint32_t>(checked->num_barriers);
  const auto syncs = static_cast<uint32_t>(checked->num_warp_syncs);
  const uint32_t warp = 1u << WarpOf(checked->thread);
  if (cell.is_read && cell.read_block != block) {
    cell.is_read_by_blocks = true;
    return;
  }
  if (!cell.is_read || cell.read_barriers != barriers) {
    cell.is_read = true;
    cell.read_block = block;
    cell.read_barriers = barriers;
    cell.read_by_warps = 0;
    cell.read_syncs = syncs;
    cell.reader = static_cast<int16_t>(checked->thread);
    cell.is_read_by_lanes = false;
  }
  cell.read_by_warps |= warp;
  if (WarpOf(cell.reader) != WarpOf(checked->thread)) return;
  if (cell.read_syncs != syncs) {
    cell.read_syncs = syncs;
    cell.reader = static_cast<int16_t>(checked->thread);
    cell.is_read_by_lanes = false;
  } else if (cell.reader != checked->thread) {
    cell.is_read_by_lanes = true;
  }
}

void NoteWrite(Cell& cell) {
  cell.is_read = false;
  cell.is_read_by_blocks = false;
  cell.is_written = true;
  cell.writer = static_cast<int16_t>(checked->thread);
  cell.write_block = static_cast<uint32_t>(checked->block);
  cell.write_barriers = static_cast<uint32_t>(checked->num_barriers);
  cell.write_syncs = static_cast<uint32_t>(checked->num_warp_syncs);
}

// Fails, or notes the access. `is_awaited`: what the bytes are from here on.
void CheckCells(Access access, uintptr_t address, size_t num_bytes, bool is_awaited) {
  const bool is_shared = launch.shared.Has(address) || launch.image.Has(address);
  const bool is_early = launch.overlaps_kernels && !checked->has_waited && !is_shared;
  if (is_early && access == Access::kWrite) {
    Fail("writes", address, num_bytes, "it has not waited for the kernels before it");
  }
  const uintptr_t end = address + num_bytes;
  for (uintptr_t at = address / kCellBytes * kCellBytes; at < end; at += kCellBytes) {
    Cell& cell = CellAt(at, is_shared);
    if (cell.is_awaited) {
      Fail(access == Access::kRead ? "reads" : "writes", address, num_bytes,
           "an asynchronous copy to it is under way");
    }
    if (cell.is_written &&
        !IsOrdered(cell.writer, cell.write_block, cell.write_barriers, cell.write_syncs)) {
      FailRace(access, address, num_bytes, "written", cell.writer, cell.write_block);
    }
    if (is_early && launch.number_before != 0 && cell.written_in == launch.number_before) {
      Fail("reads", address, num_bytes,
           "the kernel before this one writes it, and has not been waited for");
    }
    if (access == Access::kRead) {
      NoteRead(cell);
      continue;
    }
    if (cell.is_read && !IsReadOrdered(cell)) {
      FailRace(access, address, num_bytes, "read", cell.reader, cell.read_block);
    }
    NoteWrite(cell);
    cell.is_awaited = is_awaited;
  }
}

void CheckPlace(const char* verb, uintptr_t address, size_t num_bytes) {
  const uintptr_t last = address + num_bytes - 1;
  for (const AddressRange& range : {launch.shared, launch.image}) {
    if (range.Has(address) && range.Has(last)) return;
  }
  const MemoryRange* memory = FindMemory(address);
  if (memory == nullptr || last >= memory->end) {
    Fail(verb, address, num_bytes, "this is not memory of the GPU");
  }
}

// `alignment`: what the address has to be a multiple of.
void OnAccess(Access access, const void* pointer, size_t num_bytes, size_t alignment) {
  if (checked == nullptr || num_bytes == 0) return;
  const auto address = std::bit_cast<uintptr_t>(pointer);
  if (checked->stack.Has(address) || launch.lanes.Has(address)) return;
  const char* const verb = access == Access::kRead ? "reads" : "writes";
  CheckPlace(verb, address, num_bytes);
  if (address % alignment != 0) Fail(verb, address, num_bytes, "the address is not aligned");
  CheckCells(access, address, num_bytes, /*is_awaited=*/false);
}

}  // namespace

void BeginChecking(const CheckedLaunch& checked_launch) {
  Cells& cells = The();
  if (cells.pages.size() > kMaxPages) {
    cells.pages.clear();
    launch.last_cells = nullptr;
  }
  cells.memory = LiveMemory();
  static_cast<CheckedLaunch&>(launch) = checked_launch;
  launch.image = {std::bit_cast<uintptr_t>(&__executable_start), std::bit_cast<uintptr_t>(&_end)};
  launch.memory = cells.memory.data();
  launch.num_ranges = cells.memory.size();
  uint32_t& last = cells.last_launches[launch.stream];
  launch.number_before = last;
  last = ++launch.number;
}

void EndChecking() { launch.num_ranges = 0; }

void ForgetLaunches(const void* stream) { The().last_launches.erase(stream); }

const ThreadPlace* SetChecked(const ThreadPlace* thread) {
  const ThreadPlace* const before = checked;
  checked = thread;
  return before;
}

void CheckEnd() {
  if (checked == nullptr || !launch.overlaps_kernels || checked->has_waited) return;
  FailAt("it ends without having waited for the kernels before it");
}

void CheckCopyStarts(const void* to, const void* from, int num_bytes, int valid_bytes) {
  if (checked == nullptr) return;
  const auto target = std::bit_cast<uintptr_t>(to);
  const auto source = std::bit_cast<uintptr_t>(from);
  if (target % num_bytes != 0 || source % num_bytes != 0) {
    Fail("copies", target, num_bytes, "an address is not aligned");
  }
  if (!launch.shared.Has(target) || !launch.shared.Has(target + num_bytes - 1)) {
    Fail("copies", target, num_bytes, "the target of an asynchronous copy is not shared memory");
  }
  if (valid_bytes > 0) {
    CheckPlace("copies", source, valid_bytes);
    if (FindMemory(source) == nullptr) {
      Fail("copies", source, num_bytes, "the source of an asynchronous copy is not device memory");
    }
    CheckCells(Access::kRead, source, valid_bytes, /*is_awaited=*/false);
  }
  CheckCells(Access::kWrite, target, num_bytes, /*is_awaited=*/true);
}

void CheckCopyEnds(const void* to, int num_bytes) {
  if (checked == nullptr) return;
  const auto begin = std::bit_cast<uintptr_t>(to);
  for (uintptr_t at = begin; at < begin + num_bytes; at += kCellBytes) {
    Cell& cell = CellAt(at, /*is_shared=*/true);
    cell.is_awaited = false;
    NoteWrite(cell);
  }
}

}  // namespace moe::emulator

// What the compiler calls. The names are its own.
// NOLINTBEGIN(readability-identifier-naming,bugprone-*)
using moe::emulator::Access;
using moe::emulator::OnAccess;

extern "C" {

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}

#define MOE_ACCESS(size)                                                               \
  void __tsan_read##size(void* at) { OnAccess(Access::kRead, at, size, size); }        \
  void __tsan_write##size(void* at) { OnAccess(Access::kWrite, at, size, size); }      \
  void __tsan_unaligned_read##size(void* at) { OnAccess(Access::kRead, at, size, 1); } \
  void __tsan_unaligned_write##size(void* at) { OnAccess(Access::kWrite, at, size, 1); }
MOE_ACCESS(1)
MOE_ACCESS(2)
MOE_ACCESS(4)
MOE_ACCESS(8)
MOE_ACCESS(16)
#undef MOE_ACCESS

void __tsan_read_range(void* at, size_t num_bytes) { OnAccess(Access::kRead, at, num_bytes, 1); }
void __tsan_write_range(void* at, size_t num_bytes) { OnAccess(Access::kWrite, at, num_bytes, 1); }

}  // extern "C"
// NOLINTEND(readability-identifier-naming,bugprone-*)
