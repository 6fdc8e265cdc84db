// libFuzzer target for the descriptions of GPUs, links and exchange libraries. Seeds:
// corpus/hardware_file.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "absl/status/status.h"
#include "planner/catalog/hardware_files.h"

namespace moe::planner {
namespace {

void Check(bool holds) {
  if (!holds) std::abort();
}

void CheckError(const absl::Status& status) {
  Check(absl::IsInvalidArgument(status));
  Check(!status.message().empty() && status.message().size() < 2000);
}

void CheckInput(std::string_view input) {
  if (const auto device = ParseDevice(input, "fuzz", "fuzz.json"); device.ok()) {
    Check(device->memory_bytes > 0 && std::isfinite(device->memory_bytes));
    Check(device->bandwidth() > 0 && std::isfinite(device->bandwidth()));
    Check(device->flops(1) > 0 && device->flops(2) > 0);
    Check(device->memory_efficiency <= 1 && device->compute_efficiency <= 1);
    for (const std::string& product : device->products) Check(!product.empty());
    Check(!Sources(input).empty());
  } else {
    CheckError(device.status());
  }
  if (const auto link = ParseLink(input, "fuzz.json"); link.ok()) {
    Check(*link > 0 && std::isfinite(*link));
  } else {
    CheckError(link.status());
  }
  if (const auto library = ParseExchangeLibrary(input, "fuzz", "fuzz.json"); library.ok()) {
    Check(library->dispatch_latency_seconds >= 0 && library->combine_latency_seconds >= 0);
    Check(library->link_efficiency > 0 && library->link_efficiency <= 1);
  } else {
    CheckError(library.status());
  }
  Sources(input);
}

}  // namespace
}  // namespace moe::planner

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  moe::planner::CheckInput({reinterpret_cast<const char*>(data), size});
  return 0;
}
