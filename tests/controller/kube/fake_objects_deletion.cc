// FakeObjects: how objects end, what somebody else does, and the history for watches.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "tests/controller/kube/fake_objects.h"

namespace moe::kube::testing {
namespace {

constexpr int kDefaultGraceSeconds = 30;

// How long a pod may take to end: nothing when no kubelet runs it.
int GraceOf(const Json& pod, const Json& options) {
  const Json spec = pod.value("spec", Json::object());
  const Json status = pod.value("status", Json::object());
  const std::string phase = status.value("phase", "");
  if (spec.value("nodeName", "").empty() || phase == "Failed" || phase == "Succeeded") {
    return 0;
  }
  const int own = spec.value("terminationGracePeriodSeconds", kDefaultGraceSeconds);
  return options.is_object() ? options.value("gracePeriodSeconds", own) : own;
}

}  // namespace

void FakeObjects::RemoveLocked(const std::string& type, const ObjectKey& key) {
  Objects& objects = types_[type];
  const auto found = objects.find(key);
  Json last = found->second;
  const std::string uid = MetaString(last, "uid");
  last["metadata"]["resourceVersion"] = absl::StrCat(++version_);
  history_.push_back({.version = version_,
                      .type = type,
                      .before = std::move(found->second),
                      .after = std::move(last),
                      .deleted = true});
  objects.erase(found);
  gone_uids_.insert(uid);
  DeleteDependentsLocked(uid);
}

bool FakeObjects::OrphanedLocked(const Json& object) const {
  const Json owners = object["metadata"].value("ownerReferences", Json::array());
  return !owners.empty() && std::all_of(owners.begin(), owners.end(), [this](const Json& owner) {
    mutex_.AssertHeld();
    return gone_uids_.contains(owner.value("uid", ""));
  });
}

void FakeObjects::DeleteDependentsLocked(const std::string& uid) {
  std::vector<std::pair<std::string, ObjectKey>> dependents;
  for (const auto& [type, objects] : types_) {
    for (const auto& [key, object] : objects) {
      for (const Json& owner : object["metadata"].value("ownerReferences", Json::array())) {
        if (owner.value("uid", "") == uid && OrphanedLocked(object)) {
          dependents.emplace_back(type, key);
          break;
        }
      }
    }
  }
  for (const auto& [type, key] : dependents) {
    if (FindLocked(type, key) != nullptr) {
      DeleteLocked(type, key, Json());
    }
  }
}

FakeAnswer FakeObjects::DeleteLocked(const std::string& type, const ObjectKey& key,
                                     const Json& options) {
  const Json* const stored = FindLocked(type, key);
  if (stored == nullptr) {
    return ErrorAnswer(404, "NotFound", absl::StrCat(type, " \"", key.name, "\" not found"));
  }
  const Json wanted =
      options.is_object() ? options.value("preconditions", Json::object()) : Json::object();
  for (const char* field : {"uid", "resourceVersion"}) {
    if (wanted.contains(field) && wanted[field] != MetaString(*stored, field)) {
      return ErrorAnswer(409, "Conflict",
                         absl::StrCat("Precondition failed: ", field,
                                      " in precondition: ", wanted[field].get<std::string>(), ", ",
                                      field, " in object meta: ", MetaString(*stored, field)));
    }
  }
  Json object = *stored;
  const bool has_finalizers = !object["metadata"].value("finalizers", Json::array()).empty();
  const int grace = type == "/pods" ? GraceOf(object, options) : 0;
  if (grace == 0 && !has_finalizers) {
    const bool foreground =
        options.is_object() && options.value("propagationPolicy", "") == "Foreground";
    if (foreground) {
      gone_uids_.insert(MetaString(object, "uid"));
      DeleteDependentsLocked(MetaString(object, "uid"));
    }
    RemoveLocked(type, key);
    return {.code = 200, .body = {{"kind", "Status"}, {"apiVersion", "v1"}, {"status", "Success"}}};
  }
  if (!object["metadata"].contains("deletionTimestamp")) {
    object["metadata"]["deletionTimestamp"] = absl::FormatTime(
        "%Y-%m-%dT%H:%M:%SZ", absl::Now() + absl::Seconds(grace), absl::UTCTimeZone());
    if (grace > 0) {
      object["metadata"]["deletionGracePeriodSeconds"] = grace;
    }
    object = StoreLocked(type, key, std::move(object));
  }
  return {.code = 200, .body = std::move(object)};
}

FakeAnswer FakeObjects::Delete(const ResourceType& type, const ObjectKey& key,
                               const Json& options) {
  absl::MutexLock lock(&mutex_);
  return DeleteLocked(TypeName(type), key, options);
}

Json FakeObjects::Put(const ResourceType& type, Json object) {
  absl::MutexLock lock(&mutex_);
  const ObjectKey key{.ns = MetaString(object, "namespace"), .name = MetaString(object, "name")};
  const Json* const stored = FindLocked(TypeName(type), key);
  object["apiVersion"] = type.ApiVersion();
  object["kind"] = type.kind;
  Json& metadata = object["metadata"];
  if (stored != nullptr) {
    metadata["uid"] = (*stored)["metadata"]["uid"];
    metadata["creationTimestamp"] = (*stored)["metadata"]["creationTimestamp"];
  } else {
    if (!metadata.contains("uid")) {
      metadata["uid"] = absl::StrFormat("00000000-0000-4000-8000-%012d", next_uid_++);
    }
    metadata["creationTimestamp"] =
        absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::Now(), absl::UTCTimeZone());
  }
  if (!metadata.contains("generation")) {
    metadata["generation"] = 1;
  }
  return StoreLocked(TypeName(type), key, std::move(object));
}

std::optional<Json> FakeObjects::Find(const ResourceType& type, const ObjectKey& key) const {
  absl::MutexLock lock(&mutex_);
  const auto objects = types_.find(TypeName(type));
  if (objects == types_.end()) {
    return std::nullopt;
  }
  const auto found = objects->second.find(key);
  return found == objects->second.end() ? std::nullopt : std::optional<Json>(found->second);
}

std::vector<Json> FakeObjects::All(const ResourceType& type, const std::string& ns) const {
  absl::MutexLock lock(&mutex_);
  std::vector<Json> all;
  const auto objects = types_.find(TypeName(type));
  if (objects != types_.end()) {
    for (const auto& [key, object] : objects->second) {
      if (ns.empty() || key.ns == ns) {
        all.push_back(object);
      }
    }
  }
  return all;
}

bool FakeObjects::Edit(const ResourceType& type, const ObjectKey& key,
                       const std::function<void(Json&)>& change) {
  absl::MutexLock lock(&mutex_);
  const Json* const stored = FindLocked(TypeName(type), key);
  if (stored == nullptr) {
    return false;
  }
  Json object = *stored;
  change(object);
  if ((*stored).value("spec", Json()) != object.value("spec", Json())) {
    object["metadata"]["generation"] = object["metadata"].value("generation", 1) + 1;
  }
  StoreLocked(TypeName(type), key, std::move(object));
  return true;
}

bool FakeObjects::Finish(const ResourceType& type, const ObjectKey& key) {
  absl::MutexLock lock(&mutex_);
  if (FindLocked(TypeName(type), key) == nullptr) {
    return false;
  }
  RemoveLocked(TypeName(type), key);
  return true;
}

void FakeObjects::TerminateNamespace(const std::string& ns) {
  absl::MutexLock lock(&mutex_);
  terminating_.insert(ns);
}

void FakeObjects::Compact() {
  absl::MutexLock lock(&mutex_);
  // Above every list that was ever answered, so that its version is forgotten too.
  compacted_ = ++version_;
}

bool FakeObjects::Await(const ResourceType& type, const ObjectKey& key,
                        const std::function<bool(const Json* object)>& condition,
                        absl::Duration timeout) {
  absl::MutexLock lock(&mutex_);
  const auto holds = [&] {
    mutex_.AssertHeld();
    return condition(FindLocked(TypeName(type), key));
  };
  return mutex_.AwaitWithTimeout(absl::Condition(&holds), timeout);
}

int64_t FakeObjects::version() const {
  absl::MutexLock lock(&mutex_);
  return version_;
}

bool FakeObjects::Remembers(int64_t version) const {
  absl::MutexLock lock(&mutex_);
  return version >= compacted_;
}

std::optional<FakeObjects::Changes> FakeObjects::ChangesAfter(const ResourceType& type,
                                                              int64_t version) const {
  absl::MutexLock lock(&mutex_);
  if (version < trimmed_) {
    return std::nullopt;
  }
  Changes changes{.version = version_};
  for (auto change = history_.rbegin(); change != history_.rend() && change->version > version;
       ++change) {
    if (change->type == TypeName(type)) {
      changes.list.push_back(*change);
    }
  }
  std::reverse(changes.list.begin(), changes.list.end());
  return changes;
}

void FakeObjects::AwaitChange(int64_t version, absl::Duration timeout) const {
  absl::MutexLock lock(&mutex_);
  const auto changed = [this, version] {
    mutex_.AssertHeld();
    return version_ > version;
  };
  mutex_.AwaitWithTimeout(absl::Condition(&changed), timeout);
}

}  // namespace moe::kube::testing
