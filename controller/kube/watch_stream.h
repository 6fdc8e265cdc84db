// Cuts the bytes of a watch into events: one JSON object per line, of bounded length. Pure.
//
// Not thread-safe. Tested by tests/controller/kube/watch_stream_test.cc, fuzzed by
// tests/fuzz/watch_stream_fuzz.cc.
#ifndef MOE_CONTROLLER_KUBE_WATCH_STREAM_H_
#define MOE_CONTROLLER_KUBE_WATCH_STREAM_H_

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "controller/kube/api.h"

namespace moe::kube {

struct WatchEvent {
  enum Type {
    kAdded,
    kModified,
    kDeleted,
    kBookmark,  // `object` holds nothing but the version
    kError,     // `object` is a Status
  };
  Type type = kAdded;
  Json object = {};
  // Of the object: where a watch that begins now would go on. Empty for kError only.
  std::string resource_version = {};
};

class WatchStream {
 public:
  // The limit of etcd, where objects are kept, is 1.5 MiB.
  static constexpr size_t kMaxLineBytes = size_t{8} << 20;

  explicit WatchStream(size_t max_line_bytes = kMaxLineBytes) : max_line_bytes_(max_line_bytes) {}

  // Appends the events that `bytes` complete. An error means that the stream can't be understood
  // from here on, and that nothing more may be fed; events before the bad line are appended.
  absl::Status Feed(absl::string_view bytes, std::vector<WatchEvent>* events);
  // The stream has ended: an error when it did so within a line.
  absl::Status Finish() const;

 private:
  const size_t max_line_bytes_;
  std::string line_;  // begun, not complete
};

}  // namespace moe::kube

#endif  // MOE_CONTROLLER_KUBE_WATCH_STREAM_H_
