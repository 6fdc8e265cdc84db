// A layout: how GPUs share the work of one model. Pure values and their text.
//
// EP64_TP1_PP1_DP1 is 64 expert ranks in one group; its product is the number of GPUs. More of it
// follows after '+':
//   A8            attention ranks (all expert ranks)
//   replicated    every rank computes attention for all sequences
//   reduce, gather, gather-scatter, all-to-all, slots
//                 how rows reach experts and come back (slots; gather if replicated)
//   C2            copies of each expert (1)
//   S1            spare GPUs of each group (0)
// DP64 is short for EP1_TP1_PP1_DP64. 'x' may stand for '_', as in EP64xTP16xPP4xDP4.
//
// Tested by tests/planner/layout_test.cc.
#ifndef MOE_PLANNER_LAYOUT_H_
#define MOE_PLANNER_LAYOUT_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace moe::planner {

enum class Exchange {
  kNone,           // one expert rank: nothing moves
  kReduce,         // replicated attention: all-reduce of weighted expert outputs
  kGather,         // replicated attention: all-gather of routed expert outputs, added by all
  kGatherScatter,  // split attention: all-gather of rows, reduce-scatter of outputs
  kAllToAll,       // split attention: rows go to the ranks of their experts, exact counts
  kSlots,          // split attention, counts that a captured graph can hold: all-gather of rows,
                   // then as many result rows from each rank to each as there could be
};

struct Layout {
  int expert = 1;    // EP: expert ranks of a group
  int tensor = 1;    // TP: GPUs that share each matrix of an expert rank
  int pipeline = 1;  // PP: stages, each with its share of the layers
  int data = 1;      // DP: groups, each with the whole model
  bool replicated_attention = false;
  int attention_ranks = 1;  // of the expert ranks; those that own sequences
  Exchange exchange = Exchange::kNone;
  int copies = 1;  // of each expert, on different ranks
  int spares = 0;  // GPUs of each group that wait for a loss

  // Parts that a step's rows are split into: every rank has all rows if attention is replicated.
  int num_owners() const { return replicated_attention ? 1 : attention_ranks; }
  int64_t gpus_per_group() const { return int64_t{expert} * tensor * pipeline + spares; }
  int64_t num_gpus() const { return gpus_per_group() * data; }

  friend bool operator==(const Layout&, const Layout&) = default;
};

// InvalidArgument says what could not be read and what can be written. Numbers are from 1 to 65536.
absl::StatusOr<Layout> ParseLayout(absl::string_view text);

// The four numbers: EP64_TP1_PP1_DP1.
std::string StrategyName(const Layout& layout);
// With everything that is not as ParseLayout would assume; parses to the same layout.
std::string LayoutName(const Layout& layout);

std::string ExchangeName(Exchange exchange);
// One sentence part, such as "all-gather of rows, reduce-scatter of outputs".
std::string DescribeExchange(Exchange exchange);

// Whether a MoEDeployment can say it, as of this version; if not, why: "tensor parallelism is not
// built". Empty: it can.
std::string WhatIsNotBuilt(const Layout& layout);

}  // namespace moe::planner

#endif  // MOE_PLANNER_LAYOUT_H_
