#include "controller/kube/lease.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "controller/kube/answer.h"
#include "controller/kube/resource_types.h"
#include "spdlog/spdlog.h"

namespace moe::kube {
namespace {

std::string MicroTime(absl::Time time) {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", time, absl::UTCTimeZone());
}

std::string StringOf(const Json& spec, const char* name) {
  const auto found = spec.find(name);
  return found != spec.end() && found->is_string() ? found->get<std::string>() : "";
}

int IntOf(const Json& spec, const char* name) {
  const auto found = spec.find(name);
  return found != spec.end() && found->is_number_integer() ? found->get<int>() : 0;
}

}  // namespace

LeaseRecord ParseLease(const Json& lease) {
  LeaseRecord record;
  const auto spec = lease.find("spec");
  if (spec == lease.end() || !spec->is_object()) {
    return record;
  }
  record.holder = StringOf(*spec, "holderIdentity");
  record.duration = absl::Seconds(IntOf(*spec, "leaseDurationSeconds"));
  record.acquire_time = StringOf(*spec, "acquireTime");
  record.renew_time = StringOf(*spec, "renewTime");
  record.transitions = IntOf(*spec, "leaseTransitions");
  return record;
}

LeaseAction DecideLease(const std::optional<LeaseRecord>& record, absl::Time observed,
                        const std::string& identity, absl::Time now) {
  if (!record.has_value()) {
    return LeaseAction::kCreate;
  }
  if (record->holder == identity) {
    return LeaseAction::kRenew;
  }
  if (record->holder.empty() || now >= observed + record->duration) {
    return LeaseAction::kAcquire;
  }
  return LeaseAction::kWait;
}

Json LeaseSpec(LeaseAction action, const std::optional<LeaseRecord>& record,
               const LeaseOptions& options, absl::Time wall_now) {
  const bool renew = action == LeaseAction::kRenew && record.has_value();
  int transitions = record.has_value() ? record->transitions : 0;
  if (action == LeaseAction::kAcquire) {
    ++transitions;
  }
  return {{"holderIdentity", options.identity},
          {"leaseDurationSeconds", absl::ToInt64Seconds(options.duration)},
          {"acquireTime", renew ? record->acquire_time : MicroTime(wall_now)},
          {"renewTime", MicroTime(wall_now)},
          {"leaseTransitions", transitions}};
}

LeaseElector::LeaseElector(Api& api, LeaseOptions options, Callbacks callbacks,
                           std::function<absl::Time()> now)
    : api_(api),
      options_(std::move(options)),
      callbacks_(std::move(callbacks)),
      now_(std::move(now)) {}

LeaseElector::~LeaseElector() { Stop(); }

void LeaseElector::Start() {
  talker_ = std::thread([this] { TalkLoop(); });
  watcher_ = std::thread([this] { WatchLoop(); });
}

void LeaseElector::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    changed_.SignalAll();
  }
  if (!talker_.joinable()) {
    return;
  }
  watcher_.join();  // after `stopped`
  talker_.join();
  Release();
}

bool LeaseElector::is_leader() const {
  absl::MutexLock lock(&mutex_);
  return !stopping_ && told_ == stint_ && LeadsLocked(now_());
}

std::string LeaseElector::leader() const {
  absl::MutexLock lock(&mutex_);
  return leader_;
}

void LeaseElector::ClockMoved() {
  absl::MutexLock lock(&mutex_);
  changed_.SignalAll();
}

void LeaseElector::SetObserved(const std::optional<LeaseRecord>& record) {
  if (record != record_ || observed_ == absl::InfinitePast()) {
    record_ = record;
    observed_ = now_();
  }
  const std::string holder = record.has_value() ? record->holder : "";
  {
    absl::MutexLock lock(&mutex_);
    if (holder == leader_) {
      return;
    }
    leader_ = holder;
  }
  if (callbacks_.leader != nullptr) {
    callbacks_.leader(holder);
  }
}

absl::Status LeaseElector::Try() {
  absl::StatusOr<Json> lease = api_.Get(kLeases, options_.key);
  if (!lease.ok() && !absl::IsNotFound(lease.status())) {
    return lease.status();
  }
  SetObserved(lease.ok() ? std::optional<LeaseRecord>(ParseLease(*lease)) : std::nullopt);
  const LeaseAction action = DecideLease(record_, observed_, options_.identity, now_());
  if (action == LeaseAction::kWait) {
    absl::MutexLock lock(&mutex_);
    leading_ = false;
    changed_.SignalAll();
    return absl::OkStatus();
  }
  // The lease runs from before it is written: others may see the write long before this process
  // hears of it.
  const absl::Time start = now_();
  Json object = lease.ok() ? *std::move(lease) : Json::object();
  object["apiVersion"] = kLeases.ApiVersion();
  object["kind"] = kLeases.kind;
  object["metadata"]["namespace"] = options_.key.ns;
  object["metadata"]["name"] = options_.key.name;
  object["spec"] = LeaseSpec(action, record_, options_, absl::Now());
  const absl::StatusOr<Json> written = action == LeaseAction::kCreate
                                           ? api_.Create(kLeases, options_.key.ns, object)
                                           : api_.Update(kLeases, object);
  if (!written.ok()) {
    return written.status();
  }
  SetObserved(ParseLease(*written));
  absl::MutexLock lock(&mutex_);
  // A stint ends when is_leader() may have said no: whoever asked has given up what it did, and
  // another process may have led. `started` says when to begin again.
  if (action != LeaseAction::kRenew || !LeadsLocked(now_())) {
    ++stint_;
  }
  leading_ = true;
  renewed_ = start;
  changed_.SignalAll();
  return absl::OkStatus();
}

void LeaseElector::TalkLoop() {
  bool failing = false;
  while (true) {
    const absl::Status status = Try();
    // Who comes second loses nothing but a round.
    const bool failed = !status.ok() && !absl::IsAborted(status) && !absl::IsAlreadyExists(status);
    if (failed && !failing) {
      spdlog::warn("lease {}/{}: {}; trying again", options_.key.ns, options_.key.name,
                   std::string(status.message()));
    }
    failing = failed;
    const absl::Duration pause = options_.retry_period * absl::Uniform(random_, 1.0, 1.2);
    absl::MutexLock lock(&mutex_);
    const absl::Time due = now_() + pause;
    while (!stopping_ && now_() < due) {
      changed_.WaitWithTimeout(&mutex_, due - now_());
    }
    if (stopping_) {
      return;
    }
  }
}

void LeaseElector::WatchLoop() {
  absl::MutexLock lock(&mutex_);
  while (true) {
    const absl::Time now = now_();
    const bool leads = !stopping_ && LeadsLocked(now);
    if (told_ != 0 && (!leads || told_ != stint_)) {
      told_ = 0;
      mutex_.Unlock();
      spdlog::warn("{} leads no more", options_.identity);
      callbacks_.stopped();
      mutex_.Lock();
    } else if (told_ == 0 && leads) {
      told_ = stint_;
      mutex_.Unlock();
      spdlog::info("{} leads now", options_.identity);
      callbacks_.started();
      mutex_.Lock();
    } else if (stopping_) {
      return;
    } else if (leads) {
      changed_.WaitWithTimeout(&mutex_, renewed_ + options_.renew_deadline - now);
    } else {
      changed_.Wait(&mutex_);
    }
  }
}

// After both threads have ended.
void LeaseElector::Release() {
  absl::StatusOr<Json> lease = api_.Get(kLeases, options_.key);
  if (!lease.ok() || ParseLease(*lease).holder != options_.identity) {
    return;
  }
  const LeaseRecord record = ParseLease(*lease);
  (*lease)["spec"] = {{"holderIdentity", ""},
                      {"leaseDurationSeconds", 1},
                      {"acquireTime", MicroTime(absl::Now())},
                      {"renewTime", MicroTime(absl::Now())},
                      {"leaseTransitions", record.transitions}};
  const absl::Status status = api_.Update(kLeases, *lease).status();
  if (!status.ok()) {
    spdlog::warn("the lease {}/{} stays until it runs out: {}", options_.key.ns, options_.key.name,
                 std::string(status.message()));
  }
}

}  // namespace moe::kube
