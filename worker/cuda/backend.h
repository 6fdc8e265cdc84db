// A rank on a GPU.
//
// Tested by tests/worker/cuda/backend_test.cc, and by golden and bitwise tests on the emulator.
#ifndef MOE_WORKER_CUDA_BACKEND_H_
#define MOE_WORKER_CUDA_BACKEND_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "device/device.h"
#include "kernels/context.h"
#include "worker/model/backend.h"

namespace moe::cuda {

struct CudaOptions {
  int ordinal = 0;  // of the GPU, among those that the process sees
  // Of the GPU's memory, how much may be in use at all, by this process and by others.
  double memory_share = 0.9;
  // Decode steps as CUDA graphs. Ranks of a group that differ in this would send each other
  // different rows, so it is a part of the numerics id.
  bool graphs = true;
  // Kernels begin while the one before them runs, on GPUs that can. Changes no bits.
  bool overlap_kernels = true;
  // Of the host, which draws what the GPU leaves to it.
  kernels::CpuLevel cpu_level = kernels::CpuLevel::kPlain;
};

// The GPU that `options` name. FailedPrecondition says what is missing: a driver, a newer one, a
// GPU, or one that the kernels run on.
absl::StatusOr<device::DeviceInfo> FindDevice(const CudaOptions& options);

// "cuda-1-sm90": the version of the kernels' numerics and the GPU's architecture.
std::string CudaNumericsId(const device::DeviceInfo& info);

class CudaBackend : public model::Backend {
 public:
  static absl::StatusOr<std::unique_ptr<CudaBackend>> Create(const CudaOptions& options);

  const device::DeviceInfo& device() const { return device_; }
  std::string numerics_id() const override {
    return CudaNumericsId(device_) + (options_.graphs ? "" : "-eager");
  }
  bool on_device() const override { return true; }
  bool IsLost(const absl::Status& status) const override;
  // Makes the GPU the calling thread's. The rank allocates all of its memory now.
  absl::StatusOr<std::unique_ptr<model::RankModel>> Load(
      const model::Checkpoint& checkpoint, const model::RankSpec& spec, model::StepTimes* times,
      const model::Checkpoint::Progress& progress) override;

 private:
  CudaBackend(const CudaOptions& options, device::DeviceInfo device)
      : options_(options), device_(std::move(device)) {}

  const CudaOptions options_;
  const device::DeviceInfo device_;
};

}  // namespace moe::cuda

#endif  // MOE_WORKER_CUDA_BACKEND_H_
