// What the losses of ranks took, step by step, and for how long groups did not serve.
//
// Tested by tests/simulator/recovery_test.cc.
#ifndef MOE_SIMULATOR_RECOVERY_LOG_H_
#define MOE_SIMULATOR_RECOVERY_LOG_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "simulator/result.h"

namespace moe::simulator {

// Times are seconds since the start of the arrivals. Not thread-safe.
class RecoveryLog {
 public:
  explicit RecoveryLog(int num_groups) : groups_(static_cast<size_t>(num_groups)) {}

  // Ranks of recovery.group fail at recovery.failed_at.
  void OnFailure(Recovery recovery);
  // The controller ended the epoch of a group.
  void OnEpochEnded(int group, double now);
  // The KV cache of so many tokens is lost, as of the next active epoch.
  void OnKvLost(int group, int64_t num_tokens) { group_of(group).lost_kv_tokens += num_tokens; }
  void OnActive(int group, uint64_t epoch, double now);
  void OnTokens(int group, double now);

  // Whether a group has lost ranks and is not active since.
  bool recovers(int group) const;
  const std::vector<Recovery>& recoveries() const { return recoveries_; }
  // Of all groups together.
  double DownSeconds(double now) const;

 private:
  struct Group {
    bool is_down = false;
    double down_since = 0;
    int64_t lost_kv_tokens = 0;
    std::vector<size_t> open;  // recoveries after which no token came yet
  };
  Group& group_of(int idx) { return groups_[static_cast<size_t>(idx)]; }
  static void SetDown(Group* group, double now);

  std::vector<Group> groups_;
  std::vector<Recovery> recoveries_;
  double down_seconds_ = 0;  // of times that are over
};

}  // namespace moe::simulator

#endif  // MOE_SIMULATOR_RECOVERY_LOG_H_
