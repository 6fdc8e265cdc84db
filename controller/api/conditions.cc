// See conditions.h.
#include "controller/api/conditions.h"

#include <algorithm>
#include <utility>

namespace moe::api {

void SetCondition(std::vector<Condition>* conditions, Condition condition, absl::Time now) {
  const Condition* before = FindCondition(*conditions, condition.type);
  condition.last_transition =
      before != nullptr && before->status == condition.status ? before->last_transition : now;
  RemoveCondition(conditions, condition.type);
  const auto place =
      std::upper_bound(conditions->begin(), conditions->end(), condition,
                       [](const Condition& a, const Condition& b) { return a.type < b.type; });
  conditions->insert(place, std::move(condition));
}

void RemoveCondition(std::vector<Condition>* conditions, absl::string_view type) {
  std::erase_if(*conditions, [&](const Condition& condition) { return condition.type == type; });
}

const Condition* FindCondition(const std::vector<Condition>& conditions, absl::string_view type) {
  const auto found =
      std::find_if(conditions.begin(), conditions.end(),
                   [&](const Condition& condition) { return condition.type == type; });
  return found == conditions.end() ? nullptr : &*found;
}

bool IsTrue(const std::vector<Condition>& conditions, absl::string_view type) {
  const Condition* condition = FindCondition(conditions, type);
  return condition != nullptr && condition->status == "True";
}

}  // namespace moe::api
