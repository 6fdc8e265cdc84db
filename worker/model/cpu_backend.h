// A rank on the CPU: weights in the checkpoint's mapping, forward.h over the host's exchanges.
//
// Tested by tests/system/golden_test.cc and bitwise_test.cc.
#ifndef MOE_WORKER_MODEL_CPU_BACKEND_H_
#define MOE_WORKER_MODEL_CPU_BACKEND_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/context.h"
#include "worker/model/backend.h"

namespace moe::model {

class CpuBackend : public Backend {
 public:
  struct Options {
    kernels::CpuLevel level = kernels::CpuLevel::kPlain;
    // How long the threads of an attention rank spin between loops; see kernels::ThreadPool.
    int spin_microseconds = 50;
    // Reads the rank's tensors when it is loaded; else they are read when they are first used.
    bool read_tensors = true;
  };
  explicit CpuBackend(const Options& options) : options_(options) {}

  std::string numerics_id() const override;
  bool on_device() const override { return false; }
  bool IsLost(const absl::Status&) const override { return false; }
  absl::StatusOr<std::unique_ptr<RankModel>> Load(const Checkpoint& checkpoint,
                                                  const RankSpec& spec, StepTimes* times,
                                                  const Checkpoint::Progress& progress) override;

 private:
  const Options options_;
};

}  // namespace moe::model

#endif  // MOE_WORKER_MODEL_CPU_BACKEND_H_
