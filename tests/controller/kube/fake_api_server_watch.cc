// FakeApiServer: watches.
#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/controller/kube/fake_api_server.h"

namespace moe::kube::testing {
namespace {

constexpr absl::Duration kPoll = absl::Milliseconds(20);

bool IsTrue(const std::string& param) { return param == "true" || param == "1"; }

}  // namespace

// A client's watch; used by the thread that serves it.
struct FakeApiServer::Watch {
  Target target;
  std::string selector;
  bool bookmarks = false;
  int64_t version = 0;  // sent up to here; 0: nothing yet
  bool begun = false;   // its version was not forgotten when it began
  absl::Time end = absl::InfiniteFuture();
  absl::Time last_sent = absl::Now();
  int round = 0;
  int bookmark_round = 0;
  std::optional<Fault> fault;
};

void FakeApiServer::StartWatch(const httplib::Request& request, const Target& target,
                               std::optional<Fault> fault, httplib::Response& response) {
  const auto watch = std::make_shared<Watch>();
  watch->target = target;
  watch->selector = request.get_param_value("labelSelector");
  watch->bookmarks = IsTrue(request.get_param_value("allowWatchBookmarks"));
  watch->fault = std::move(fault);
  watch->round = watch_round_.load();
  watch->bookmark_round = bookmark_round_.load();
  (void)absl::SimpleAtoi(request.get_param_value("resourceVersion"), &watch->version);
  int seconds = 0;
  if (absl::SimpleAtoi(request.get_param_value("timeoutSeconds"), &seconds) && seconds > 0) {
    watch->end = absl::Now() + absl::Seconds(seconds);
  }
  num_watches_.fetch_add(1);
  response.set_chunked_content_provider(
      "application/json",
      [this, watch](size_t /*offset*/, httplib::DataSink& sink) {
        return ContinueWatch(*watch, sink);
      },
      [this](bool /*success*/) { num_watches_.fetch_sub(1); });
}

bool FakeApiServer::SendEvent(Watch& watch, const char* kind, const Json& object,
                              httplib::DataSink& sink) {
  const std::string line = Json({{"type", kind}, {"object", object}}).dump() + "\n";
  watch.last_sent = absl::Now();
  if (watch.fault.has_value() && watch.fault->kind == Fault::kCutLine) {
    sink.write(line.data(), line.size() / 2);
    return false;
  }
  if (watch.fault.has_value() && watch.fault->kind == Fault::kText) {
    sink.write(watch.fault->text.data(), watch.fault->text.size());
    sink.done();
    return false;
  }
  return sink.write(line.data(), line.size());
}

// Sends what there is, or waits a little. The library calls it again until it returns false or the
// sink is done.
bool FakeApiServer::ContinueWatch(Watch& watch, httplib::DataSink& sink) {
  if (stopping_.load() || !sink.is_writable()) {
    return false;
  }
  if (watch.round != watch_round_.load() || absl::Now() >= watch.end) {
    sink.done();
    return true;
  }
  if (watch.fault.has_value() && watch.fault->kind == Fault::kSilent) {
    absl::SleepFor(kPoll);
    return true;
  }
  std::optional<FakeObjects::Changes> changes;
  if (watch.version == 0) {
    watch.version = objects_.version();
    for (const Json& object : objects_.All(watch.target.type, watch.target.key.ns)) {
      if (MatchesSelector(object, watch.selector) && !SendEvent(watch, "ADDED", object, sink)) {
        return false;
      }
    }
    watch.begun = true;
  }
  if (watch.begun || objects_.Remembers(watch.version)) {
    watch.begun = true;
    changes = objects_.ChangesAfter(watch.target.type, watch.version);
  }
  // Again, now that the changes are known: none that came after the end of the watches goes out.
  if (watch.round != watch_round_.load()) {
    sink.done();
    return true;
  }
  if (!changes.has_value()) {
    const FakeAnswer error =
        ErrorAnswer(410, "Expired", absl::StrCat("too old resource version: ", watch.version));
    if (!SendEvent(watch, "ERROR", error.body, sink)) {
      return false;
    }
    sink.done();
    return true;
  }
  watch.version = changes->version;
  for (const FakeObjects::Change& change : changes->list) {
    const bool here =
        watch.target.key.ns.empty() || MetaString(change.after, "namespace") == watch.target.key.ns;
    const bool was = !change.before.is_null() && MatchesSelector(change.before, watch.selector);
    const bool is = !change.deleted && MatchesSelector(change.after, watch.selector);
    if (here && (was || is) &&
        !SendEvent(watch,
                   !was ? "ADDED"
                   : is ? "MODIFIED"
                        : "DELETED",
                   change.after, sink)) {
      return false;
    }
  }
  const bool bookmark_due = watch.bookmark_round != bookmark_round_.load() ||
                            absl::Now() - watch.last_sent >= options_.bookmark_interval;
  if (watch.bookmarks && bookmark_due) {
    watch.bookmark_round = bookmark_round_.load();
    return SendEvent(watch, "BOOKMARK",
                     {{"kind", watch.target.type.kind},
                      {"apiVersion", watch.target.type.ApiVersion()},
                      {"metadata", {{"resourceVersion", absl::StrCat(watch.version)}}}},
                     sink);
  }
  objects_.AwaitChange(watch.version, kPoll);
  return true;
}

}  // namespace moe::kube::testing
