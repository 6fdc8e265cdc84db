// What `mode: Auto` has decided, as the status of a MoEDeployment shows it. Values.
// To JSON and back: layout_decision_json.h. Decided by controller/reconcile/layout_decision.h.
//
// Tested by tests/controller/api/moe_deployment_test.cc.
#ifndef MOE_CONTROLLER_API_LAYOUT_DECISION_H_
#define MOE_CONTROLLER_API_LAYOUT_DECISION_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace moe::api {

// Of the planner: predicted, not measured.
struct LayoutFigures {
  int sequences = 0;               // in flight in each group
  double pass_milliseconds = 0;    // a forward pass advances each of them by one token
  double tokens_per_second = 0;    // of all groups; prompts not counted
  double requests_per_second = 0;  // completed, of all groups, their prompts included
  uint64_t gpu_memory_bytes = 0;   // in use on the fullest GPU
  std::string limited_by = {};     // what most of a pass is spent on

  friend bool operator==(const LayoutFigures&, const LayoutFigures&) = default;
};

struct LayoutChoice {
  std::string layout = {};  // EP8_TP1_PP1_DP1+A4, as `moe plan` writes it
  int expert = 0;           // workers of a group
  int attention_ranks = 0;
  bool replicated_attention = false;
  int num_gpus = 0;  // of all groups; 0 on CPUs
  std::optional<LayoutFigures> figures = {};
  // Of an alternative: what else would have to be different, such as "worker.gpusPerPod: 8".
  std::string needs = {};

  friend bool operator==(const LayoutChoice&, const LayoutChoice&) = default;
};

// The same GPUs as whole models side by side.
struct PlainReplicas {
  bool better = false;
  int replicas = 0;
  std::optional<LayoutFigures> figures = {};  // empty: `reason` says why there are none
  std::string reason = {};

  friend bool operator==(const PlainReplicas&, const PlainReplicas&) = default;
};

struct LayoutDecision {
  LayoutChoice choice;      // that groups have
  std::string basis;        // one word, such as Planned: see reconcile/auto_layout.h
  std::string because;      // for people
  std::string gpus;         // that there were; empty on CPUs
  std::string assumptions;  // load and links behind the figures
  std::vector<LayoutChoice> alternatives = {};  // the best first, at most kMaxAlternatives
  std::optional<PlainReplicas> plain_replicas = {};
  // A better one, from what there is now. It changes nothing by itself.
  std::optional<LayoutChoice> proposed = {};
  std::string proposed_gpus;   // that it was made from
  std::string review_problem;  // why it could not be looked at again, of the last time
  absl::Time decided_at = absl::InfinitePast();
  // Hashes: of the fields of the spec that the decision is bound to; of everything that went in
  // when it was last looked at.
  std::string spec_key;
  std::string inputs_key;
  std::string adoption_seen;  // the annotation that was last acted upon

  friend bool operator==(const LayoutDecision&, const LayoutDecision&) = default;
};

inline constexpr int kMaxAlternatives = 3;

// "EP8_TP1_PP1_DP1+A4 on 8 GPUs: 1.93 ms a pass, 33161 tokens/s, 410.20 requests/s, 31.1 GB on a
// GPU, limited by memory bandwidth: weights; needs worker.gpusPerPod: 8".
std::string DescribeChoice(const LayoutChoice& choice);

// Whether a group with one is a group with the other.
bool SameLayout(const LayoutChoice& a, const LayoutChoice& b);

}  // namespace moe::api

#endif  // MOE_CONTROLLER_API_LAYOUT_DECISION_H_
