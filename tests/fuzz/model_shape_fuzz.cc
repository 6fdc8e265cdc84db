// libFuzzer target for ParseModelShape: the config.json of any model that can be planned for. What
// it accepts must give finite numbers. Seeds: corpus/model_shape.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "cli/plan/model_config.h"
#include "planner/layout.h"
#include "planner/memory.h"

namespace moe::cli {
namespace {

void Check(bool holds) {
  if (!holds) std::abort();
}

void CheckInput(std::string_view input) {
  const auto shape = ParseModelShape(input, "fuzz");
  if (!shape.ok()) {
    Check(!shape.status().message().empty() && shape.status().message().size() < 2000);
    return;
  }
  Check(CheckShape(*shape).ok());
  Check(shape->active_params() > 0 && shape->active_params() <= shape->total_params());
  Check(std::isfinite(shape->kv_bytes_per_token()) && shape->kv_bytes_per_token() > 0);
  const planner::MemoryUse use =
      planner::MemoryOf(*shape, planner::Layout(), planner::Assumptions(), 1, 640);
  Check(std::isfinite(use.total_bytes()) && use.total_bytes() > 0);
}

}  // namespace
}  // namespace moe::cli

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  moe::cli::CheckInput({reinterpret_cast<const char*>(data), size});
  return 0;
}
