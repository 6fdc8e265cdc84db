#include "controller/operator/applied_children.h"

#include <set>

#include "controller/kube/answer.h"
#include "controller/manifests/names.h"
#include "controller/operator/pod_state.h"

namespace moe::controller {
namespace {

using kube::Json;

// A cache may be this far behind what was just applied; then its word counts.
constexpr absl::Duration kCacheLag = absl::Seconds(5);

int64_t GenerationOf(const Json& object) {
  const Json::json_pointer generation("/metadata/generation");
  if (!object.contains(generation) || !object[generation].is_number_integer()) return 0;
  return object[generation].get<int64_t>();
}

}  // namespace

bool AppliedChildren::IsCurrent(const manifests::Child& child, const Json* live,
                                absl::Time now) const {
  const auto found = applied_.find({child.type.plural, kube::KeyOf(child.object)});
  if (found == applied_.end()) return false;
  const Applied& applied = found->second;
  if (applied.hash != manifests::AnnotationOf(child.object, manifests::kAnnotationHash)) {
    return false;
  }
  if (live != nullptr && kube::MetadataString(*live, "uid") == applied.uid) {
    if (GenerationOf(*live) > applied.generation) return false;
    if (manifests::AnnotationOf(*live, manifests::kAnnotationHash) == applied.hash) return true;
  }
  return now - applied.at < kCacheLag;
}

AppliedChildren::Difference AppliedChildren::Compare(const std::vector<manifests::Child>& desired,
                                                     const Lookup& lookup,
                                                     const std::vector<Live>& owned,
                                                     absl::Time now) const {
  Difference difference;
  std::set<Name> wanted;
  for (const manifests::Child& child : desired) {
    const kube::ObjectKey key = kube::KeyOf(child.object);
    wanted.insert({child.type.plural, key});
    const std::shared_ptr<const Json> live = lookup(child.type, key);
    if (!IsCurrent(child, live.get(), now)) difference.apply.push_back(child);
  }
  for (const Live& live : owned) {
    const kube::ObjectKey key = kube::KeyOf(*live.object);
    if (wanted.contains({live.type.plural, key}) || IsTerminating(*live.object)) continue;
    difference.remove.push_back({live.type, key, kube::MetadataString(*live.object, "uid")});
  }
  return difference;
}

void AppliedChildren::OnApplied(const manifests::Child& child, const Json& result, absl::Time now) {
  applied_[{child.type.plural, kube::KeyOf(child.object)}] = {
      .uid = kube::MetadataString(result, "uid"),
      .hash = manifests::AnnotationOf(child.object, manifests::kAnnotationHash),
      .generation = GenerationOf(result),
      .at = now};
}

}  // namespace moe::controller
