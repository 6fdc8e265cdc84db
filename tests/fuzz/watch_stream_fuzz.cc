// Fuzzes controller/kube/watch_stream.h: any bytes, cut anywhere, give the same events and the same
// verdict, and every event has what the reflector relies on. The first byte says how they are cut.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "controller/kube/watch_stream.h"

namespace {

struct Result {
  std::vector<std::string> events;
  bool ok = true;
  bool whole = true;
};

Result Read(absl::string_view bytes, size_t piece) {
  moe::kube::WatchStream stream(/*max_line_bytes=*/512);
  Result result;
  for (size_t at = 0; at < bytes.size() && result.ok; at += piece) {
    std::vector<moe::kube::WatchEvent> events;
    result.ok = stream.Feed(bytes.substr(at, piece), &events).ok();
    for (const moe::kube::WatchEvent& event : events) {
      if (event.type != moe::kube::WatchEvent::kError && event.resource_version.empty()) {
        std::abort();
      }
      result.events.push_back(event.object.dump());
    }
  }
  result.whole = result.ok && stream.Finish().ok();
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
  if (whole.events != cut.events || whole.ok != cut.ok || whole.whole != cut.whole) {
    std::abort();
  }
  return 0;
}
