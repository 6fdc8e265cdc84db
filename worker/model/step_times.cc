#include "worker/model/step_times.h"

namespace moe::model {

std::string_view StepTimes::PartName(Part part) {
  switch (part) {
    case kAttention:
      return "attention";
    case kRoute:
      return "route";
    case kDispatch:
      return "dispatch";
    case kExperts:
      return "experts";
    case kCombine:
      return "combine";
    case kLogits:
      return "logits";
    case kDevice:
      return "device";
    case kSampling:
      return "sampling";
    case kNumParts:
      break;
  }
  return "unknown";
}

double StepTimes::total_seconds() const {
  double total = 0;
  for (int part = 0; part < kNumParts; ++part) total += seconds(static_cast<Part>(part));
  return total;
}

}  // namespace moe::model
