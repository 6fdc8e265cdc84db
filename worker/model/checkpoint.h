// A checkpoint folder as Hugging Face publishes it, mapped read-only and used in place.
//
// Opening reads the JSON files and the safetensors headers, checks every tensor's name, dtype and
// shape against config.json, and maps the files. No weight is read then: all processes of a machine
// share one copy in the page cache, and each reads only the tensors it uses (SelectTensors, Load).
//
// bf16 tensors are used where they lie. Tensors in fp16 or fp32 (and bf16 ones at odd offsets, as
// old writers left them) come from a converted image: see convert.h.
//
// Tested by tests/worker/model/checkpoint_test.cc and load_test.cc.
#ifndef MOE_WORKER_MODEL_CHECKPOINT_H_
#define MOE_WORKER_MODEL_CHECKPOINT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "worker/model/config.h"
#include "worker/model/weights.h"

namespace moe::model {

class MappedFile;
struct ModelTensor;

// The part of a checkpoint that one rank uses.
struct TensorSet {
  struct Range {
    std::string tensor;  // name in the file; for fused experts one tensor appears in several ranges
    int file_idx = 0;    // of the checkpoint's mapped files
    uint64_t begin = 0;  // [begin, end) in that file
    uint64_t end = 0;
  };
  std::vector<Range> ranges;  // ascending by (file_idx, begin), disjoint
  uint64_t num_bytes = 0;     // their sum
};

struct LoadReport {
  uint64_t num_bytes = 0;  // read, equal to TensorSet::num_bytes
  double seconds = 0;
  // Bytes of this process's page tables that map the checkpoint, after loading. The kernel maps up
  // to 64 KiB around a touched page, so this can be slightly above num_bytes. 0 if unknown.
  uint64_t resident_bytes = 0;
  std::vector<std::string> warnings;  // tensors with NaN or infinite values, one sentence each
};

// Immutable after Open; every method may be called by several threads.
class Checkpoint {
 public:
  struct Options {
    // A safetensors image made by ConvertToBf16 from the same folder, such as "/proc/123/fd/7". Its
    // tensors replace the folder's. Empty: a checkpoint that needs conversion is converted for this
    // process alone, with a warning.
    std::string converted_weights_path;
  };

  // Called with (bytes done, bytes in total) after each part; may be empty.
  using Progress = std::function<void(uint64_t, uint64_t)>;
  // Gets what was loaded part by part, where it lies in the mapping: what stores it elsewhere too.
  // An error ends loading. May be empty.
  using Sink = std::function<absl::Status(absl::Span<const kernels::BFloat16>)>;

  // Errors name the file and the tensor or field:
  //   NotFound           no config.json or no safetensors file
  //   FailedPrecondition only pickle files; a converted image of another model
  //   InvalidArgument    a malformed file; a tensor that is missing, stored twice or of a wrong
  //   shape Unimplemented      an architecture, rope or data type that this engine does not have
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& dir,
                                                          const Options& options);
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& dir);
  ~Checkpoint();
  Checkpoint(const Checkpoint&) = delete;
  Checkpoint& operator=(const Checkpoint&) = delete;

  const ModelConfig& config() const { return config_; }
  // Valid while the checkpoint lives. Reading a weight that was not loaded works, but takes page
  // faults at that moment.
  const ModelWeights& weights() const { return weights_; }
  // Last component of the folder's path; for a Hugging Face cache snapshot, the repository's name.
  const std::string& name() const { return name_; }
  // Hex SHA-256 over config.json, the headers and sizes of the safetensors files, and a sample of
  // their data. Equal on all machines that hold the same files, converted or not.
  const std::string& digest() const { return digest_; }
  // What was odd but usable, one sentence each.
  const std::vector<std::string>& warnings() const { return warnings_; }
  // Bytes of all tensors that the model uses, as bf16.
  uint64_t num_weight_bytes() const { return num_weight_bytes_; }

  // The ranges of the given experts in every layer and, if `attention`, of everything that is not
  // an expert: attention, norms, embedding, lm_head and router. An expert may be named once.
  // InvalidArgument for an expert that the model lacks or that is named twice.
  absl::StatusOr<TensorSet> SelectTensors(absl::Span<const int> experts, bool attention) const;

  // Reads exactly the ranges of `set` (rounded to pages) into memory and looks for NaN and infinity
  // on the way. DataLoss if a file is shorter than when it was opened. A file that is cut while
  // this runs raises SIGBUS: see mapping_fault.h.
  absl::StatusOr<LoadReport> Load(const TensorSet& set, const Progress& progress = {},
                                  const Sink& sink = {}) const;

  // As in LoadReport, now.
  uint64_t ResidentBytes() const;

 private:
  Checkpoint();

  // A tensor, or one expert's part of a fused tensor.
  struct Part {
    std::string tensor;
    int file_idx = 0;
    uint64_t begin = 0;
    uint64_t end = 0;
    int expert = -1;  // -1: not of an expert
  };

  // Sets weights_ and parts_ from tensors whose file_idx is into files_.
  void Bind(const std::vector<ModelTensor>& tensors);

  ModelConfig config_;
  ModelWeights weights_;
  std::string name_;
  std::string digest_;
  std::vector<std::string> warnings_;
  uint64_t num_weight_bytes_ = 0;
  std::vector<std::unique_ptr<MappedFile>> files_;
  std::vector<Part> parts_;
};

}  // namespace moe::model

#endif  // MOE_WORKER_MODEL_CHECKPOINT_H_
