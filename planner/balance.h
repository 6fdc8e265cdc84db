// Two different things that are both called balance. Placement: how many expert instances each GPU
// holds, the same for all whenever a layout is accepted. Traffic: how many rows a router sends to
// each GPU in one step, which differs even if the router has no favourites.
//
// Tested by tests/planner/balance_test.cc.
#ifndef MOE_PLANNER_BALANCE_H_
#define MOE_PLANNER_BALANCE_H_

namespace moe::planner {

struct Routing {
  int num_experts = 0;
  int top_k = 0;
  int num_ranks = 1;  // that share the experts evenly
  int copies = 1;     // of each expert; a row goes to any of them
  // Busiest expert beside the mean over a long time; 1: every choice of k experts is as likely.
  double router_max_over_mean = 1;
};

// Distinct ranks that one token's experts lie on: N (1 - C(E - E/N, k) / C(E, k)).
// Source: derived; each rank is missed when all k experts lie on the others.
double ExpectedDistinctRanks(int num_experts, int top_k, int num_ranks);

// Distinct experts that num_tokens tokens choose: E (1 - (1 - k/E)^T). Source: derived.
double ExpectedDistinctExperts(int num_experts, int top_k, double num_tokens);

// Expected rows of the busiest rank beside the mean, for num_tokens tokens of one layer.
//
// Method: a token's experts on a rank are hypergeometric; the sum over tokens is taken as the
// binomial of the same mean and variance, the expected maximum of N such counts as if they were
// independent, widened by sqrt(N / (N - 1)) since they add up to a constant. Above 64 rows per rank
// the normal distribution stands for the binomial. Beside simulated routing: within 5% from 8
// tokens on, 12% for one token (see the test). A router with favourites adds what its busiest
// expert adds to its rank's mean.
double ExpectedTrafficMaxOverMean(const Routing& routing, double num_tokens);

}  // namespace moe::planner

#endif  // MOE_PLANNER_BALANCE_H_
