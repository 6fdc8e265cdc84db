// Seconds of one forward pass, by part, and what each part waits for. Each part is a roofline: the
// larger of its bytes over the memory's bandwidth and its operations over the peak.
//
// Source: roofline model (Williams, Waterman and Patterson 2009); byte and operation counts derived
// from the layers' shapes.
//
// Tested by tests/planner/forward_time_test.cc.
#ifndef MOE_PLANNER_FORWARD_TIME_H_
#define MOE_PLANNER_FORWARD_TIME_H_

#include <array>
#include <cstddef>
#include <optional>
#include <string>

#include "planner/hardware.h"
#include "planner/layout.h"
#include "planner/model_shape.h"

namespace moe::planner {

// What a part of the time is spent on.
enum class Limit {
  kWeightReads,
  kKvReads,
  kCompute,
  kNodeLinkBytes,
  kNetworkBytes,
  kLatency,  // of the exchange
  kHost,
};
inline constexpr size_t kNumLimits = 7;
std::string DescribeLimit(Limit limit);

// Rows of one step of one group.
struct StepRows {
  double rows = 0;            // of all owners together
  double rows_per_owner = 0;  // of the busiest attention rank
  double owners = 1;          // attention ranks that have rows
  double context = 0;         // cached tokens that a row attends to, on average
  double kv_reads = 0;        // cached tokens that the busiest owner reads
  double logit_rows = 0;      // rows of the busiest owner that end in a draw
  bool prefill = false;       // of prompts: never captured, exact counts
  // Rows of the busiest expert rank beside the mean, where they are known; else what
  // ExpectedTrafficMaxOverMean says.
  std::optional<double> traffic_max_over_mean = {};
  // Experts of a layer that the rows choose, where they are known: rows of one prompt may resemble
  // each other. Else what ExpectedDistinctExperts says of rows that do not.
  std::optional<double> distinct_experts = {};
};

// Every sequence advances by one token.
StepRows DecodeRows(const Layout& layout, double sequences, double context);
// Prompts of `input_tokens` for all owners at once, `rows_per_owner` rows each.
StepRows PrefillRows(const Layout& layout, double rows_per_owner, double input_tokens);
// One prompt alone: one owner has rows.
StepRows SinglePromptRows(const Layout& layout, double input_tokens);

struct ForwardTime {
  double attention_seconds = 0;  // projections
  double kv_seconds = 0;         // scores and values over the cache
  double router_seconds = 0;
  double dense_seconds = 0;   // shared experts and dense layers
  double expert_seconds = 0;  // of the busiest rank
  double head_seconds = 0;    // lm_head
  double dispatch_seconds = 0;
  double combine_seconds = 0;
  double tensor_seconds = 0;    // all-reduces of tensor parallelism
  double pipeline_seconds = 0;  // rows from stage to stage
  double host_seconds = 0;
  double hidden_seconds = 0;  // of exchange or computation, behind the other; not in the total
  std::array<double, kNumLimits> by_limit = {};
  double traffic_max_over_mean = 1;
  double mean_expert_seconds = 0;  // of an average rank; not in the total
  // Seconds in which an average GPU of the group computes or reads its memory.
  double busy_seconds = 0;

  double compute_seconds() const {
    return attention_seconds + kv_seconds + router_seconds + dense_seconds + expert_seconds +
           head_seconds;
  }
  double exchange_seconds() const { return dispatch_seconds + combine_seconds; }
  double total_seconds() const {
    return compute_seconds() + exchange_seconds() + tensor_seconds + pipeline_seconds +
           host_seconds - hidden_seconds;
  }
  Limit main_limit() const;
};

// With half batches, the parts are those of both halves together.
ForwardTime TimeOfForward(const ModelShape& model, const Device& device, const Network& network,
                          const Assumptions& assumptions, const Layout& layout,
                          const StepRows& rows);

}  // namespace moe::planner

#endif  // MOE_PLANNER_FORWARD_TIME_H_
