// Where the time of an attention rank's steps went.
#ifndef MOE_WORKER_MODEL_STEP_TIMES_H_
#define MOE_WORKER_MODEL_STEP_TIMES_H_

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <string_view>

namespace moe::model {

// Written by the engine thread, read by any.
class StepTimes {
 public:
  // kDevice: a GPU's steps, from the first launch to the tokens; their parts are not measured.
  enum Part {
    kAttention,
    kRoute,
    kDispatch,
    kExperts,
    kCombine,
    kLogits,
    kDevice,
    kSampling,
    kNumParts
  };
  static std::string_view PartName(Part part);

  void Add(Part part, int64_t nanoseconds) {
    nanoseconds_[part].fetch_add(nanoseconds, std::memory_order_relaxed);
  }
  double seconds(Part part) const {
    return 1e-9 * static_cast<double>(nanoseconds_[part].load(std::memory_order_relaxed));
  }
  // kExperts includes waiting for other ranks.
  double total_seconds() const;

 private:
  std::array<std::atomic<int64_t>, kNumParts> nanoseconds_{};
};

// Adds the time since the last lap to a part. `times` may be null: then nothing is measured.
class LapTimer {
 public:
  explicit LapTimer(StepTimes* times) : times_(times) {
    if (times_ != nullptr) last_ = std::chrono::steady_clock::now();
  }
  void Lap(StepTimes::Part part) {
    if (times_ == nullptr) return;
    const auto now = std::chrono::steady_clock::now();
    times_->Add(part, std::chrono::duration_cast<std::chrono::nanoseconds>(now - last_).count());
    last_ = now;
  }

 private:
  StepTimes* times_;
  std::chrono::steady_clock::time_point last_;
};

}  // namespace moe::model

#endif  // MOE_WORKER_MODEL_STEP_TIMES_H_
