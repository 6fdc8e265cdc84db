#include "controller/manifests/names.h"

#include <cstdint>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace moe::manifests {
namespace {

using kube::Json;

std::string TextAt(const Json& object, const char* map, const std::string& key) {
  const auto metadata = object.find("metadata");
  if (metadata == object.end() || !metadata->is_object()) return "";
  const auto entries = metadata->find(map);
  if (entries == metadata->end() || !entries->is_object()) return "";
  const auto entry = entries->find(key);
  if (entry == entries->end() || !entry->is_string()) return "";
  return entry->get<std::string>();
}

}  // namespace

std::string ManagedSelector() { return absl::StrCat(kLabelManagedBy, "=", kProduct); }

std::string WorkerPodName(const std::string& deployment, int group, int slot, int incarnation) {
  return absl::StrCat(deployment, "-g", group, "-s", slot, "-", incarnation);
}

std::string InspectPodName(const std::string& deployment) {
  return absl::StrCat(deployment, "-", kInspect);
}

std::string GroupName(const std::string& deployment, int group) {
  return absl::StrCat(deployment, "-g", group);
}

std::string GatewayName(const std::string& deployment) {
  return absl::StrCat(deployment, "-", kGateway);
}

std::string WorkerAccountName(const std::string& deployment) {
  return absl::StrCat(deployment, "-", kWorker);
}

Json ChildLabels(const std::string& deployment, const std::string& component) {
  return Json{{kLabelName, kProduct},
              {kLabelManagedBy, kProduct},
              {kLabelInstance, deployment},
              {kLabelComponent, component},
              {kLabelDeployment, deployment}};
}

Json PodSelector(const std::string& deployment, const std::string& component) {
  return Json{{kLabelComponent, component}, {kLabelDeployment, deployment}};
}

std::string LabelOf(const Json& object, const std::string& label) {
  return TextAt(object, "labels", label);
}

std::string AnnotationOf(const Json& object, const std::string& annotation) {
  return TextAt(object, "annotations", annotation);
}

std::optional<int> NumberOf(const std::string& text) {
  int value = 0;
  // SimpleAtoi alone would allow spaces and signs.
  for (const char c : text) {
    if (!absl::ascii_isdigit(static_cast<unsigned char>(c))) return std::nullopt;
  }
  if (text.size() > 9 || !absl::SimpleAtoi(text, &value)) return std::nullopt;
  return value;
}

std::string ContentHash(const Json& object) {
  // FNV-1a: it has to be the same in every build, and nobody gains from two objects that collide.
  // Keys of a JSON object are sorted.
  uint64_t hash = 14695981039346656037u;
  for (const char c : object.dump(-1, ' ', false, Json::error_handler_t::replace)) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
  }
  return absl::StrFormat("%016x", hash);
}

}  // namespace moe::manifests
