#include "tests/controller/kube/fake_objects.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"

namespace moe::kube::testing {
namespace {

constexpr size_t kMaxHistory = 20000;

std::string Now() {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::Now(), absl::UTCTimeZone());
}

bool HasStatus(const std::string& type) {
  static const auto* const kWithout =
      new std::set<std::string>{"/secrets",
                                "/configmaps",
                                "/serviceaccounts",
                                "coordination.k8s.io/leases",
                                "events.k8s.io/events",
                                "/events",
                                "networking.k8s.io/networkpolicies"};
  return !kWithout->contains(type);
}

FakeAnswer NotFound(const std::string& type, const ObjectKey& key) {
  return ErrorAnswer(404, "NotFound", absl::StrCat(type, " \"", key.name, "\" not found"));
}

FakeAnswer Conflict(const ObjectKey& key, const std::string& why) {
  return ErrorAnswer(409, "Conflict",
                     absl::StrCat("Operation cannot be fulfilled on \"", key.name, "\": ", why));
}

// Null when the names agree.
std::optional<FakeAnswer> CheckIdentity(const ResourceType& type, const ObjectKey& key,
                                        const Json& object) {
  if (!object.is_object() || object.value("apiVersion", "") != type.ApiVersion() ||
      object.value("kind", "") != type.kind) {
    return ErrorAnswer(400, "BadRequest",
                       absl::StrCat("the object is no ", type.ApiVersion(), " ", type.kind));
  }
  const std::string name = MetaString(object, "name");
  const std::string ns = MetaString(object, "namespace");
  if (name.empty()) {
    return ErrorAnswer(422, "Invalid", "metadata.name: Required value");
  }
  if (name != key.name || (!ns.empty() && ns != key.ns)) {
    return ErrorAnswer(400, "BadRequest", "the object's name is not that of the request");
  }
  return std::nullopt;
}

std::set<std::string> GatesOf(const Json& pod) {
  std::set<std::string> gates;
  const Json spec = pod.value("spec", Json::object());
  for (const Json& gate : spec.value("schedulingGates", Json::array())) {
    gates.insert(gate.value("name", ""));
  }
  return gates;
}

// What `before` has and `after` lacks, as a merge patch that removes it.
Json Removals(const Json& before, const Json& after) {
  Json patch = Json::object();
  for (const auto& [name, value] : before.items()) {
    if (!after.contains(name)) {
      patch[name] = nullptr;
    } else if (value.is_object() && after[name].is_object()) {
      Json inner = Removals(value, after[name]);
      if (!inner.empty()) {
        patch[name] = std::move(inner);
      }
    }
  }
  return patch;
}

}  // namespace

std::string TypeName(const ResourceType& type) {
  return absl::StrCat(type.group, "/", type.plural);
}

FakeAnswer ErrorAnswer(int code, const std::string& reason, const std::string& message,
                       const std::string& cause) {
  Json body = {{"kind", "Status"},    {"apiVersion", "v1"}, {"metadata", Json::object()},
               {"status", "Failure"}, {"message", message}, {"reason", reason},
               {"code", code}};
  if (!cause.empty()) {
    body["details"] = {{"causes", Json::array({{{"reason", cause}, {"message", message}}})}};
  }
  return {.code = code, .body = std::move(body)};
}

std::string MetaString(const Json& object, const std::string& field) {
  if (!object.contains("metadata") || !object["metadata"].contains(field) ||
      !object["metadata"][field].is_string()) {
    return "";
  }
  return object["metadata"][field].get<std::string>();
}

bool MatchesSelector(const Json& object, const std::string& selector) {
  const Json metadata = object.value("metadata", Json::object());
  const Json labels = metadata.value("labels", Json::object());
  for (absl::string_view part : absl::StrSplit(selector, ',', absl::SkipEmpty())) {
    const size_t at = part.find('=');
    if (at == absl::string_view::npos) {
      const bool wanted = !absl::ConsumePrefix(&part, "!");
      if (labels.contains(std::string(part)) != wanted) {
        return false;
      }
      continue;
    }
    absl::string_view name = part.substr(0, at);
    const bool negated = absl::ConsumeSuffix(&name, "!");
    absl::string_view value = part.substr(at + 1);
    absl::ConsumePrefix(&value, "=");
    const std::string found = labels.value(std::string(name), "");
    const bool equal = labels.contains(std::string(name)) && found == value;
    if (equal == negated) {
      return false;
    }
  }
  return true;
}

Json* FakeObjects::FindLocked(const std::string& type, const ObjectKey& key) {
  const auto objects = types_.find(type);
  if (objects == types_.end()) {
    return nullptr;
  }
  const auto found = objects->second.find(key);
  return found == objects->second.end() ? nullptr : &found->second;
}

Json FakeObjects::StoreLocked(const std::string& type, const ObjectKey& key, Json object) {
  Json* const stored = FindLocked(type, key);
  if (stored != nullptr) {
    object["metadata"]["resourceVersion"] = (*stored)["metadata"]["resourceVersion"];
    if (object == *stored) {
      return object;
    }
  }
  object["metadata"]["resourceVersion"] = absl::StrCat(++version_);
  history_.push_back({.version = version_,
                      .type = type,
                      .before = stored == nullptr ? Json() : *stored,
                      .after = object});
  if (history_.size() > kMaxHistory) {
    trimmed_ = history_.front().version;
    compacted_ = std::max(compacted_, trimmed_);
    history_.pop_front();
  }
  types_[type][key] = object;
  return object;
}

FakeAnswer FakeObjects::CreateLocked(const ResourceType& type, const std::string& ns, Json object,
                                     bool dry_run) {
  const std::string type_name = TypeName(type);
  const ObjectKey key{.ns = ns, .name = MetaString(object, "name")};
  if (const auto error = CheckIdentity(type, key, object)) {
    return *error;
  }
  if (terminating_.contains(ns)) {
    return ErrorAnswer(403, "Forbidden",
                       absl::StrCat("unable to create new content in namespace ", ns,
                                    " because it is being terminated"),
                       "NamespaceTerminating");
  }
  if (FindLocked(type_name, key) != nullptr) {
    return ErrorAnswer(409, "AlreadyExists",
                       absl::StrCat(type_name, " \"", key.name, "\" already exists"));
  }
  if (!MetaString(object, "resourceVersion").empty()) {
    return ErrorAnswer(422, "Invalid",
                       "resourceVersion should not be set on objects to be created");
  }
  Json& metadata = object["metadata"];
  if (type.namespaced) {
    metadata["namespace"] = ns;
  }
  metadata["uid"] = absl::StrFormat("00000000-0000-4000-8000-%012d", next_uid_++);
  metadata["creationTimestamp"] = Now();
  metadata["generation"] = 1;
  if (HasStatus(type_name)) {
    object.erase("status");
    if (type_name == "/pods") {
      object["status"] = {{"phase", "Pending"}};
    }
  }
  if (dry_run) {
    return {.code = 201, .body = std::move(object)};
  }
  object = StoreLocked(type_name, key, std::move(object));
  FakeAnswer answer{.code = 201, .body = object};
  // The garbage collector finds that every owner is gone, some time after the create.
  if (OrphanedLocked(object)) {
    DeleteLocked(type_name, key, Json());
  }
  return answer;
}

FakeAnswer FakeObjects::Create(const ResourceType& type, const std::string& ns, Json object,
                               bool dry_run) {
  absl::MutexLock lock(&mutex_);
  return CreateLocked(type, ns, std::move(object), dry_run);
}

FakeAnswer FakeObjects::Get(const ResourceType& type, const ObjectKey& key) const {
  const std::optional<Json> found = Find(type, key);
  return found.has_value() ? FakeAnswer{.code = 200, .body = *found}
                           : NotFound(TypeName(type), key);
}

FakeAnswer FakeObjects::ListPage(const ResourceType& type, const std::string& ns,
                                 const std::string& selector, size_t limit,
                                 const std::string& token) {
  absl::MutexLock lock(&mutex_);
  Page page{.version = version_};
  if (token.empty()) {
    for (const auto& [key, object] : types_[TypeName(type)]) {
      if ((ns.empty() || key.ns == ns) && MatchesSelector(object, selector)) {
        page.rest.push_back(object);
      }
    }
  } else {
    const auto found = pages_.find(token);
    if (found == pages_.end() || found->second.version < compacted_) {
      return ErrorAnswer(410, "Expired", "The provided continue parameter is too old");
    }
    page = std::move(found->second);
    pages_.erase(found);
  }
  Json metadata = {{"resourceVersion", absl::StrCat(page.version)}};
  const size_t count = limit == 0 ? page.rest.size() : std::min(limit, page.rest.size());
  Json items = Json::array();
  for (size_t i = 0; i < count; ++i) {
    items.push_back(page.rest[i]);
    // As the real one: the items of a list say neither kind nor version.
    items.back().erase("kind");
    items.back().erase("apiVersion");
  }
  page.rest.erase(page.rest.begin(), page.rest.begin() + static_cast<std::ptrdiff_t>(count));
  if (!page.rest.empty()) {
    const std::string next = absl::StrCat("page-", next_page_++);
    metadata["continue"] = next;
    metadata["remainingItemCount"] = page.rest.size();
    pages_[next] = std::move(page);
  }
  return {.code = 200,
          .body = {{"kind", type.kind + "List"},
                   {"apiVersion", type.ApiVersion()},
                   {"metadata", std::move(metadata)},
                   {"items", std::move(items)}}};
}

// A write to an object that exists: `object` is its new state, as far as `part` may change it.
FakeAnswer FakeObjects::WriteLocked(const ResourceType& type, const ObjectKey& key, Json object,
                                    Part part) {
  const std::string type_name = TypeName(type);
  const Json before = *FindLocked(type_name, key);
  Json after = before;
  if (part == Part::kStatus) {
    if (!HasStatus(type_name)) {
      return NotFound(type_name + "/status", key);
    }
    after.erase("status");
    if (object.contains("status")) {
      after["status"] = object["status"];
    }
  } else {
    after = std::move(object);
    for (const char* field : {"uid", "creationTimestamp", "generation", "namespace",
                              "deletionTimestamp", "deletionGracePeriodSeconds"}) {
      after["metadata"].erase(field);
      if (before["metadata"].contains(field)) {
        after["metadata"][field] = before["metadata"][field];
      }
    }
    if (HasStatus(type_name)) {
      after.erase("status");
      if (before.contains("status")) {
        after["status"] = before["status"];
      }
    }
    if (type_name == "/pods") {
      for (const std::string& gate : GatesOf(after)) {
        if (!GatesOf(before).contains(gate)) {
          return ErrorAnswer(422, "Invalid",
                             "spec.schedulingGates: Forbidden: only deletion is allowed");
        }
      }
    }
    if (before.value("spec", Json()) != after.value("spec", Json())) {
      after["metadata"]["generation"] = before["metadata"].value("generation", 1) + 1;
    }
  }
  after = StoreLocked(type_name, key, std::move(after));
  // The last finalizer is gone.
  if (after["metadata"].contains("deletionTimestamp") &&
      !after["metadata"].contains("deletionGracePeriodSeconds") &&
      after["metadata"].value("finalizers", Json::array()).empty()) {
    RemoveLocked(type_name, key);
  }
  return {.code = 200, .body = std::move(after)};
}

FakeAnswer FakeObjects::Replace(const ResourceType& type, const ObjectKey& key, Json object,
                                Part part) {
  absl::MutexLock lock(&mutex_);
  const std::string type_name = TypeName(type);
  if (const auto error = CheckIdentity(type, key, object)) {
    return *error;
  }
  const Json* const stored = FindLocked(type_name, key);
  if (stored == nullptr) {
    return NotFound(type_name, key);
  }
  if (MetaString(object, "resourceVersion").empty()) {
    return ErrorAnswer(422, "Invalid",
                       "metadata.resourceVersion: Invalid value: must be specified for an update");
  }
  if (MetaString(object, "resourceVersion") != MetaString(*stored, "resourceVersion")) {
    return Conflict(key, "the object has been modified");
  }
  return WriteLocked(type, key, std::move(object), part);
}

FakeAnswer FakeObjects::MergePatch(const ResourceType& type, const ObjectKey& key,
                                   const Json& patch, Part part) {
  absl::MutexLock lock(&mutex_);
  const Json* const stored = FindLocked(TypeName(type), key);
  if (stored == nullptr) {
    return NotFound(TypeName(type), key);
  }
  for (const char* field : {"resourceVersion", "uid"}) {
    const std::string wanted = MetaString(patch, field);
    if (!wanted.empty() && wanted != MetaString(*stored, field)) {
      return Conflict(key, absl::StrCat("Precondition failed: ", field));
    }
  }
  Json after = *stored;
  after.merge_patch(patch);
  // The server's way to be told to forget who wrote what.
  Json& metadata = after["metadata"];
  if (metadata.contains("managedFields") &&
      metadata["managedFields"] == Json::array({Json::object()})) {
    metadata.erase("managedFields");
  }
  return WriteLocked(type, key, std::move(after), part);
}

FakeAnswer FakeObjects::Apply(const ResourceType& type, const ObjectKey& key, const Json& object,
                              const std::string& manager) {
  absl::MutexLock lock(&mutex_);
  const std::string type_name = TypeName(type);
  if (const auto error = CheckIdentity(type, key, object)) {
    return *error;
  }
  if (manager.empty()) {
    return ErrorAnswer(422, "Invalid", "fieldManager: Required value: is required for apply patch");
  }
  const auto with_manager = [&manager](Json changed) {
    const Json entry = {{"manager", manager}, {"operation", "Apply"}};
    Json& managers = changed["metadata"]["managedFields"];
    if (!managers.is_array()) {
      managers = Json::array();
    }
    if (std::find(managers.begin(), managers.end(), entry) == managers.end()) {
      managers.push_back(entry);
    }
    return changed;
  };
  const std::string version = MetaString(object, "resourceVersion");
  const Json* const stored = FindLocked(type_name, key);
  FakeAnswer answer;
  if (stored == nullptr) {
    answer = version.empty() ? CreateLocked(type, key.ns, with_manager(object), /*dry_run=*/false)
                             : NotFound(type_name, key);
  } else if (!version.empty() && version != MetaString(*stored, "resourceVersion")) {
    return Conflict(key, "the object has been modified");
  } else {
    Json after = *stored;
    const auto last = applied_.find({MetaString(*stored, "uid"), manager});
    if (last != applied_.end()) {
      after.merge_patch(Removals(last->second, object));
    }
    after.merge_patch(object);
    answer = WriteLocked(type, key, with_manager(std::move(after)), Part::kAll);
  }
  if (answer.ok()) {
    applied_[{MetaString(answer.body, "uid"), manager}] = object;
  }
  return answer;
}

}  // namespace moe::kube::testing
