// See client.h.
#include <algorithm>
#include <chrono>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "controller/kube/answer.h"
#include "controller/kube/client.h"
#include "controller/kube/request_path.h"

namespace moe::kube {
namespace {

constexpr size_t kMaxErrorBytes = size_t{64} << 10;

}  // namespace

absl::Status WatchConnection::Run(const WatchOptions& options,
                                  absl::FunctionRef<bool(absl::string_view)> on_bytes) {
  const std::string what =
      absl::StrCat("watch ", Describe(options.type, {.ns = options.ns, .name = ""}));
  httplib::ClientImpl& http = *connection_->http;
  http.set_read_timeout(absl::ToChronoMilliseconds(options.silence));
  http.set_max_timeout(absl::ToChronoMilliseconds(options.duration + options.silence));
  int code = 0;
  std::optional<absl::Duration> retry_after;
  std::string error_body;
  httplib::Request request;
  request.method = "GET";
  request.headers = headers_;
  request.path = absl::StrCat(
      CollectionPath(options.type, options.ns), "?watch=true&allowWatchBookmarks=true",
      "&resourceVersion=", Escape(options.resource_version),
      "&timeoutSeconds=", std::max<int64_t>(1, absl::ToInt64Seconds(options.duration)),
      options.selector.empty() ? "" : absl::StrCat("&labelSelector=", Escape(options.selector)));
  request.response_handler = [&](const httplib::Response& response) {
    code = response.status;
    retry_after = RetryAfterOf(response);
    return !cancelled_.load();
  };
  request.content_receiver = [&](const char* data, size_t size, size_t /*offset*/,
                                 size_t /*total*/) {
    if (cancelled_.load()) {
      return false;
    }
    if (code == 200) {
      return on_bytes(absl::string_view(data, size));
    }
    error_body.append(data, std::min(size, kMaxErrorBytes - error_body.size()));
    return true;
  };
  const httplib::Result result = http.send(request);
  if (cancelled_.load() || result.error() == httplib::Error::Canceled) {
    return absl::CancelledError(absl::StrCat(what, ": ended here"));
  }
  if (!result) {
    return absl::UnavailableError(absl::StrCat(what, ": ", DescribeError(result.error())));
  }
  return result->status == 200
             ? absl::OkStatus()
             : ErrorOf(result->status, error_body, what, /*is_create=*/false, retry_after);
}

void WatchConnection::Cancel() {
  cancelled_.store(true);
  connection_->http->stop();
}

}  // namespace moe::kube
