// Predicted beside measured: the time of a step as `moe plan` predicts it from a file of `moe
// calibrate`, and as the CPU engine takes it, over widths, attention ranks, batches, decoding and
// prompts.
//
//   moe calibrate --model DIR --output machine.json
//   planner_bench --model DIR --machine machine.json [--steps 9] [--parts]
//
// Prints a table and the median and worst error. Nothing is fitted here: the file has a dozen
// numbers for all lines. Ranks are processes; the machine must have nothing else to do. Where its
// speed changes from minute to minute all the same, --moe PATH calibrates again, into that file,
// before and after each group of ranks: predictions are the mean of both, and a group in which the
// memory's speed has changed by more than 15% is measured again.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_format.h"
#include "cli/plan/hardware_options.h"
#include "planner/forward_time.h"
#include "planner/layout.h"
#include "tests/bench/measure.h"
#include "tests/bench/planner/engine_group.h"
#include "tests/bench/plans/sequences.h"
#include "worker/exchange/turns.h"

namespace moe {
namespace {

using bench::EngineGroup;
using bench::Median;
using bench::OrDie;
using model::StepTimes;

struct Flags {
  std::string model;
  std::string machine;
  std::string moe;  // the program; empty: the file is taken as it is
  int steps = 9;    // of decoding that count, for each line
  int prompts = 3;  // of each length that count
  int context = 32;
  bool parts = false;
};

struct GroupShape {
  int ranks;
  int owners;
};
constexpr GroupShape kGroups[] = {{1, 1},  {2, 1}, {4, 1}, {8, 1},  {16, 1},
                                  {64, 1}, {2, 2}, {8, 4}, {64, 2}, {64, 8}};
constexpr int kBatches[] = {1, 8, 64};
constexpr int kPrompts[] = {32, 128};
constexpr int kMaxRows = 512;
// Of the memory's speed, while a group is measured; and how often it is measured at most.
constexpr double kMaxChange = 0.15;
constexpr int kAttempts = 4;

// Seconds by part of rank 0, and of the whole step.
struct Measured {
  double seconds = 0;
  std::vector<double> parts = std::vector<double>(StepTimes::kNumParts, 0);
};

// Runs a step of the group.
Measured Run(EngineGroup* group, engine::v1::StepPlan plan) {
  Measured measured;
  const auto part = [group](int i) {
    return group->times().seconds(static_cast<StepTimes::Part>(i));
  };
  std::vector<double> before;
  for (int i = 0; i < StepTimes::kNumParts; ++i) before.push_back(part(i));
  measured.seconds = OrDie(group->Run(std::move(plan)));
  for (int i = 0; i < StepTimes::kNumParts; ++i) measured.parts[i] = part(i) - before[i];
  return measured;
}

Measured MedianOf(const std::vector<Measured>& all) {
  const auto median = [&all](auto value) {
    std::vector<double> values;
    values.reserve(all.size());
    for (const Measured& one : all) values.push_back(value(one));
    return Median(std::move(values));
  };
  Measured measured;
  measured.seconds = median([](const Measured& one) { return one.seconds; });
  for (int i = 0; i < StepTimes::kNumParts; ++i) {
    measured.parts[i] = median([i](const Measured& one) { return one.parts[i]; });
  }
  return measured;
}

// One step of one layout.
struct Line {
  planner::Layout layout;
  std::string step;
  planner::StepRows rows;
  Measured measured;
};

class Table {
 public:
  explicit Table(bool parts) : parts_(parts) {
    std::printf("%-22s %-20s %12s %12s %7s\n", "layout", "step", "predicted ms", "measured ms",
                "error");
  }
  void Add(const Line& line, const planner::Scenario& before, const planner::Scenario& after) {
    const planner::ForwardTime first = Predict(line, before);
    const planner::ForwardTime second = Predict(line, after);
    const double predicted = (first.total_seconds() + second.total_seconds()) / 2;
    const double error = predicted / line.measured.seconds - 1;
    errors_.push_back(std::abs(error));
    std::printf(
        "%-22s %-20s %12.2f %12.2f %+6.0f%%\n",
        absl::StrFormat("EP%d, %d with attention", line.layout.expert, line.layout.attention_ranks)
            .c_str(),
        line.step.c_str(), predicted * 1e3, line.measured.seconds * 1e3, error * 100);
    if (parts_) PrintParts(second, line.measured);
    std::fflush(stdout);
  }
  // The aims of the cost model.
  void Finish() const {
    const double worst = *std::max_element(errors_.begin(), errors_.end());
    std::printf(
        "%zu steps: median error %.1f%% (aim: at most 15%%), worst %.1f%% (aim: at most 40%%)\n",
        errors_.size(), Median(errors_) * 100, worst * 100);
  }

 private:
  static planner::ForwardTime Predict(const Line& line, const planner::Scenario& scenario) {
    return TimeOfForward(scenario.model, scenario.device, scenario.network, scenario.assumptions,
                         line.layout, line.rows);
  }
  static void PrintParts(const planner::ForwardTime& f, const Measured& measured) {
    const auto ms = [&measured](StepTimes::Part part) { return measured.parts[part] * 1e3; };
    std::printf(
        "    predicted: attention %.2f kv %.2f router %.2f experts %.2f exchange %.2f head "
        "%.2f host %.2f\n",
        f.attention_seconds * 1e3, f.kv_seconds * 1e3, f.router_seconds * 1e3,
        f.expert_seconds * 1e3, f.exchange_seconds() * 1e3, f.head_seconds * 1e3,
        f.host_seconds * 1e3);
    std::printf(
        "    rank 0:    attention %.2f route %.2f dispatch %.2f experts %.2f combine %.2f "
        "logits %.2f draws %.2f\n",
        ms(StepTimes::kAttention), ms(StepTimes::kRoute), ms(StepTimes::kDispatch),
        ms(StepTimes::kExperts), ms(StepTimes::kCombine), ms(StepTimes::kLogits),
        ms(StepTimes::kSampling));
  }

  const bool parts_;
  std::vector<double> errors_;
};

// Experts of a layer that a prompt reaches, by its length. Rows of one prompt resemble each other,
// most of all in a model of random weights, and which experts they choose is the model's and not
// the machine's: so it is counted where one rank has all experts, and holds for every layout.
using ReachedExperts = std::map<int, double>;

double CountReached(const std::vector<uint64_t>& before, const std::vector<uint64_t>& after,
                    int num_layers) {
  int reached = 0;
  for (size_t i = 0; i < after.size(); ++i) reached += after[i] > before[i] ? 1 : 0;
  return static_cast<double>(reached) / num_layers;
}

std::vector<Line> MeasureGroup(const Flags& flags, const GroupShape& shape,
                               ReachedExperts* reached) {
  planner::Layout layout{.expert = shape.ranks, .attention_ranks = shape.owners};
  if (shape.ranks > 1) layout.exchange = planner::Exchange::kAllToAll;
  std::vector<Line> lines;
  const int cores = static_cast<int>(exchange::AllowedCores().size());
  const auto group = OrDie(EngineGroup::Start({.model = flags.model,
                                               .num_ranks = shape.ranks,
                                               .num_attention_ranks = shape.owners,
                                               .num_cores = cores,
                                               .max_rows = kMaxRows}));
  bench::Sequences sequences(group->vocab_size(), shape.owners);
  // Prompts alone, one for all owners together.
  for (const int length : kPrompts) {
    std::vector<Measured> measured;
    for (int i = 0; i <= flags.prompts; ++i) {
      const std::vector<uint64_t> before = group->expert_tokens();
      const Measured one = Run(group.get(), sequences.Add(1, length));
      if (shape.ranks == 1) {
        (*reached)[length] = CountReached(before, group->expert_tokens(), group->num_layers());
      }
      sequences.Drop();
      if (i > 0) measured.push_back(one);
    }
    planner::StepRows rows = planner::SinglePromptRows(layout, length);
    rows.distinct_experts = reached->at(length);
    lines.push_back({layout, absl::StrFormat("prompt of %d", length), rows, MedianOf(measured)});
  }
  const int most = *std::max_element(std::begin(kBatches), std::end(kBatches));
  const int at_once = std::min(most, kMaxRows / flags.context);
  for (int first = 0; first < most; first += at_once) {
    (void)Run(group.get(), sequences.Add(std::min(at_once, most - first), flags.context));
  }
  for (const int batch : kBatches) {
    const double context = sequences.length(0) + flags.steps / 2.0;
    std::vector<Measured> measured;
    for (int i = 0; i <= flags.steps; ++i) {
      const Measured one = Run(group.get(), sequences.Decode(batch));
      if (i > 0) measured.push_back(one);
    }
    lines.push_back({layout, absl::StrFormat("decode, batch %d", batch),
                     planner::DecodeRows(layout, batch, context), MedianOf(measured)});
  }
  return lines;
}

void Calibrate(const Flags& flags) {
  std::fflush(stdout);  // or the child would print it again
  const pid_t child = fork();
  if (child == 0) {
    // What it found is in its file; the table is what is to be read.
    if (std::freopen("/dev/null", "w", stdout) == nullptr) _exit(1);
    execl(flags.moe.c_str(), flags.moe.c_str(), "calibrate", "--model", flags.model.c_str(),
          "--output", flags.machine.c_str(), "--rounds", "3", static_cast<char*>(nullptr));
    std::fprintf(stderr, "error: cannot start %s\n", flags.moe.c_str());
    _exit(1);
  }
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child || status != 0) std::exit(1);
}

planner::Scenario ReadScenario(const Flags& flags) {
  planner::Scenario scenario;
  cli::HardwareOptions hardware;
  hardware.model = flags.model;
  hardware.machine = flags.machine;
  OrDie(ReadHardwareOptions(hardware, &scenario));
  return scenario;
}

void Run(const Flags& flags) {
  Table table(flags.parts);
  static_assert(kGroups[0].ranks == 1, "which experts prompts reach is counted there");
  ReachedExperts reached;
  int num_again = 0;
  for (const GroupShape& shape : kGroups) {
    for (int attempt = 1;; ++attempt) {
      if (!flags.moe.empty()) Calibrate(flags);
      const planner::Scenario before = ReadScenario(flags);
      const std::vector<Line> lines = MeasureGroup(flags, shape, &reached);
      if (!flags.moe.empty()) Calibrate(flags);
      const planner::Scenario after = ReadScenario(flags);
      const double change = after.device.bandwidth() / before.device.bandwidth() - 1;
      if (std::abs(change) > kMaxChange && attempt < kAttempts) {
        ++num_again;
        continue;
      }
      for (const Line& line : lines) table.Add(line, before, after);
      break;
    }
  }
  if (num_again > 0) {
    std::printf(
        "%d groups were measured again, since the memory's speed had changed by more than %.0f%%\n",
        num_again, kMaxChange * 100);
  }
  table.Finish();
  for (const auto& [length, experts] : reached) {
    std::printf("a prompt of %d reaches %.1f experts of a layer\n", length, experts);
  }
}

}  // namespace
}  // namespace moe

int main(int argc, char** argv) {
  moe::Flags flags;
  CLI::App app{"Predicted and measured step times of the CPU engine"};
  app.add_option("--model", flags.model)->required();
  app.add_option("--machine", flags.machine)->required();
  app.add_option("--moe", flags.moe, "the program, to calibrate before each group");
  app.add_option("--steps", flags.steps)->check(CLI::Range(1, 200))->capture_default_str();
  app.add_option("--prompts", flags.prompts)->check(CLI::Range(1, 50))->capture_default_str();
  app.add_option("--context", flags.context)->check(CLI::Range(1, 512))->capture_default_str();
  app.add_flag("--parts", flags.parts, "by part, too");
  CLI11_PARSE(app, argc, argv);
  moe::Run(flags);
}
