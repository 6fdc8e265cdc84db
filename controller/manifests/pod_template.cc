#include "controller/manifests/pod_template.h"

#include <array>
#include <string>
#include <string_view>

namespace moe::manifests {
namespace {

using kube::Json;

const Json* Find(const Json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() ? nullptr : &*found;
}

// The entry of `list` whose `key` has the value that `entry` has there, or null.
Json* FindSame(const Json& entry, const char* key, Json* list) {
  const Json* wanted = Find(entry, key);
  if (wanted == nullptr) return nullptr;
  for (Json& candidate : *list) {
    const Json* value = Find(candidate, key);
    if (value != nullptr && *value == *wanted) return &candidate;
  }
  return nullptr;
}

void MergeList(const Json& theirs, const char* key, void (*merge_entry)(const Json&, Json*),
               Json* ours) {
  if (!theirs.is_array()) return;
  if (!ours->is_array()) *ours = Json::array();
  for (const Json& entry : theirs) {
    if (!entry.is_object()) continue;
    if (Json* same = FindSame(entry, key, ours)) {
      merge_entry(entry, same);
    } else {
      ours->push_back(entry);
    }
  }
}

void ReplaceEntry(const Json& theirs, Json* ours) { *ours = theirs; }

void MergeContainer(const Json& theirs, Json* ours) {
  for (const auto& [key, value] : theirs.items()) {
    if (key == "env") {
      MergeList(value, "name", ReplaceEntry, &(*ours)[key]);
    } else if (key == "volumeMounts") {
      MergeList(value, "mountPath", ReplaceEntry, &(*ours)[key]);
    } else {
      (*ours)[key] = value;
    }
  }
}

bool IsOurs(const std::string& key) {
  constexpr std::array<std::string_view, 5> kOurs = {"restartPolicy", "schedulingGates", "hostname",
                                                     "subdomain", "nodeName"};
  for (const std::string_view ours : kOurs) {
    if (key == ours) return true;
  }
  return false;
}

void MergeMetadata(const Json& theirs, const char* map, Json* metadata) {
  const Json* entries = Find(theirs, map);
  if (entries == nullptr || !entries->is_object()) return;
  Json& ours = (*metadata)[map];
  if (!ours.is_object()) ours = Json::object();
  for (const auto& [key, value] : entries->items()) {
    if (!ours.contains(key)) ours[key] = value;
  }
}

}  // namespace

void MergePodTemplate(const Json& pod_template, Json* pod) {
  if (const Json* metadata = Find(pod_template, "metadata")) {
    MergeMetadata(*metadata, "labels", &(*pod)["metadata"]);
    MergeMetadata(*metadata, "annotations", &(*pod)["metadata"]);
  }
  const Json* spec = Find(pod_template, "spec");
  if (spec == nullptr || !spec->is_object()) return;
  Json& ours = (*pod)["spec"];
  for (const auto& [key, value] : spec->items()) {
    if (IsOurs(key)) continue;
    if (key == "containers" || key == "initContainers") {
      MergeList(value, "name", MergeContainer, &ours[key]);
    } else if (key == "volumes") {
      MergeList(value, "name", ReplaceEntry, &ours[key]);
    } else if (key == "tolerations") {
      if (!value.is_array()) continue;
      Json& tolerations = ours[key];
      if (!tolerations.is_array()) tolerations = Json::array();
      for (const Json& toleration : value) tolerations.push_back(toleration);
    } else {
      ours[key] = value;
    }
  }
}

}  // namespace moe::manifests
