#include "controller/kube/reflector.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "controller/kube/answer.h"
#include "controller/kube/clock.h"
#include "spdlog/spdlog.h"

namespace moe::kube {
namespace {

// A watch that ends in order, but so soon and without an event, is no progress.
constexpr absl::Duration kShortWatch = absl::Seconds(1);
constexpr absl::Duration kCancelInterval = absl::Milliseconds(20);
constexpr absl::Duration kReturnPoll = absl::Milliseconds(250);

}  // namespace

void ReflectorState::OnList(const absl::StatusOr<std::string>& resource_version, double random) {
  if (resource_version.ok()) {
    // The backoff goes on until the watch works too: a server whose lists are good and whose
    // watches fail at once must not be listed without a pause.
    next_ = {.list = false, .resource_version = *resource_version, .pause = absl::ZeroDuration()};
    any_event_ = false;
    return;
  }
  next_.list = true;
  BackOff(resource_version.status(), random);
}

void ReflectorState::BackOff(const absl::Status& status, double random) {
  const std::optional<absl::Duration> asked = RetryAfter(status);
  next_.pause = std::max(backoff_.Next(random), asked.value_or(absl::ZeroDuration()));
  next_.may_be_shorter = absl::IsUnavailable(status) && !asked.has_value();
}

bool ReflectorState::OnEvent(const WatchEvent& event, absl::Status* error) {
  if (event.type == WatchEvent::kError) {
    const auto code = event.object.find("code");
    const int number =
        code != event.object.end() && code->is_number_integer() ? code->get<int>() : 0;
    *error = ErrorOf(number, event.object.dump(-1, ' ', false, Json::error_handler_t::replace),
                     "watch", /*is_create=*/false);
    // Whatever it is: the server can't go on from here.
    if (!absl::IsOutOfRange(*error)) {
      *error = absl::DataLossError(error->message());
    }
    return false;
  }
  any_event_ = true;
  next_.resource_version = event.resource_version;
  return true;
}

void ReflectorState::OnWatchEnd(const absl::Status& status, absl::Duration lasted, double random) {
  next_.list = absl::IsDataLoss(status) || absl::IsOutOfRange(status);
  if (any_event_ || lasted >= kShortWatch) {
    backoff_.Reset();
  }
  if (status.ok() && (any_event_ || lasted >= kShortWatch)) {
    next_.pause = absl::ZeroDuration();
  } else {
    BackOff(status, random);
  }
  any_event_ = false;
}

Reflector::Reflector(Client& client, ReflectorOptions options, ReflectorHandler& handler)
    : client_(client), options_(std::move(options)), handler_(handler) {}

Reflector::~Reflector() { Stop(); }

void Reflector::Start() {
  {
    absl::MutexLock lock(&mutex_);
    ended_ = false;
  }
  thread_ = std::thread([this] { Loop(); });
}

void Reflector::Stop() {
  absl::MutexLock lock(&mutex_);
  stopping_ = true;
  // A connection that is being made can't be ended; it is caught in the next round.
  while (!ended_) {
    if (watch_ != nullptr) {
      watch_->Cancel();
    }
    mutex_.AwaitWithTimeout(absl::Condition(&ended_), kCancelInterval);
  }
  if (thread_.joinable()) {
    thread_.join();
  }
}

ReflectorCounters Reflector::counters() const {
  absl::MutexLock lock(&mutex_);
  return counters_;
}

// Says that it fails, and that it works again; not each of the tries between.
void Reflector::Report(const absl::Status& status) {
  const bool failed = !status.ok();
  if (failed) {
    absl::MutexLock lock(&mutex_);
    ++counters_.num_errors;
  }
  if (failed && !failing_) {
    spdlog::warn("{}; trying again", std::string(status.message()));
  } else if (!failed && failing_) {
    spdlog::info("{} are read again", options_.type.plural);
  }
  failing_ = failed;
}

bool Reflector::Pause(const ReflectorState::Step& step, int64_t num_returns) {
  const absl::Time start = MonotonicNow();
  absl::MutexLock lock(&mutex_);
  while (!stopping_) {
    const absl::Duration passed = MonotonicNow() - start;
    const bool is_back = step.may_be_shorter && client_.num_returns() != num_returns;
    if (passed >= (is_back ? step.pause / 8 : step.pause)) {
      return true;
    }
    mutex_.AwaitWithTimeout(absl::Condition(&stopping_),
                            std::min(step.pause - passed, kReturnPoll));
  }
  ended_ = true;
  return false;
}

void Reflector::Loop() {
  ReflectorState state(options_.first_backoff, options_.max_backoff);
  int64_t num_returns = 0;
  while (true) {
    const ReflectorState::Step step = state.next();
    if (!Pause(step, num_returns)) {
      return;
    }
    num_returns = client_.num_returns();
    const double random = absl::Uniform(random_, 0.0, 1.0);
    if (step.list) {
      const absl::StatusOr<std::string> version = List();
      Report(version.status());
      state.OnList(version, random);
      continue;
    }
    const absl::Time start = MonotonicNow();
    const absl::Status status = Watch(state, step.resource_version);
    {
      absl::MutexLock lock(&mutex_);
      if (stopping_) {
        continue;
      }
    }
    Report(status);
    state.OnWatchEnd(status, MonotonicNow() - start, random);
  }
}

absl::StatusOr<std::string> Reflector::List() {
  absl::StatusOr<Json> list = client_.List(options_.type, options_.ns, options_.selector);
  if (!list.ok()) {
    return list.status();
  }
  std::string version = MetadataString(*list, "resourceVersion");
  if (version.empty()) {
    return absl::InternalError(
        absl::StrCat("list ", options_.type.plural, ": the answer has no resourceVersion"));
  }
  {
    absl::MutexLock lock(&mutex_);
    counters_.num_relists += counters_.num_lists > 0 ? 1 : 0;
    ++counters_.num_lists;
    if (stopping_) {
      return version;
    }
  }
  std::vector<Json> objects;
  for (Json& item : (*list)["items"]) {
    objects.push_back(std::move(item));
  }
  handler_.OnReplace(std::move(objects));
  return version;
}

bool Reflector::Deliver(ReflectorState& state, WatchEvent event, absl::Status* error) {
  if (!state.OnEvent(event, error)) {
    return false;
  }
  {
    absl::MutexLock lock(&mutex_);
    ++counters_.num_events;
    if (stopping_) {
      return false;
    }
  }
  if (event.type == WatchEvent::kDeleted) {
    handler_.OnRemove(std::move(event.object));
  } else if (event.type != WatchEvent::kBookmark) {
    handler_.OnUpsert(std::move(event.object));
  }
  return true;
}

absl::Status Reflector::Watch(ReflectorState& state, const std::string& resource_version) {
  const absl::StatusOr<std::unique_ptr<WatchConnection>> connection = client_.OpenWatch();
  if (!connection.ok()) {
    return connection.status();
  }
  {
    absl::MutexLock lock(&mutex_);
    if (stopping_) {
      return absl::CancelledError();
    }
    ++counters_.num_watches;
    watch_ = connection->get();
  }
  WatchStream stream;
  absl::Status bad;  // what is wrong with the stream's content
  const absl::Status status =
      (*connection)
          ->Run({.type = options_.type,
                 .ns = options_.ns,
                 .selector = options_.selector,
                 .resource_version = resource_version,
                 .duration = options_.watch_duration * absl::Uniform(random_, 1.0, 1.5),
                 .silence = options_.silence},
                [&](absl::string_view bytes) {
                  std::vector<WatchEvent> events;
                  const absl::Status fed = stream.Feed(bytes, &events);
                  for (WatchEvent& event : events) {
                    if (!Deliver(state, std::move(event), &bad)) {
                      return false;
                    }
                  }
                  bad = fed;
                  return fed.ok();
                });
  {
    absl::MutexLock lock(&mutex_);
    watch_ = nullptr;
  }
  if (!bad.ok()) {
    return bad;
  }
  // Half a line is worth a list even where the connection broke.
  const absl::Status end = stream.Finish();
  return end.ok() ? status : end;
}

}  // namespace moe::kube
