#include "planner/prediction.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "planner/feasibility.h"
#include "planner/sharing.h"

namespace moe::planner {
namespace {

// A group runs no more sequences at once than a MoEDeployment can say (engine.maxSequences).
constexpr int64_t kMaxSequences = 65536;

// Largest number in [1, max] for which `holds`, which holds for all numbers up to some border; 0 if
// it does not hold for 1.
template <typename Predicate>
int64_t LargestThat(int64_t max, Predicate holds) {
  int64_t low = 0;
  int64_t high = max;
  while (low < high) {
    const int64_t middle = low + (high - low + 1) / 2;
    if (holds(middle)) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

double OwnerBytes(const Scenario& scenario, const Layout& layout) {
  return MemoryOfOwner(scenario.model, scenario.device, scenario.network, scenario.assumptions,
                       layout);
}

double BytesPerRank(const Scenario& scenario, const Layout& layout) {
  return scenario.device.memory_bytes /
         (scenario.device.shared_cores.has_value() ? RanksPerNode(layout, scenario.network) : 1);
}

int64_t ChooseSequences(const Scenario& scenario, const Layout& layout, int64_t max) {
  const auto rate = [&](int64_t sequences) {
    return static_cast<double>(sequences) * layout.data /
           ForwardSecondsAt(scenario, layout, static_cast<double>(sequences));
  };
  switch (scenario.target.kind) {
    case Target::Kind::kThroughput:
      return max;
    case Target::Kind::kLatency:
      return std::clamp<int64_t>(scenario.num_gpus / layout.data, 1, max);
    case Target::Kind::kTimeAtMost:
      return std::max<int64_t>(1, LargestThat(max, [&](int64_t sequences) {
                                 return ForwardSecondsAt(scenario, layout,
                                                         static_cast<double>(sequences)) <=
                                        scenario.target.value;
                               }));
    case Target::Kind::kRateAtLeast: {
      // Where all owners have equal full buckets the rate only rises; within, it goes up and down.
      const int64_t unit = int64_t{8} * layout.pipeline * layout.num_owners();
      const int64_t units = LargestThat(
          max / unit, [&](int64_t count) { return rate(count * unit) < scenario.target.value; });
      const int64_t enough = std::min(max, (units + 1) * unit);
      const int64_t fewer =
          units * unit + 1 + LargestThat(enough - units * unit, [&](int64_t more) {
            return rate(units * unit + more) < scenario.target.value;
          });
      return fewer < enough && rate(fewer) >= scenario.target.value ? fewer : enough;
    }
  }
  return max;
}

}  // namespace

absl::StatusOr<Target> ParseTarget(absl::string_view text) {
  if (text == "throughput") return Target{Target::Kind::kThroughput, 0};
  if (text == "latency") return Target{Target::Kind::kLatency, 0};
  struct Unit {
    absl::string_view suffix;
    Target::Kind kind;
    double scale;
  };
  for (const Unit& unit :
       {Unit{"seq/s", Target::Kind::kRateAtLeast, 1}, Unit{"ms", Target::Kind::kTimeAtMost, 1e-3},
        Unit{"s", Target::Kind::kTimeAtMost, 1}}) {
    absl::string_view number = text;
    double value = 0;
    if (!absl::ConsumeSuffix(&number, unit.suffix)) continue;
    if (absl::SimpleAtod(number, &value) && std::isfinite(value) && value > 0 && value <= 1e12) {
      return Target{unit.kind, value * unit.scale};
    }
    break;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("target '", absl::CHexEscape(text.substr(0, 40)),
                   "' is none of throughput, latency, a time such as 8ms, or a rate such as "
                   "120000seq/s"));
}

std::string DescribeTarget(const Target& target) {
  switch (target.kind) {
    case Target::Kind::kThroughput:
      return "throughput: the most completed requests per second, as many sequences as fit";
    case Target::Kind::kLatency:
      return "latency: the shortest forward pass, one sequence for each GPU";
    case Target::Kind::kTimeAtMost:
      return absl::StrFormat("the most sequences/s with a forward pass of at most %g ms",
                             target.value * 1e3);
    case Target::Kind::kRateAtLeast:
      return absl::StrFormat("the shortest forward pass that advances %s sequences/s",
                             WithThousands(target.value));
  }
  return "";
}

absl::Status CheckScenario(const Scenario& scenario) {
  absl::Status shape = CheckShape(scenario.model);
  if (!shape.ok()) return shape;
  struct Number {
    const char* name;
    double value;
    double min;
    double max;
  };
  for (const Number& number :
       {Number{"number of GPUs", static_cast<double>(scenario.num_gpus), 1, 65536},
        Number{"number of GPUs per node", static_cast<double>(scenario.network.gpus_per_node), 1,
               1024},
        Number{"number of input tokens", static_cast<double>(scenario.input_tokens), 1, 1 << 24},
        Number{"number of output tokens", static_cast<double>(scenario.output_tokens), 1, 1 << 24},
        Number{"batch", scenario.batch.value_or(1), 1, 1e9},
        Number{"link's bytes per second", scenario.network.link_bytes_per_second, 1e6, 1e15}}) {
    if (!(number.value >= number.min && number.value <= number.max)) {
      return absl::InvalidArgumentError(absl::StrFormat("the %s is %g; it must be from %g to %g",
                                                        number.name, number.value, number.min,
                                                        number.max));
    }
  }
  if (scenario.model.max_positions > 0 && scenario.full_context() > scenario.model.max_positions) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%d input and %d output tokens are more than the %d positions of %s", scenario.input_tokens,
        scenario.output_tokens, scenario.model.max_positions, scenario.model.name));
  }
  return absl::OkStatus();
}

double ForwardSecondsAt(const Scenario& scenario, const Layout& layout, double sequences) {
  return TimeOfForward(scenario.model, scenario.device, scenario.network, scenario.assumptions,
                       layout, DecodeRows(layout, sequences, scenario.mean_context()))
      .total_seconds();
}

int64_t SequencesThatFit(const Scenario& scenario, const Layout& layout) {
  return MaxSequences(scenario.model, layout, scenario.assumptions, OwnerBytes(scenario, layout),
                      scenario.full_context());
}

absl::StatusOr<Prediction> Predict(const Scenario& scenario, const Layout& layout) {
  absl::Status status = CheckSizes(layout, scenario.model, scenario.network, scenario.num_gpus);
  if (status.ok()) status = CheckSharing(layout, scenario.device, scenario.network);
  if (status.ok()) {
    Device own = scenario.device;
    own.memory_bytes = OwnerBytes(scenario, layout);
    status =
        CheckMemory(layout, scenario.model, own, scenario.assumptions, scenario.full_context());
  }
  if (!status.ok()) return status;
  const int64_t fits = SequencesThatFit(scenario, layout);
  const int64_t max = std::min(fits, kMaxSequences);
  if (!scenario.batch.has_value()) {
    return PredictAt(scenario, layout, ChooseSequences(scenario, layout, max));
  }
  const auto sequences = static_cast<int64_t>(std::ceil(*scenario.batch / layout.data));
  if (sequences > max) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "%s: %s sequences of %s tokens in each group, where %s %s", LayoutName(layout),
        WithThousands(static_cast<double>(sequences)), WithThousands(scenario.full_context()),
        WithThousands(static_cast<double>(max)),
        fits > kMaxSequences ? "is the most that a group runs" : "fit its memory"));
  }
  return PredictAt(scenario, layout, sequences);
}

Prediction PredictAt(const Scenario& scenario, const Layout& layout, int64_t sequences) {
  const auto forward = [&](const StepRows& rows) {
    return TimeOfForward(scenario.model, scenario.device, scenario.network, scenario.assumptions,
                         layout, rows);
  };
  const double count = static_cast<double>(sequences);
  Prediction prediction;
  prediction.layout = layout;
  prediction.sequences = sequences;
  prediction.max_sequences = SequencesThatFit(scenario, layout);
  prediction.memory =
      MemoryOf(scenario.model, layout, scenario.assumptions, count, scenario.full_context());
  prediction.memory_efficiency =
      EfficiencyOf(scenario.model, layout, scenario.assumptions, BytesPerRank(scenario, layout),
                   count, scenario.full_context());
  prediction.forward = forward(DecodeRows(layout, count, scenario.mean_context()));
  const double step = prediction.forward.total_seconds();
  // A batch that the groups do not share evenly leaves some with fewer than `sequences`.
  const double running =
      scenario.batch.has_value() && *scenario.batch < prediction.total_sequences()
          ? *scenario.batch
          : prediction.total_sequences();
  prediction.sequences_per_second = running / step;
  prediction.utilization = prediction.forward.busy_seconds / step;

  prediction.first_token_seconds =
      forward(SinglePromptRows(layout, scenario.input_tokens)).total_seconds();
  const StepRows chunk =
      PrefillRows(layout, scenario.assumptions.prefill_rows, scenario.input_tokens);
  // Stages work on different chunks at the same time.
  prediction.prefill_seconds =
      forward(chunk).total_seconds() * scenario.input_tokens / (chunk.rows * layout.pipeline);
  prediction.completed_per_second =
      running / count / (prediction.prefill_seconds + scenario.output_tokens * step / count);
  prediction.output_tokens_per_second = prediction.completed_per_second * scenario.output_tokens;
  if (scenario.target.kind == Target::Kind::kTimeAtMost) {
    prediction.meets_target = step <= scenario.target.value;
  } else if (scenario.target.kind == Target::Kind::kRateAtLeast) {
    prediction.meets_target = prediction.sequences_per_second >= scenario.target.value;
  }
  return prediction;
}

double CostPerMillionTokens(const Scenario& scenario, const Prediction& prediction, double price) {
  return price * scenario.num_gpus / 3600 / prediction.output_tokens_per_second * 1e6;
}

bool IsBetter(const Target& target, const Prediction& a, const Prediction& b) {
  // Smaller is better in each place; the last ones prefer the simpler of equals.
  const auto key = [&target](const Prediction& p) {
    const double time = p.forward.total_seconds();
    double first = 0;
    double second = 0;
    switch (target.kind) {
      case Target::Kind::kThroughput:
        first = -p.completed_per_second;
        second = time;
        break;
      case Target::Kind::kLatency:
        first = time;
        second = -p.completed_per_second;
        break;
      case Target::Kind::kTimeAtMost:
        first = p.meets_target ? -p.sequences_per_second : time;
        second = time;
        break;
      case Target::Kind::kRateAtLeast:
        first = p.meets_target ? time : -p.sequences_per_second;
        second = -p.completed_per_second;
        break;
    }
    const Layout& l = p.layout;
    return std::tuple(!p.meets_target, first, second, l.spares, l.copies, l.tensor * l.pipeline,
                      l.expert, LayoutName(l));
  };
  return key(a) < key(b);
}

}  // namespace moe::planner
