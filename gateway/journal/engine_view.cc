// See engine_view.h.
#include "gateway/journal/engine_view.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace moe::gateway {
namespace {

engine::v1::EngineStats Sum(const std::vector<GroupView>& groups) {
  engine::v1::EngineStats sum;
  double kv_used = 0;
  double kv_capacity = 0;
  for (const GroupView& group : groups) {
    const engine::v1::EngineStats& stats = group.stats;
    sum.set_num_running(sum.num_running() + stats.num_running());
    sum.set_num_waiting(sum.num_waiting() + stats.num_waiting());
    sum.set_num_preemptions(sum.num_preemptions() + stats.num_preemptions());
    sum.set_num_prompt_tokens(sum.num_prompt_tokens() + stats.num_prompt_tokens());
    sum.set_num_generated_tokens(sum.num_generated_tokens() + stats.num_generated_tokens());
    // A group whose capacity is not known weighs as much as the smallest one can.
    const double capacity = std::max(1.0, static_cast<double>(group.state.kv_capacity_tokens()));
    kv_used += stats.kv_usage() * capacity;
    kv_capacity += capacity;
  }
  sum.set_kv_usage(kv_capacity > 0 ? kv_used / kv_capacity : 0);
  return sum;
}

// The group that stands for all: one of this gateway's model before any other, one that takes new
// requests before one that drains, one that serves before one that doesn't, then the first.
const GroupView* Representative(const std::vector<GroupView>& groups) {
  const auto best =
      std::min_element(groups.begin(), groups.end(), [](const GroupView& a, const GroupView& b) {
        return std::tuple(a.other_model, a.state.draining(), !a.serving) <
               std::tuple(b.other_model, b.state.draining(), !b.serving);
      });
  return best == groups.end() ? nullptr : &*best;
}

std::string WhyNotServing(const std::vector<GroupView>& groups, const GroupView* shown) {
  if (shown == nullptr) {
    return "The deployment has no group: it is scaled to zero, or its first one starts.";
  }
  if (shown->other_model) {
    return "Every group serves another model than this gateway; one of its own is not there yet.";
  }
  if (shown->state.draining()) {
    return "Every group is about to end; new requests wait for the next one.";
  }
  if (groups.size() == 1) {
    return shown->reason;
  }
  return absl::StrCat("None of ", groups.size(), " groups serves. Group ", GroupIndex(shown->name),
                      ": ", shown->reason);
}

}  // namespace

int GroupIndex(absl::string_view name) {
  int index = 0;
  const size_t slash = name.rfind('/');
  if (slash == absl::string_view::npos || !absl::SimpleAtoi(name.substr(slash + 1), &index)) {
    return 0;
  }
  return index;
}

int64_t SequenceLimit(const engine::v1::Welcome& welcome) {
  const auto max_context = static_cast<int64_t>(welcome.max_context());
  const auto kv_tokens = static_cast<int64_t>(welcome.kv_capacity_tokens());
  return kv_tokens > 0 ? std::min(max_context, kv_tokens) : max_context;
}

EngineView Summarize(std::vector<GroupView> groups, const engine::v1::Welcome& last) {
  std::sort(groups.begin(), groups.end(), [](const GroupView& a, const GroupView& b) {
    return std::tuple(GroupIndex(a.name), a.name) < std::tuple(GroupIndex(b.name), b.name);
  });
  EngineView view;
  view.stats = Sum(groups);
  const GroupView* shown = Representative(groups);
  if (shown != nullptr) {
    view.group = shown->state;
    view.stats.set_epoch(shown->stats.epoch());
    view.stats.set_step(shown->stats.step());
    view.serving = shown->serving && !shown->state.draining();
  }
  view.other_model_serves = std::any_of(groups.begin(), groups.end(), [](const GroupView& group) {
    return group.other_model && !group.state.draining() &&
           group.state.phase() == coordinator::v1::GroupState::ACTIVE;
  });
  if (!view.serving) {
    view.reason = WhyNotServing(groups, shown);
  }
  view.welcome = last;
  int64_t longest = -1;
  for (const GroupView& group : groups) {
    if (group.welcome.vocab_size() != 0 && !group.other_model && !group.state.draining() &&
        SequenceLimit(group.welcome) > longest) {
      longest = SequenceLimit(group.welcome);
      view.welcome = group.welcome;
    }
  }
  view.groups = std::move(groups);
  return view;
}

}  // namespace moe::gateway
