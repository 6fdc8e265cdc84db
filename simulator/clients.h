// Those who ask: each sends its request to the gateway when it is due, takes the tokens as they
// come, and never asks again, whatever the answer is. What they saw is what a run reports.
//
// Tested by tests/simulator/simulation_test.cc.
#ifndef MOE_SIMULATOR_CLIENTS_H_
#define MOE_SIMULATOR_CLIENTS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gateway/journal/journal.h"
#include "simulator/result.h"
#include "simulator/statistics.h"
#include "simulator/workload.h"

namespace moe::simulator {

// Not thread-safe.
class Clients {
 public:
  // `requests` and `journal` are not owned. Rates are counted in [start, start + window), in which
  // all requests arrive.
  Clients(const std::vector<Request>* requests, gateway::Journal* journal, absl::Time start,
          absl::Duration window)
      : requests_(*requests),
        journal_(journal),
        start_(start),
        end_(start + window),
        last_end_(start),
        counted_until_(start) {}

  void Arrive(size_t request_idx, absl::Time now);
  // What the journal has for them.
  void TakeTokens(absl::Time now);

  int64_t num_arrived() const { return num_arrived_; }
  int64_t num_waiting() const { return static_cast<int64_t>(clients_.size()); }
  // Fills in all that clients see.
  void Report(absl::Time now, Result* result);

 private:
  struct Client {
    std::unique_ptr<gateway::Generation> generation;
    absl::Time arrival;
    absl::Time first_token;
    absl::Time last_token;
    int num_tokens = 0;
  };

  void TakeTokensOf(size_t request_idx, absl::Time now);
  void End(size_t request_idx, const absl::Status& status, absl::Time now);
  // Counts those who waited until now.
  void CountWaiting(absl::Time now);

  const std::vector<Request>& requests_;
  gateway::Journal* const journal_;
  const absl::Time start_;
  const absl::Time end_;
  absl::flat_hash_map<size_t, Client> clients_;  // by index of the request
  std::vector<size_t> ready_;                    // with something new
  int64_t num_arrived_ = 0;
  int64_t num_completed_ = 0;
  int64_t num_completed_in_window_ = 0;
  int64_t num_rejected_ = 0;
  int64_t num_too_long_ = 0;
  int64_t num_failed_ = 0;
  int64_t num_input_tokens_ = 0;
  int64_t num_output_tokens_ = 0;
  int64_t num_output_tokens_in_window_ = 0;
  absl::Time last_end_;
  absl::Time counted_until_;
  double waiting_seconds_ = 0;
  // Seconds of completed requests.
  std::vector<double> first_token_;
  std::vector<double> per_output_token_;
  std::vector<double> end_to_end_;
  Histogram between_tokens_;
};

}  // namespace moe::simulator

#endif  // MOE_SIMULATOR_CLIENTS_H_
