// libFuzzer target for ParseSafetensorsHeader. Seeds: corpus/safetensors.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "tests/fuzz/model_parsers.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  moe::model::CheckSafetensorsInput({reinterpret_cast<const char*>(data), size});
  return 0;
}
