// libFuzzer target for the frames of the Tcp exchange. Seeds: corpus/tcp_frame.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "tests/worker/exchange/tcp_frame_input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  moe::exchange::CheckTcpFrameInput({reinterpret_cast<const char*>(data), size});
  return 0;
}
