#include "controller/operator/gang_arbiter.h"

#include "absl/strings/str_cat.h"

namespace moe::controller {

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
  for (const auto& [other, group] : in_flight_) {
    if (other != deployment) return absl::StrCat(other.ns, "/", other.name, "/", group);
  }
  return "";
}

bool GangArbiter::TryStart(const kube::ObjectKey& deployment, int group) {
  absl::MutexLock lock(&mu_);
  for (const auto& [other, index] : in_flight_) {
    if (other != deployment) return false;
  }
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
