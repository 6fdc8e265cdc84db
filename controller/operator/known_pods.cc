#include "controller/operator/known_pods.h"

#include "controller/kube/answer.h"
#include "controller/manifests/names.h"
#include "controller/operator/pod_state.h"

namespace moe::controller {
namespace {

KnownPod Read(const JsonPtr& object) {
  return {.object = object,
          .name = kube::MetadataString(*object, "name"),
          .uid = kube::MetadataString(*object, "uid"),
          .component = manifests::LabelOf(*object, manifests::kLabelComponent),
          .controller_uid = ControllerOf(*object),
          .terminating = IsTerminating(*object),
          .ended = HasEnded(*object),
          .worker = ObservePod(*object)};
}

}  // namespace

const KnownPod& KnownPods::Of(const JsonPtr& pod) {
  Entry& entry = pods_[pod.get()];
  if (entry.pod.object == nullptr) entry.pod = Read(pod);
  entry.asked = true;
  return entry.pod;
}

void KnownPods::Sweep() {
  for (auto at = pods_.begin(); at != pods_.end();) {
    if (at->second.asked) {
      at->second.asked = false;
      ++at;
    } else {
      at = pods_.erase(at);
    }
  }
}

}  // namespace moe::controller
