// Fuzzes gateway/http/request_reader.h: any bytes, cut anywhere, give the same requests, each with
// exactly one Content-Length and no Transfer-Encoding. The first byte says how they are cut.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "gateway/http/request_reader.h"

namespace {

struct Result {
  std::vector<std::string> requests;
  int status = 0;
};

Result Read(absl::string_view bytes, size_t piece) {
  moe::gateway::RequestLimits limits;
  limits.max_head_bytes = 512;
  limits.max_body_bytes = 512;
  limits.max_headers = 10;
  moe::gateway::RequestReader reader(
      limits, [](const moe::gateway::RequestHead& head) { return head.method == "POST"; });
  using State = moe::gateway::RequestReader::State;
  Result result;
  for (size_t at = 0; at < bytes.size(); at += piece) {
    reader.Feed(bytes.substr(at, piece));
    while (reader.state() == State::kComplete) {
      const bool last = reader.must_close();
      result.requests.push_back(reader.TakeRequest());
      if (last) {
        return result;
      }
    }
  }
  result.status = reader.status();
  return result;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) {
    return 0;
  }
  const absl::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  const Result whole = Read(bytes, bytes.size() + 1);
  const Result cut = Read(bytes, 1 + data[0] % 16);
  if (whole.requests != cut.requests || (whole.status == 0) != (cut.status == 0)) {
    std::abort();
  }
  for (const std::string& request : whole.requests) {
    if (request.find("\r\nContent-Length: ") == std::string::npos) {
      std::abort();
    }
  }
  return 0;
}
