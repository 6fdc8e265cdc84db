// Reads the files of tests/data/golden (see its README).
#ifndef MOE_TESTS_SYSTEM_GOLDEN_FILE_H_
#define MOE_TESTS_SYSTEM_GOLDEN_FILE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/model/safetensors.h"

namespace moe::testing {

class GoldenFile {
 public:
  static absl::StatusOr<GoldenFile> Read(const std::string& path);

  bool Has(const std::string& name) const { return index_.tensors.contains(name); }
  // Die (std::abort) for a tensor that is missing or of another type.
  std::vector<int32_t> Ints(const std::string& name) const;
  std::vector<float> Floats(const std::string& name) const;
  std::vector<int64_t> Shape(const std::string& name) const;

 private:
  const char* Data(const std::string& name, model::DType dtype, size_t* num_elements) const;
  std::string bytes_;
  model::SafetensorsIndex index_;
};

}  // namespace moe::testing

#endif  // MOE_TESTS_SYSTEM_GOLDEN_FILE_H_
