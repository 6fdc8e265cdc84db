// Turns the SIGBUS of a weight file that was cut, or whose disk failed, into one clear line and an
// exit code.
//
// A mapped file that shrinks cannot be read any more: the kernel raises SIGBUS at the access, deep
// in some kernel, and the process would die without a word. While a MappingFaultReporter lives,
// such a fault writes "moe: cannot read FILE at byte N (tensor T): ..." to stderr and ends the
// process with kMappingFaultExitCode. A SIGBUS anywhere else goes to whoever handled it before.
//
// Tested by tests/worker/model/mapping_fault_test.cc.
#ifndef MOE_WORKER_MODEL_MAPPING_FAULT_H_
#define MOE_WORKER_MODEL_MAPPING_FAULT_H_

#include <csignal>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace moe::model {

// EX_IOERR of sysexits.h.
inline constexpr int kMappingFaultExitCode = 74;

// Installs the handler for the whole process and restores the previous one when destroyed. Create
// one, early in main(), before threads start.
class MappingFaultReporter {
 public:
  MappingFaultReporter();
  ~MappingFaultReporter();
  MappingFaultReporter(const MappingFaultReporter&) = delete;
  MappingFaultReporter& operator=(const MappingFaultReporter&) = delete;

 private:
  struct sigaction previous_;
};

// Names for the addresses [begin, begin + num_bytes), for as long as it lives. MappedFile makes
// one; it costs nothing without a reporter. Not copyable: the signal handler reads it in place.
class MappingFaultRange {
 public:
  struct Tensor {
    uint64_t end = 0;  // offset in the file behind the tensor's last byte
    std::string name;
  };
  // `tensors` ascend by end. Threads: may be called from any.
  MappingFaultRange(const void* begin, size_t num_bytes, std::string path,
                    std::vector<Tensor> tensors);
  ~MappingFaultRange();
  MappingFaultRange(const MappingFaultRange&) = delete;
  MappingFaultRange& operator=(const MappingFaultRange&) = delete;

  uintptr_t begin() const { return begin_; }
  size_t num_bytes() const { return num_bytes_; }
  const std::string& path() const { return path_; }
  const std::vector<Tensor>& tensors() const { return tensors_; }

 private:
  uintptr_t begin_;
  size_t num_bytes_;
  std::string path_;
  std::vector<Tensor> tensors_;
};

}  // namespace moe::model

#endif  // MOE_WORKER_MODEL_MAPPING_FAULT_H_
