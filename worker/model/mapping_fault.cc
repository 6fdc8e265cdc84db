#include "worker/model/mapping_fault.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moe::model {
namespace {

// A signal handler has no other way to reach data than static storage. Ranges beyond the table's
// size are not named: their faults act as without a reporter.
constexpr size_t kMaxRanges = 4096;
std::array<std::atomic<const MappingFaultRange*>, kMaxRanges> fault_ranges;
struct sigaction previous_action;

// A line on the stack: nothing that allocates or locks may run in a signal handler.
class Line {
 public:
  void Append(std::string_view text) {
    for (const char c : text) {
      if (size_ + 1 < buffer_.size()) buffer_[size_++] = c;
    }
  }
  void Append(uint64_t number) {
    std::array<char, 20> digits;
    size_t first = digits.size();
    do {
      digits[--first] = static_cast<char>('0' + number % 10);
      number /= 10;
    } while (number != 0);
    Append(std::string_view(digits.data() + first, digits.size() - first));
  }
  void Write() {
    buffer_[size_++] = '\n';
    size_t done = 0;
    while (done < size_) {
      const ssize_t count = write(STDERR_FILENO, buffer_.data() + done, size_ - done);
      if (count <= 0) return;
      done += static_cast<size_t>(count);
    }
  }

 private:
  std::array<char, 2048> buffer_;
  size_t size_ = 0;
};

[[noreturn]] void Report(const MappingFaultRange& range, uint64_t offset) {
  Line line;
  line.Append("moe: cannot read ");
  line.Append(range.path());
  line.Append(" at byte ");
  line.Append(offset);
  const auto& tensors = range.tensors();
  const auto tensor = std::upper_bound(
      tensors.begin(), tensors.end(), offset,
      [](uint64_t value, const MappingFaultRange::Tensor& t) { return value < t.end; });
  if (tensor != tensors.end()) {
    line.Append(" (tensor ");
    line.Append(tensor->name);
    line.Append(")");
  }
  line.Append(": the file became shorter or its storage failed while in use");
  line.Write();
  _exit(kMappingFaultExitCode);
}

void OnSigbus(int signal, siginfo_t* info, void*) {
  // A code above 0 comes from the kernel with the address; others were sent by kill().
  const bool is_fault = info->si_code > 0;
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  for (size_t i = 0; is_fault && i < fault_ranges.size(); ++i) {
    const MappingFaultRange* range = fault_ranges[i].load(std::memory_order_acquire);
    if (range != nullptr && address - range->begin() < range->num_bytes()) {
      Report(*range, address - range->begin());
    }
  }
  // Not a weight file. The access runs again after the return and meets the previous action; a
  // signal that was sent must be sent again.
  sigaction(SIGBUS, &previous_action, nullptr);
  if (!is_fault) raise(signal);
}

}  // namespace

MappingFaultReporter::MappingFaultReporter() {
  // Known before the handler can run.
  sigaction(SIGBUS, nullptr, &previous_action);
  previous_ = previous_action;
  struct sigaction action{};
  action.sa_sigaction = OnSigbus;
  action.sa_flags = SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  sigaction(SIGBUS, &action, nullptr);
}

MappingFaultReporter::~MappingFaultReporter() { sigaction(SIGBUS, &previous_, nullptr); }

MappingFaultRange::MappingFaultRange(const void* begin, size_t num_bytes, std::string path,
                                     std::vector<Tensor> tensors)
    : begin_(reinterpret_cast<uintptr_t>(begin)),
      num_bytes_(num_bytes),
      path_(std::move(path)),
      tensors_(std::move(tensors)) {
  for (auto& slot : fault_ranges) {
    const MappingFaultRange* empty = nullptr;
    if (slot.compare_exchange_strong(empty, this, std::memory_order_release,
                                     std::memory_order_relaxed)) {
      return;
    }
  }
}

MappingFaultRange::~MappingFaultRange() {
  for (auto& slot : fault_ranges) {
    const MappingFaultRange* self = this;
    if (slot.compare_exchange_strong(self, nullptr, std::memory_order_release,
                                     std::memory_order_relaxed)) {
      return;
    }
  }
}

}  // namespace moe::model
