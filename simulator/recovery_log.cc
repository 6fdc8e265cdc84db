#include "simulator/recovery_log.h"

#include <algorithm>
#include <utility>

namespace moe::simulator {

void RecoveryLog::SetDown(Group* group, double now) {
  if (group->is_down) return;
  group->is_down = true;
  group->down_since = now;
}

void RecoveryLog::OnFailure(Recovery recovery) {
  Group& group = group_of(recovery.group);
  SetDown(&group, recovery.failed_at);
  group.open.push_back(recoveries_.size());
  recoveries_.push_back(std::move(recovery));
}

void RecoveryLog::OnEpochEnded(int group_idx, double now) {
  Group& group = group_of(group_idx);
  SetDown(&group, now);
  for (const size_t idx : group.open) {
    if (!recoveries_[idx].detected_at.has_value()) recoveries_[idx].detected_at = now;
  }
}

void RecoveryLog::OnActive(int group_idx, uint64_t epoch, double now) {
  Group& group = group_of(group_idx);
  if (group.is_down) down_seconds_ += now - group.down_since;
  group.is_down = false;
  for (const size_t idx : group.open) {
    recoveries_[idx].active_at = now;
    recoveries_[idx].epoch_after = epoch;
    recoveries_[idx].lost_kv_tokens = group.lost_kv_tokens;
  }
  group.lost_kv_tokens = 0;
}

void RecoveryLog::OnTokens(int group_idx, double now) {
  Group& group = group_of(group_idx);
  for (const size_t idx : group.open) recoveries_[idx].token_at = now;
  group.open.clear();
}

bool RecoveryLog::recovers(int group) const {
  const Group& g = groups_[static_cast<size_t>(group)];
  return g.is_down && !g.open.empty();
}

double RecoveryLog::DownSeconds(double now) const {
  double seconds = down_seconds_;
  for (const Group& group : groups_) {
    if (group.is_down) seconds += now - group.down_since;
  }
  return seconds;
}

}  // namespace moe::simulator
