#include "controller/kube/events.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "controller/kube/resource_types.h"
#include "spdlog/spdlog.h"

namespace moe::kube {
namespace {

constexpr size_t kMaxNoteBytes = 1024;
constexpr size_t kMaxWordBytes = 128;
constexpr size_t kMaxNameBytes = 253;
constexpr size_t kMaxLimiters = 4096;

std::string MicroTime(absl::Time time) {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", time, absl::UTCTimeZone());
}

// Cut between two characters of UTF-8.
std::string Cut(const std::string& text, size_t max_bytes) {
  if (text.size() <= max_bytes) {
    return text;
  }
  size_t end = max_bytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) {
    --end;
  }
  return text.substr(0, end);
}

std::string ObjectId(const Event& event) {
  return absl::StrCat(event.type.plural, "/", event.key.ns, "/", event.key.name, "/", event.uid);
}

}  // namespace

bool EventAggregator::Admit(const Event& event, absl::Time now) {
  if (limiters_.size() >= kMaxLimiters) {
    for (auto at = limiters_.begin(); at != limiters_.end();) {
      at = at->second.IsFull(now) ? limiters_.erase(at) : std::next(at);
    }
  }
  const std::string id = ObjectId(event);
  if (limiters_.size() >= kMaxLimiters && !limiters_.contains(id)) {
    return false;
  }
  const auto found =
      limiters_.try_emplace(id, options_.per_object_per_second, options_.per_object_burst).first;
  return found->second.TryTake(now);
}

std::optional<EventAggregator::Write> EventAggregator::Observe(const Event& event, absl::Time now,
                                                               bool* limited) {
  *limited = false;
  const std::string id = absl::StrCat(ObjectId(event), "\n", event.warning ? "W" : "N", "\n",
                                      event.reason, "\n", event.action, "\n", event.note);
  const auto found = series_.find(id);
  if (found != series_.end() && now - found->second.last < options_.series_age) {
    ++found->second.count;
    found->second.last = now;
    return std::nullopt;
  }
  if (!Admit(event, now)) {
    *limited = true;
    return std::nullopt;
  }
  if (found == series_.end() && series_.size() >= options_.max_series) {
    series_.erase(std::min_element(
        series_.begin(), series_.end(),
        [](const auto& a, const auto& b) { return a.second.last < b.second.last; }));
  }
  Series& series = series_[id];
  // Unique among the processes that write about this object, without asking anybody.
  const std::string suffix =
      absl::StrFormat(".%x.%x", static_cast<uint64_t>(absl::ToUnixNanos(now)), ++next_name_);
  series = {.name = Cut(event.key.name, kMaxNameBytes - suffix.size()) + suffix,
            .event = event,
            .last = now,
            .last_write = now};
  return Write{.create = true, .id = id, .name = series.name, .event = event, .count = 1};
}

std::vector<EventAggregator::Write> EventAggregator::TakeDue(absl::Time now) {
  std::vector<Write> due;
  for (auto at = series_.begin(); at != series_.end();) {
    Series& series = at->second;
    if (series.count > series.written && now >= series.last_write + options_.series_interval) {
      series.written = series.count;
      series.last_write = now;
      due.push_back({.create = false,
                     .id = at->first,
                     .name = series.name,
                     .event = series.event,
                     .count = series.count});
    }
    const bool old = series.count == series.written && now >= series.last + options_.series_age;
    at = old ? series_.erase(at) : std::next(at);
  }
  return due;
}

absl::Time EventAggregator::next_due() const {
  absl::Time next = absl::InfiniteFuture();
  for (const auto& [id, series] : series_) {
    next =
        std::min(next, series.count > series.written ? series.last_write + options_.series_interval
                                                     : series.last + options_.series_age);
  }
  return next;
}

std::string EventNamespace(const Event& event) {
  return event.key.ns.empty() ? "default" : event.key.ns;
}

Json EventObject(const EventAggregator::Write& write, const EventOptions& options,
                 absl::Time wall_now) {
  const Event& event = write.event;
  Json regarding = {
      {"apiVersion", event.type.ApiVersion()}, {"kind", event.type.kind}, {"name", event.key.name}};
  if (!event.key.ns.empty()) {
    regarding["namespace"] = event.key.ns;
  }
  if (!event.uid.empty()) {
    regarding["uid"] = event.uid;
  }
  return {{"apiVersion", kEvents.ApiVersion()},
          {"kind", kEvents.kind},
          {"metadata", {{"namespace", EventNamespace(event)}, {"name", write.name}}},
          {"eventTime", MicroTime(wall_now)},
          {"reportingController", options.controller},
          {"reportingInstance", Cut(options.instance, kMaxWordBytes)},
          {"action", Cut(event.action, kMaxWordBytes)},
          {"reason", Cut(event.reason, kMaxWordBytes)},
          {"regarding", std::move(regarding)},
          {"note", Cut(event.note, kMaxNoteBytes)},
          {"type", event.warning ? "Warning" : "Normal"}};
}

Json SeriesPatch(const EventAggregator::Write& write, absl::Time wall_now) {
  return {{"series", {{"count", write.count}, {"lastObservedTime", MicroTime(wall_now)}}}};
}

EventRecorder::EventRecorder(Api& api, EventOptions options, std::function<absl::Time()> now)
    : api_(api), options_(std::move(options)), now_(std::move(now)), aggregator_(options_) {
  thread_ = std::thread([this] { Loop(); });
}

EventRecorder::~EventRecorder() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    changed_.SignalAll();
  }
  thread_.join();
}

void EventRecorder::Record(Event event) {
  absl::MutexLock lock(&mutex_);
  if (queue_.size() >= options_.max_queue) {
    ++num_dropped_;
    return;
  }
  queue_.push_back(std::move(event));
  changed_.Signal();
}

int64_t EventRecorder::num_written() const {
  absl::MutexLock lock(&mutex_);
  return num_written_;
}

int64_t EventRecorder::num_dropped() const {
  absl::MutexLock lock(&mutex_);
  return num_dropped_;
}

void EventRecorder::Loop() {
  while (true) {
    std::optional<Event> event;
    {
      absl::MutexLock lock(&mutex_);
      while (!stopping_ && queue_.empty() && now_() < aggregator_.next_due()) {
        changed_.WaitWithTimeout(&mutex_, aggregator_.next_due() - now_());
      }
      if (stopping_) {
        return;
      }
      if (!queue_.empty()) {
        event = std::move(queue_.front());
        queue_.pop_front();
      }
    }
    if (event.has_value()) {
      bool limited = false;
      const std::optional<EventAggregator::Write> write =
          aggregator_.Observe(*event, now_(), &limited);
      if (write.has_value()) {
        Perform(*write);
      } else if (limited) {
        absl::MutexLock lock(&mutex_);
        ++num_dropped_;
      }
    }
    for (const EventAggregator::Write& write : aggregator_.TakeDue(now_())) {
      Perform(write);
    }
  }
}

absl::Status EventRecorder::TryWrite(const EventAggregator::Write& write) {
  if (write.create) {
    return api_
        .Create(kEvents, EventNamespace(write.event), EventObject(write, options_, absl::Now()))
        .status();
  }
  return api_
      .MergePatch(kEvents, {.ns = EventNamespace(write.event), .name = write.name},
                  SeriesPatch(write, absl::Now()))
      .status();
}

void EventRecorder::Perform(const EventAggregator::Write& write) {
  absl::Status status;
  for (int tries = 1;; ++tries) {
    status = TryWrite(write);
    // The first try was done and only its answer lost.
    if (tries > 1 && write.create && absl::IsAlreadyExists(status)) {
      status = absl::OkStatus();
    }
    if (!absl::IsUnavailable(status) || tries == options_.max_tries) {
      break;
    }
    absl::MutexLock lock(&mutex_);
    if (mutex_.AwaitWithTimeout(absl::Condition(&stopping_), options_.retry_pause)) {
      break;
    }
  }
  absl::MutexLock lock(&mutex_);
  if (status.ok()) {
    ++num_written_;
    return;
  }
  ++num_dropped_;
  aggregator_.Forget(write.id);
  spdlog::debug("an event about {} is lost: {}", write.event.key.name,
                std::string(status.message()));
}

}  // namespace moe::kube
