// How unevenly a step's rows fall on the expert ranks: routes are drawn, not averaged.
//
// An expert of a layer is chosen by a share of the rows (its inclusion probability; those of a
// layer add up to k): the same for all, falling as a power of the expert's place (Zipf), or as
// measured. A row's k experts are drawn by systematic sampling over a shuffled order (Madow 1949),
// which gives exactly these shares. For each number of rows some steps are drawn once and kept,
// since a run has up to a million steps; a step then takes one of them.
//
// Tested by tests/simulator/router_test.cc.
#ifndef MOE_SIMULATOR_ROUTER_H_
#define MOE_SIMULATOR_ROUTER_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "controller/coordinator/placement.h"
#include "simulator/random.h"

namespace moe::simulator {

struct RouterSpec {
  enum class Kind { kUniform, kZipf, kMeasured };
  Kind kind = Kind::kUniform;
  double exponent = 0;  // of kZipf
  // Of kMeasured: tokens that each expert ran. [num_layers * num_experts], layer-major.
  std::vector<uint64_t> expert_tokens = {};
};

// "uniform", "zipf:1.1". InvalidArgument says what can be written.
absl::StatusOr<RouterSpec> ParseRouter(absl::string_view text);
std::string DescribeRouter(const RouterSpec& spec);

struct RouterShape {
  int num_layers = 0;  // with experts
  int num_experts = 0;
  int top_k = 0;
};

// Not thread-safe.
class RouterModel {
 public:
  // InvalidArgument for measurements of another shape, or of fewer experts than top_k.
  static absl::StatusOr<RouterModel> Create(const RouterSpec& spec, const RouterShape& shape,
                                            const coordinator::Placement& placement, uint64_t seed);

  // Rows of the busiest rank beside the mean, on average over the layers of one step.
  // REQUIRES: num_rows >= 1.
  double DrawTraffic(int num_rows);

  // Share of the rows that choose an expert. [layer][expert]; one layer stands for all equal ones.
  const std::vector<std::vector<double>>& shares() const { return shares_; }

 private:
  // One order of a layer's experts.
  struct Order {
    std::vector<int> ranks;    // of the experts, in this order
    std::vector<double> ends;  // sums of the shares up to each
  };

  RouterModel(const RouterShape& shape, int num_ranks, uint64_t seed)
      : shape_(shape), num_ranks_(num_ranks), random_(seed, Stream::kRoutes) {}

  double DrawLayer(int layer, int num_rows);

  RouterShape shape_;
  int num_ranks_;
  Random random_;
  std::vector<std::vector<double>> shares_;
  std::vector<std::vector<Order>> orders_;   // [layer]
  std::map<int, std::vector<double>> kept_;  // by number of rows
  std::vector<int> rows_of_rank_;
};

}  // namespace moe::simulator

#endif  // MOE_SIMULATOR_ROUTER_H_
