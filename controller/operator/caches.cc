#include "controller/operator/caches.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "controller/kube/answer.h"
#include "controller/kube/resource_types.h"
#include "controller/manifests/children.h"
#include "controller/manifests/names.h"
#include "controller/operator/observe_nodes.h"

namespace moe::controller {

using kube::ObjectKey;
using kube::ResourceType;

namespace {

// API servers count versions up; what is no number counts as the oldest.
uint64_t VersionOf(const kube::Json& object) {
  uint64_t version = 0;
  return absl::SimpleAtoi(kube::MetadataString(object, "resourceVersion"), &version) ? version : 0;
}

bool WantsGpuNodes(const kube::Json& deployment) {
  const kube::Json::json_pointer mode("/spec/parallelism/mode");
  const kube::Json::json_pointer backend("/spec/backend");
  return deployment.contains(mode) && deployment[mode] == "Auto" && deployment.contains(backend) &&
         deployment[backend] == "CUDA";
}

}  // namespace

Caches::Caches(kube::Client& client, CachesOptions options, Changed changed)
    : changed_(std::move(changed)) {
  AddType(client, options, kube::kMoeDeployments, "", options.namespaces);
  AddType(client, options, kube::kPods, manifests::ManagedSelector(), options.namespaces);
  for (const ResourceType& type : manifests::ChildTypes()) {
    AddType(client, options, type, manifests::ManagedSelector(), options.namespaces);
  }
  if (options.nodes) {
    AddType(client, options, kube::kNodes, kGpuProductLabel, {});
    watched_[kube::kNodes.plural].front()->store.SetTrim(TrimNode);
  }
}

Caches::~Caches() { Stop(); }

void Caches::AddType(kube::Client& client, const CachesOptions& options, const ResourceType& type,
                     const std::string& selector, std::vector<std::string> namespaces) {
  if (namespaces.empty()) namespaces.push_back("");
  for (const std::string& ns : namespaces) {
    auto watched = std::make_unique<Watched>();
    watched->ns = ns;
    watched->store.SetChangeCallback(
        [this, type](const kube::Store::Change& change) { OnChange(type, change); });
    watched->reflector = std::make_unique<kube::Reflector>(
        client,
        kube::ReflectorOptions{
            .type = type, .ns = ns, .selector = selector, .first_backoff = options.first_backoff},
        watched->store);
    watched_[type.plural].push_back(std::move(watched));
  }
}

void Caches::OnChange(const ResourceType& type, const kube::Store::Change& change) const {
  {
    // What the watch has brought, or what is gone, needs not be remembered.
    const Watched* watched = Find(type, change.key.ns);
    const Object cached = watched == nullptr ? nullptr : watched->store.Get(change.key);
    absl::MutexLock lock(&mu_);
    const auto found = learned_.find({type.plural, change.key});
    if (found != learned_.end() &&
        (cached == nullptr || VersionOf(*cached) >= VersionOf(*found->second))) {
      learned_.erase(found);
    }
  }
  if (type.plural == kube::kMoeDeployments.plural) {
    changed_(change.key);
  } else if (type.plural == kube::kNodes.plural) {
    for (const Object& deployment : List(kube::kMoeDeployments)) {
      if (WantsGpuNodes(*deployment)) changed_(kube::KeyOf(*deployment));
    }
  } else if (!change.owner.empty()) {
    changed_({change.key.ns, change.owner});
  } else if (type.plural == kube::kConfigMaps.plural) {
    // The CA bundle is for all of its namespace.
    for (const Object& deployment : List(kube::kMoeDeployments, change.key.ns)) {
      changed_(kube::KeyOf(*deployment));
    }
  }
}

void Caches::Start() {
  for (const auto& [plural, list] : watched_) {
    if (plural == kube::kPods.plural) continue;
    for (const auto& watched : list) watched->reflector->Start();
  }
}

void Caches::StartPods() {
  absl::MutexLock lock(&mu_);
  if (std::exchange(pods_started_, true)) return;
  for (const auto& watched : watched_.at(kube::kPods.plural)) watched->reflector->Start();
}

void Caches::Stop() {
  for (const auto& [plural, list] : watched_) {
    for (const auto& watched : list) watched->reflector->Stop();
  }
}

bool Caches::synced() const {
  bool with_pods = false;
  {
    absl::MutexLock lock(&mu_);
    with_pods = pods_started_;
  }
  for (const auto& [plural, list] : watched_) {
    if (plural == kube::kNodes.plural || (plural == kube::kPods.plural && !with_pods)) continue;
    for (const auto& watched : list) {
      if (!watched->store.synced()) return false;
    }
  }
  return true;
}

const Caches::Watched* Caches::Find(const ResourceType& type, const std::string& ns) const {
  const auto found = watched_.find(type.plural);
  if (found == watched_.end()) return nullptr;
  for (const auto& watched : found->second) {
    if (watched->ns.empty() || watched->ns == ns) return watched.get();
  }
  return nullptr;
}

Caches::Object Caches::Get(const ResourceType& type, const ObjectKey& key) const {
  const Watched* watched = Find(type, key.ns);
  return watched == nullptr ? nullptr : Newest(type, watched->store.Get(key));
}

std::vector<Caches::Object> Caches::List(const ResourceType& type, const std::string& ns) const {
  std::vector<Object> objects;
  const auto found = watched_.find(type.plural);
  if (found == watched_.end()) return objects;
  for (const auto& watched : found->second) {
    if (!ns.empty() && !watched->ns.empty() && watched->ns != ns) continue;
    for (Object& object : watched->store.List(ns)) objects.push_back(std::move(object));
  }
  return objects;
}

std::optional<std::vector<Caches::Object>> Caches::GpuNodes() const {
  const auto found = watched_.find(kube::kNodes.plural);
  if (found == watched_.end() || !found->second.front()->store.synced()) return std::nullopt;
  return found->second.front()->store.List();
}

std::vector<Caches::Object> Caches::Owned(const ResourceType& type,
                                          const ObjectKey& deployment) const {
  const Watched* watched = Find(type, deployment.ns);
  if (watched == nullptr) return {};
  std::vector<Object> objects = watched->store.ListOwned(deployment.ns, deployment.name);
  absl::MutexLock lock(&mu_);
  if (learned_.empty()) return objects;
  for (Object& object : objects) object = NewestLocked(type, std::move(object));
  return objects;
}

void Caches::Learn(const ResourceType& type, kube::Json object) {
  const ObjectKey key = kube::KeyOf(object);
  absl::MutexLock lock(&mu_);
  learned_[{type.plural, key}] = std::make_shared<const kube::Json>(std::move(object));
}

Caches::Object Caches::Newest(const ResourceType& type, Object cached) const {
  if (cached == nullptr) return cached;
  absl::MutexLock lock(&mu_);
  return NewestLocked(type, std::move(cached));
}

Caches::Object Caches::NewestLocked(const ResourceType& type, Object cached) const {
  const auto found = learned_.find({type.plural, kube::KeyOf(*cached)});
  if (found == learned_.end()) return cached;
  if (kube::MetadataString(*found->second, "uid") == kube::MetadataString(*cached, "uid") &&
      VersionOf(*found->second) > VersionOf(*cached)) {
    return found->second;
  }
  learned_.erase(found);
  return cached;
}

int64_t Caches::num_watch_restarts() const {
  int64_t num = 0;
  for (const auto& [plural, list] : watched_) {
    for (const auto& watched : list) {
      const kube::ReflectorCounters counters = watched->reflector->counters();
      num += counters.num_relists + (counters.num_watches > 0 ? counters.num_watches - 1 : 0);
    }
  }
  return num;
}

}  // namespace moe::controller
