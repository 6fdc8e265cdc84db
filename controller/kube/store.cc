#include "controller/kube/store.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/numbers.h"
#include "controller/kube/answer.h"

namespace moe::kube {
namespace {

bool HasLabels(const Json& object, const Store::Labels& labels) {
  return std::all_of(labels.begin(), labels.end(), [&object](const auto& label) {
    return LabelOf(object, label.first) == label.second;
  });
}

// Versions of one object are numbers that grow.
bool IsLater(const Json& one, const Json& other) {
  uint64_t version = 0;
  uint64_t other_version = 0;
  return absl::SimpleAtoi(MetadataString(one, "resourceVersion"), &version) &&
         absl::SimpleAtoi(MetadataString(other, "resourceVersion"), &other_version) &&
         version > other_version;
}

}  // namespace

Store::Object Store::Trim(Json object) const {
  const auto metadata = object.find("metadata");
  if (metadata != object.end() && metadata->is_object()) {
    metadata->erase("managedFields");
  }
  if (trim_ != nullptr) {
    trim_(&object);
  }
  return std::make_shared<const Json>(std::move(object));
}

Store::Object Store::Get(const ObjectKey& key) const {
  absl::MutexLock lock(&mutex_);
  const auto found = objects_.find(key);
  return found == objects_.end() ? nullptr : found->second;
}

std::vector<Store::Object> Store::List(const std::string& ns, const Labels& labels) const {
  absl::MutexLock lock(&mutex_);
  std::vector<Object> listed;
  // Keys are sorted by namespace first.
  for (auto at = objects_.lower_bound({.ns = ns, .name = ""});
       at != objects_.end() && (ns.empty() || at->first.ns == ns); ++at) {
    if (HasLabels(*at->second, labels)) {
      listed.push_back(at->second);
    }
  }
  return listed;
}

std::vector<Store::Object> Store::ListOwned(const std::string& ns, const std::string& owner) const {
  absl::MutexLock lock(&mutex_);
  std::vector<Object> listed;
  const auto owned = owned_.find({.ns = ns, .name = owner});
  if (owned != owned_.end()) {
    listed.reserve(owned->second.size());
    for (const auto& [key, object] : owned->second) {
      listed.push_back(object);
    }
  }
  return listed;
}

size_t Store::size() const {
  absl::MutexLock lock(&mutex_);
  return objects_.size();
}

bool Store::synced() const {
  absl::MutexLock lock(&mutex_);
  return synced_;
}

bool Store::AwaitSynced(absl::Duration timeout) const {
  absl::MutexLock lock(&mutex_);
  return mutex_.AwaitWithTimeout(absl::Condition(&synced_), timeout);
}

void Store::SetLocked(const ObjectKey& key, Object object, std::vector<Change>* changes) {
  std::string owner_before;
  const auto found = objects_.find(key);
  if (found != objects_.end()) {
    owner_before = LabelOf(*found->second, owner_label_);
    if (object != nullptr && MetadataString(*object, "resourceVersion") ==
                                 MetadataString(*found->second, "resourceVersion")) {
      return;
    }
    const auto owned = owned_.find({.ns = key.ns, .name = owner_before});
    owned->second.erase(key);
    if (owned->second.empty()) {
      owned_.erase(owned);
    }
  } else if (object == nullptr) {
    return;
  }
  std::string owner = owner_before;
  if (object != nullptr) {
    owner = LabelOf(*object, owner_label_);
    owned_[{.ns = key.ns, .name = owner}][key] = object;
    objects_[key] = std::move(object);
  } else {
    objects_.erase(found);
  }
  if (!owner_before.empty() && owner_before != owner) {
    changes->push_back({.key = key, .owner = owner_before});
  }
  changes->push_back({.key = key, .owner = owner});
}

void Store::Tell(const std::vector<Change>& changes) const {
  if (callback_ != nullptr) {
    for (const Change& change : changes) {
      callback_(change);
    }
  }
}

void Store::Learn(Json object) {
  const ObjectKey key = KeyOf(object);
  Object trimmed = Trim(std::move(object));
  std::vector<Change> changes;
  absl::MutexLock lock(&mutex_);
  const auto found = objects_.find(key);
  if (found != objects_.end() && IsLater(*trimmed, *found->second)) {
    SetLocked(key, std::move(trimmed), &changes);
  }
}

void Store::OnReplace(std::vector<Json> objects) {
  std::map<ObjectKey, Object> listed;
  for (Json& object : objects) {
    const ObjectKey key = KeyOf(object);
    listed[key] = Trim(std::move(object));
  }
  std::vector<Change> changes;
  {
    absl::MutexLock lock(&mutex_);
    std::vector<ObjectKey> gone;
    for (const auto& [key, object] : objects_) {
      if (!listed.contains(key)) {
        gone.push_back(key);
      }
    }
    for (const ObjectKey& key : gone) {
      SetLocked(key, nullptr, &changes);
    }
    for (auto& [key, object] : listed) {
      SetLocked(key, std::move(object), &changes);
    }
    synced_ = true;
  }
  Tell(changes);
}

void Store::OnUpsert(Json object) {
  const ObjectKey key = KeyOf(object);
  std::vector<Change> changes;
  {
    Object trimmed = Trim(std::move(object));
    absl::MutexLock lock(&mutex_);
    // The watch may still bring what was there before something that was learnt.
    const auto found = objects_.find(key);
    if (found != objects_.end() && IsLater(*found->second, *trimmed)) {
      return;
    }
    SetLocked(key, std::move(trimmed), &changes);
  }
  Tell(changes);
}

void Store::OnRemove(Json object) {
  std::vector<Change> changes;
  {
    absl::MutexLock lock(&mutex_);
    SetLocked(KeyOf(object), nullptr, &changes);
  }
  Tell(changes);
}

}  // namespace moe::kube
