#include "controller/operator/gang_arbiter.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace moe::controller {

std::map<kube::ObjectKey, int>::const_iterator GangArbiter::FindOther(
    const kube::ObjectKey& deployment) const {
  return std::find_if(in_flight_.begin(), in_flight_.end(),
                      [&](const auto& gang) { return gang.first != deployment; });
}

bool GangArbiter::Observe(const kube::ObjectKey& deployment, std::optional<int> group_in_flight) {
  absl::MutexLock lock(&mu_);
  if (group_in_flight.has_value()) {
    in_flight_[deployment] = *group_in_flight;
    return false;
  }
  return in_flight_.erase(deployment) > 0;
}

std::string GangArbiter::OtherInFlight(const kube::ObjectKey& deployment) const {
  absl::MutexLock lock(&mu_);
  const auto other = FindOther(deployment);
  if (other == in_flight_.end()) return "";
  return absl::StrCat(other->first.ns, "/", other->first.name, "/", other->second);
}

bool GangArbiter::TryStart(const kube::ObjectKey& deployment, int group) {
  absl::MutexLock lock(&mu_);
  if (FindOther(deployment) != in_flight_.end()) return false;
  in_flight_[deployment] = group;
  return true;
}

bool GangArbiter::SetWaiting(const kube::ObjectKey& deployment, bool waits) {
  absl::MutexLock lock(&mu_);
  if (waits) return waiting_.insert(deployment).second;
  waiting_.erase(deployment);
  return false;
}

bool GangArbiter::OthersWait(const kube::ObjectKey& deployment) const {
  absl::MutexLock lock(&mu_);
  return waiting_.size() > waiting_.count(deployment);
}

void GangArbiter::Clear() {
  absl::MutexLock lock(&mu_);
  in_flight_.clear();
  waiting_.clear();
}

}  // namespace moe::controller
