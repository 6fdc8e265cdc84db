// One-time conversion of fp16 and fp32 tensors to bf16, in memory that local ranks can share.
//
// The result is a safetensors image in a memfd, holding only the tensors that cannot be used in
// place. One process converts and hands its path ("/proc/<pid>/fd/<fd>") to the others, which map
// it through Checkpoint::Options::converted_weights_path, so the machine holds one copy.
//
// Tested by tests/worker/model/convert_test.cc.
#ifndef MOE_WORKER_MODEL_CONVERT_H_
#define MOE_WORKER_MODEL_CONVERT_H_

#include <cstdint>
#include <functional>
#include <string>
#include <utility>

#include "absl/status/statusor.h"

namespace moe::model {

// Owns the memfd. The image is sealed: nobody can change it. It lives until this object and every
// mapping of it are gone. Movable.
class ConvertedWeights {
 public:
  ConvertedWeights(int fd, uint64_t num_bytes, double seconds);
  ~ConvertedWeights();
  ConvertedWeights(ConvertedWeights&& other) noexcept;
  ConvertedWeights& operator=(ConvertedWeights&& other) noexcept;

  int fd() const { return fd_; }  // close-on-exec
  // "/proc/<pid>/fd/<fd>": opens the image from this process and from others of the same user.
  std::string path() const;
  uint64_t num_bytes() const { return num_bytes_; }
  double seconds() const { return seconds_; }  // that the conversion took
  ConvertedWeights Finished(double seconds) && {
    seconds_ = seconds;
    return std::move(*this);
  }

 private:
  int fd_ = -1;
  uint64_t num_bytes_ = 0;
  double seconds_ = 0;
};

// Whether any tensor that the model uses must be converted. Reads headers only.
// Errors as Checkpoint::Open.
absl::StatusOr<bool> NeedsConversion(const std::string& dir);

// Converts what must be, rounding to nearest even, reading a few MiB at a time.
// `progress` gets (bytes written, bytes in total) and may be empty.
// ResourceExhausted if the machine lacks the memory. Other errors as Checkpoint::Open.
absl::StatusOr<ConvertedWeights> ConvertToBf16(
    const std::string& dir, const std::function<void(uint64_t, uint64_t)>& progress = {});

// As above, for a folder that is already open (model_files.h).
struct ModelFiles;
absl::StatusOr<ConvertedWeights> ConvertTensors(
    const ModelFiles& model, const std::function<void(uint64_t, uint64_t)>& progress = {});

// Key in the image's metadata whose value is the digest of the model it was made from.
inline constexpr char kConvertedSourceKey[] = "moe_source_digest";

}  // namespace moe::model

#endif  // MOE_WORKER_MODEL_CONVERT_H_
