// The files of a checkpoint folder, found, opened and checked against each other. Reads the JSON
// files and the headers, no weights beyond a small sample for the digest.
//
// Tested by tests/worker/model/checkpoint_test.cc.
#ifndef MOE_WORKER_MODEL_MODEL_FILES_H_
#define MOE_WORKER_MODEL_MODEL_FILES_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/model/config.h"
#include "worker/model/file.h"
#include "worker/model/safetensors.h"
#include "worker/model/tensor_layout.h"

namespace moe::model {

struct WeightFile {
  File file;
  std::string header;  // prefix and JSON, as stored
  SafetensorsIndex index;
};

struct ModelFiles {
  std::string name;
  std::string digest;  // as Checkpoint::digest
  ModelConfig config;
  std::vector<WeightFile> files;
  std::vector<ModelTensor> tensors;  // all that the model uses; file_idx into `files`
  std::vector<std::string> warnings;

  bool NeedsConversion() const;
};

// Errors as Checkpoint::Open.
absl::StatusOr<ModelFiles> ReadModelFiles(const std::string& dir);

// Reads and checks the header of an open file.
absl::StatusOr<WeightFile> ReadWeightFile(File file);

}  // namespace moe::model

#endif  // MOE_WORKER_MODEL_MODEL_FILES_H_
