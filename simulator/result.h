// What a run gives. Values, in base units.
#ifndef MOE_SIMULATOR_RESULT_H_
#define MOE_SIMULATOR_RESULT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "simulator/engine.h"
#include "worker/engine/leader.h"

namespace moe::simulator {

// Of a number of values; all 0 of none.
struct Distribution {
  int64_t count = 0;
  double mean = 0;
  double p50 = 0;
  double p90 = 0;
  double p99 = 0;
  double max = 0;
};

// One group's loss of one or more ranks at once. Seconds since the start of the arrivals.
struct Recovery {
  std::string what = {};
  int group = 0;
  int num_ranks = 0;
  double failed_at = 0;
  std::optional<double> detected_at = {};  // the epoch was ended
  std::optional<double> active_at = {};    // of the next epoch that serves
  std::optional<double> token_at = {};     // the first one after that
  uint64_t epoch_before = 0;
  uint64_t epoch_after = 0;
  int64_t num_sequences = 0;  // that the group had
  // Tokens in the KV caches that were lost, to be computed again.
  int64_t lost_kv_tokens = 0;
};

struct Result {
  double window_seconds = 0;    // that requests arrive in; rates are of what happens in it
  double last_end_seconds = 0;  // when the last request ended
  double total_seconds = 0;     // until every group had recovered, too
  double startup_seconds = 0;   // from nothing to every group serving, before the window
  engine::LeaderOptions leader;

  int64_t num_arrived = 0;
  int64_t num_completed = 0;
  int64_t num_completed_in_window = 0;
  int64_t num_rejected = 0;   // by full queues
  int64_t num_too_long = 0;   // for the context or the KV cache
  int64_t num_failed = 0;     // given up by the gateway
  int64_t num_in_flight = 0;  // when the run was cut short
  int64_t num_output_tokens = 0;
  int64_t num_output_tokens_in_window = 0;
  int64_t num_input_tokens = 0;             // of completed requests
  uint64_t num_computed_prompt_tokens = 0;  // recomputation included
  uint64_t num_preemptions = 0;
  uint64_t num_moved = 0;  // sequences that went on in another group

  // Of completed requests, seconds.
  Distribution first_token;       // from arrival
  Distribution per_output_token;  // of one request, after its first token, on average
  Distribution between_tokens;    // of all pairs of tokens that follow each other
  Distribution end_to_end;
  double mean_in_flight = 0;  // requests, over the window

  // As the leaders say each second of the window.
  Distribution running;  // sequences of a group
  Distribution waiting;
  Distribution kv_usage;  // share of a group's blocks

  StepTotals steps;          // of all groups, whenever they ended
  double group_seconds = 0;  // groups times total_seconds
  double down_seconds = 0;   // of all groups together: no epoch was active

  std::vector<Recovery> recoveries;
};

}  // namespace moe::simulator

#endif  // MOE_SIMULATOR_RESULT_H_
