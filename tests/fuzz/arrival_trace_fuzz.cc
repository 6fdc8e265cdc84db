// libFuzzer target for ParseTrace. Seeds: corpus/arrival_trace.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "absl/strings/match.h"
#include "cli/simulate/trace.h"

namespace {

void Require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "violated: %s\n", what);
  std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto requests = moe::cli::ParseTrace(text, "trace");
  if (!requests.ok()) {
    Require(absl::StartsWith(requests.status().message(), "trace"), "an error names the file");
    Require(requests.status().message().size() < 1000, "a message is short");
    return 0;
  }
  Require(!requests->empty(), "a trace has a request");
  absl::Duration before = absl::ZeroDuration();
  for (const moe::simulator::Request& request : *requests) {
    Require(request.arrival >= before, "requests come in order");
    before = request.arrival;
    Require(request.input_tokens >= 1 && request.input_tokens <= moe::simulator::kMaxTokens,
            "a prompt has tokens");
    Require(request.output_tokens >= 1 && request.output_tokens <= moe::simulator::kMaxTokens,
            "an answer has tokens");
  }
  return 0;
}
