#include "cli/kubectl/status_tree.h"

#include <algorithm>
#include <cstddef>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "controller/api/gpu_failures.h"

namespace moe::cli {
namespace {

struct Advice {
  absl::string_view reason;
  absl::string_view what_to_do;
};

constexpr Advice kAdvice[] = {
    {"BackingOff", "free nodes or add some; `kubectl describe node` shows what they have left"},
    {"ChildrenNotApplied",
     "the operator lacks a right or the cluster refuses an object; its message "
     "says which"},
    {"CreateFailed",
     "a quota, limit range or admission rule refuses the pods; its message says which"},
    {"GatewayNotReady", "look at the gateway: kubectl describe deployment NAME-gateway"},
    {"GroupFailed",
     "read `kubectl moe logs NAME`, then change the spec; that starts the group again"},
    {"InvalidSpec", "correct the field that the message names"},
    {"MoreRequests",
     "with mode: Fixed write what the message says; the figures are predicted, so measure both"},
    {"NvlinkAcrossPods",
     "write worker.gpusPerPod instead, or let the namespace admit the Pod Security level "
     "privileged"},
    {"Paused", "remove the annotation moe-operator.dev/paused to go on"},
    {"ProgressDeadlineExceeded",
     "nothing moved for progressDeadlineSeconds; the other conditions say "
     "what it waits for"},
    {"ReplacementPending", "the group goes on when the pod has a node; free one or add one"},
    {"ScaledToZero", "kubectl scale moed NAME --replicas=1 brings it back"},
    {"Scheduling",
     "pods wait for nodes; after worker.gangTimeout all are given back and tried again"},
    {"Unschedulable",
     "free nodes or add some; after worker.gangTimeout all pods are given back and tried again"},
    {"WaitingForModel", "look at the pod NAME-inspect, which reads the model's files"},
    {"WaitingForTurn", "one group of the cluster is scheduled at a time; nothing to do"},
    {"WorkerEnded", "read `kubectl moe logs NAME`; more nodes would not help"},
};

struct Line {
  int depth = 0;
  std::string text;
};

void Add(std::vector<Line>* lines, int depth, std::string text) {
  lines->push_back({depth, std::move(text)});
}

// Whether another line of this depth follows before the tree goes back above it.
bool HasSibling(const std::vector<Line>& lines, size_t index, int depth) {
  for (size_t i = index + 1; i < lines.size() && lines[i].depth >= depth; ++i) {
    if (lines[i].depth == depth) return true;
  }
  return false;
}

std::string Draw(const std::vector<Line>& lines) {
  std::string text;
  for (size_t i = 0; i < lines.size(); ++i) {
    for (int depth = 1; depth <= lines[i].depth; ++depth) {
      const bool more = HasSibling(lines, i, depth);
      if (depth == lines[i].depth) {
        text += more ? "├─ " : "└─ ";
      } else {
        text += more ? "│  " : "   ";
      }
    }
    absl::StrAppend(&text, lines[i].text, "\n");
  }
  return text;
}

std::string RankLine(const api::RankStatus& rank) {
  std::string line = absl::StrFormat("rank %-4d %-9s expert %-8s %s", rank.rank, rank.phase,
                                     rank.experts, rank.pod);
  if (rank.process.has_value()) absl::StrAppend(&line, " process ", *rank.process);
  return line;
}

// Ranks of a group by node, in the order of their first rank. Ranks beside each other that are
// active are one line.
void AddRanks(const api::GroupStatus& group, bool all_ranks, std::vector<Line>* lines) {
  std::vector<std::string> nodes;
  std::map<std::string, std::vector<const api::RankStatus*>> by_node;
  for (const api::RankStatus& rank : group.ranks) {
    const std::string node = rank.node.empty() ? "no node yet" : "node " + rank.node;
    if (by_node[node].empty()) nodes.push_back(node);
    by_node[node].push_back(&rank);
  }
  for (const std::string& node : nodes) {
    const std::vector<const api::RankStatus*>& ranks = by_node[node];
    Add(lines, 2, absl::StrCat(node, ", ", ranks.size(), ranks.size() == 1 ? " rank" : " ranks"));
    for (size_t i = 0; i < ranks.size();) {
      size_t end = i + 1;
      while (!all_ranks && end < ranks.size() && ranks[i]->phase == "Active" &&
             ranks[end]->phase == "Active" && ranks[end]->rank == ranks[end - 1]->rank + 1) {
        ++end;
      }
      if (end - i < 3) end = i + 1;
      if (end == i + 1) {
        Add(lines, 3, RankLine(*ranks[i]));
      } else {
        Add(lines, 3,
            absl::StrFormat("ranks %d-%d Active, experts %s to %s", ranks[i]->rank,
                            ranks[end - 1]->rank, ranks[i]->experts, ranks[end - 1]->experts));
      }
      i = end;
    }
  }
  if (group.ranks_left_out > 0) {
    Add(lines, 2, absl::StrCat(group.ranks_left_out, " more ranks, not in the status"));
  }
}

// What mode: Auto has decided, and the best others.
void AddDecision(const api::LayoutDecision& decision, std::vector<Line>* lines) {
  Add(lines, 1, absl::StrCat("layout: ", DescribeChoice(decision.choice)));
  if (!decision.because.empty()) Add(lines, 2, decision.because);
  if (!decision.gpus.empty()) Add(lines, 2, absl::StrCat("decided from ", decision.gpus));
  if (!decision.assumptions.empty()) {
    Add(lines, 2, absl::StrCat("assumed: ", decision.assumptions));
  }
  for (const api::LayoutChoice& alternative : decision.alternatives) {
    Add(lines, 2, absl::StrCat("or ", DescribeChoice(alternative)));
  }
  if (decision.plain_replicas.has_value() && decision.plain_replicas->figures.has_value()) {
    Add(lines, 2,
        absl::StrFormat("as %d whole models: %.2f ms a pass, %.2f requests/s",
                        decision.plain_replicas->replicas,
                        decision.plain_replicas->figures->pass_milliseconds,
                        decision.plain_replicas->figures->requests_per_second));
  }
  if (decision.proposed.has_value()) {
    Add(lines, 2,
        absl::StrCat("proposed with ", decision.proposed_gpus, ": ",
                     DescribeChoice(*decision.proposed)));
    Add(lines, 3,
        absl::StrCat("to take it: kubectl annotate moed NAME --overwrite "
                     "moe-operator.dev/adopt-layout=",
                     decision.proposed->layout));
  }
}

void AddFailure(const api::FailureStatus& failure, std::vector<Line>* lines) {
  std::string text = absl::StrCat("last failure: pod ", failure.pod);
  if (failure.rank >= 0) absl::StrAppend(&text, ", rank ", failure.rank);
  if (!failure.node.empty()) absl::StrAppend(&text, ", node ", failure.node);
  if (!failure.reason.empty()) absl::StrAppend(&text, ", ", failure.reason);
  if (failure.exit_code.has_value()) absl::StrAppend(&text, ", exit code ", *failure.exit_code);
  if (failure.at != absl::InfinitePast()) {
    absl::StrAppend(&text, ", ",
                    absl::FormatTime("%Y-%m-%d %H:%M:%S", failure.at, absl::UTCTimeZone()), " UTC");
  }
  Add(lines, 1, text);
}

}  // namespace

absl::string_view AdviceFor(absl::string_view reason) {
  for (const Advice& advice : kAdvice) {
    if (advice.reason == reason) return advice.what_to_do;
  }
  return "";
}

bool IsTrouble(const api::Condition& condition) {
  const bool good_when_false = condition.type == "Failed" || condition.type == "Degraded" ||
                               condition.type == "Experimental" ||
                               condition.type == "PlainReplicasBetter" ||
                               condition.type == "UpdateInProgress";
  return good_when_false ? condition.status != "False" : condition.status != "True";
}

std::string FormatStatusTree(const api::ParsedDeployment& parsed,
                             const StatusTreeOptions& options) {
  const api::MoEDeployment& deployment = parsed.deployment;
  const api::MoEDeploymentStatus& status = deployment.status;
  std::vector<Line> lines;
  std::string head = absl::StrCat(deployment.ns, "/", deployment.name);
  if (!status.strategy.empty()) absl::StrAppend(&head, "  ", status.strategy);
  absl::StrAppend(&head, "  ", status.ready_replicas, " of ", deployment.spec.replicas,
                  " groups active");
  if (deployment.paused) head += "  paused";
  if (!status.url.empty()) absl::StrAppend(&head, "  ", status.url);
  Add(&lines, 0, head);
  if (!parsed.spec_status.ok()) {
    Add(&lines, 1, absl::StrCat("spec: ", parsed.spec_status.message()));
  }
  for (const api::Condition& condition : status.conditions) {
    if (!IsTrouble(condition)) continue;
    Add(&lines, 1,
        absl::StrCat(condition.type, "=", condition.status, "  ", condition.reason, ": ",
                     condition.message));
    if (const absl::string_view advice = AdviceFor(condition.reason); !advice.empty()) {
      Add(&lines, 2, absl::StrCat("to do: ", advice));
    }
  }
  if (status.decision.has_value()) AddDecision(*status.decision, &lines);
  for (const api::GroupStatus& group : status.groups) {
    std::string text =
        absl::StrCat("group ", group.index, "  ", group.phase, "  epoch ", group.epoch);
    if (group.revision != status.revision) absl::StrAppend(&text, "  revision ", group.revision);
    if (!group.reason.empty()) absl::StrAppend(&text, "  ", group.reason);
    Add(&lines, 1, text);
    AddRanks(group, options.all_ranks, &lines);
    if (group.ready_spares.has_value()) {
      const std::set<int> with_ranks(group.slot_of_rank.begin(), group.slot_of_rank.end());
      Add(&lines, 2,
          absl::StrCat(*group.ready_spares, " of ", group.incarnations.size() - with_ranks.size(),
                       " spare pods ready"));
    }
  }
  if (status.last_failure.has_value()) AddFailure(*status.last_failure, &lines);
  for (const std::string& node : api::NodesToAvoid(status)) {
    Add(&lines, 1, absl::StrCat("node ", node, " gets no new workers: their GPUs were lost there"));
  }
  if (status.expert_load.has_value()) {
    Add(&lines, 1,
        absl::StrFormat("expert load: %d tokens, max / mean %.2f, hottest %s",
                        status.expert_load->tokens, status.expert_load->max_over_mean,
                        status.expert_load->hottest));
  }
  return Draw(lines);
}

}  // namespace moe::cli
