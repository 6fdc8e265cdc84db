#include "cli/calibrate/exchange_times.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <string>

#include "absl/strings/str_cat.h"
#include "worker/exchange/shared_memory.h"
#include "worker/exchange/turns.h"

namespace moe::cli {
namespace {

using exchange::GroupShape;
using exchange::SharedMemoryGroup;
using kernels::BFloat16;

// A step of one layer would mostly measure its plan.
constexpr int kLayers = 16;
constexpr int kMaxRows = 256;
constexpr int kNumRows[] = {1, 8, 64, kMaxRows};

// What a row's way costs without what is computed on it.
class CopyingExperts : public exchange::LocalExperts {
 public:
  explicit CopyingExperts(int hidden) : hidden_(hidden) {}
  void Run(int /*layer*/, absl::Span<const exchange::RoutedRow> rows, const BFloat16* x,
           BFloat16* out) override {
    for (const exchange::RoutedRow& row : rows) {
      std::memcpy(out + int64_t{row.out_row} * hidden_, x + int64_t{row.x_row} * hidden_,
                  hidden_ * sizeof(BFloat16));
    }
  }

 private:
  const int hidden_;
};

GroupShape ShapeOf(const model::ModelConfig& config, int num_ranks) {
  GroupShape shape{.num_ranks = num_ranks,
                   .num_layers = kLayers,
                   .num_experts = config.num_experts,
                   .hidden = config.hidden,
                   .top_k = config.top_k,
                   .max_rows = kMaxRows,
                   .rank_of_expert = {}};
  for (int expert = 0; expert < config.num_experts; ++expert) {
    shape.rank_of_expert.push_back(expert % num_ranks);
  }
  return shape;
}

// As moe-worker has them.
exchange::SharedMemoryOptions OptionsOf(int num_ranks) {
  exchange::SharedMemoryOptions options;
  const std::vector<int> cores = exchange::AllowedCores();
  if (num_ranks > static_cast<int>(cores.size())) options.cores = cores;
  return options;
}

// A rank without rows: serves until it is killed.
absl::Status ServeRank(const GroupShape& shape, int rank, const std::string& bootstrap) {
  CopyingExperts experts(shape.hidden);
  const auto group =
      SharedMemoryGroup::Open(bootstrap, shape, 1, rank, &experts, OptionsOf(shape.num_ranks));
  if (!group.ok()) return group.status();
  if (absl::Status status = (*group)->Connect(); !status.ok()) return status;
  while (true) {
    if (const auto plan = (*group)->ReceivePlan(); !plan.ok()) return plan.status();
  }
}

// Child processes, ended with this.
class Ranks {
 public:
  Ranks() = default;
  ~Ranks() {
    for (const pid_t child : children_) kill(child, SIGKILL);
    for (const pid_t child : children_) waitpid(child, nullptr, 0);
  }
  Ranks(const Ranks&) = delete;
  Ranks& operator=(const Ranks&) = delete;

  absl::Status Start(const GroupShape& shape, const std::string& bootstrap) {
    const pid_t parent = getpid();
    for (int rank = 1; rank < shape.num_ranks; ++rank) {
      const pid_t child = fork();
      if (child < 0) {
        return absl::UnavailableError(absl::StrCat("cannot start process ", rank, " of ",
                                                   shape.num_ranks, ": ", std::strerror(errno)));
      }
      if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) _exit(1);
        _exit(ServeRank(shape, rank, bootstrap).ok() ? 0 : 1);
      }
      children_.push_back(child);
    }
    return absl::OkStatus();
  }

 private:
  std::vector<pid_t> children_;
};

// expert_ids [kLayers, num_rows, top_k]: any k of the experts, ascending. Counts what they move.
std::vector<int32_t> DrawRoutes(const GroupShape& shape, int num_rows, ExchangeSample* sample) {
  std::mt19937 random(1);
  std::vector<int32_t> experts(shape.num_experts);
  std::iota(experts.begin(), experts.end(), 0);
  std::vector<int32_t> ids;
  double messages = 0;
  double rows = 0;
  for (int layer = 0; layer < kLayers; ++layer) {
    std::vector<bool> reached(shape.num_ranks, false);
    for (int row = 0; row < num_rows; ++row) {
      std::shuffle(experts.begin(), experts.end(), random);
      std::sort(experts.begin(), experts.begin() + shape.top_k);
      std::vector<bool> of_row(shape.num_ranks, false);
      for (int j = 0; j < shape.top_k; ++j) {
        const int rank = shape.rank_of_expert[experts[j]];
        if (rank == 0) continue;
        rows += of_row[rank] ? 1 : 2;  // its output; the row itself goes once
        of_row[rank] = reached[rank] = true;
      }
      ids.insert(ids.end(), experts.begin(), experts.begin() + shape.top_k);
    }
    messages += static_cast<double>(std::count(reached.begin(), reached.end(), true));
  }
  sample->messages = messages / kLayers;
  sample->bytes = rows * shape.hidden * sizeof(BFloat16) / kLayers;
  return ids;
}

// Rank 0: owns all rows.
class Owner {
 public:
  Owner(const GroupShape& shape, exchange::EpochExchange* group) : shape_(shape), group_(group) {}

  absl::Status Step(int num_rows, const std::vector<int32_t>& ids) {
    if (absl::Status status = group_->SendPlan(++step_, "", {}); !status.ok()) return status;
    const size_t row_bytes = shape_.hidden * sizeof(BFloat16);
    for (int layer = 0; layer < kLayers; ++layer) {
      std::memset(group_->rows(), layer, num_rows * row_bytes);
      absl::Status status = group_->Dispatch(step_, layer, num_rows,
                                             ids.data() + size_t(layer) * num_rows * shape_.top_k);
      if (!status.ok()) return status;
      const auto outputs = group_->Combine();
      if (!outputs.ok()) return outputs.status();
      // Fetches the outputs, which other cores wrote.
      const size_t num_bytes = size_t(num_rows) * shape_.top_k * row_bytes;
      fetched_.resize(num_bytes);
      std::memcpy(fetched_.data(), *outputs, num_bytes);
    }
    return absl::OkStatus();
  }

 private:
  const GroupShape& shape_;
  exchange::EpochExchange* const group_;
  uint64_t step_ = 0;
  std::vector<char> fetched_;
};

absl::Status MeasureGroup(const model::ModelConfig& config, int num_ranks, double seconds,
                          std::vector<ExchangeSample>* samples) {
  const GroupShape shape = ShapeOf(config, num_ranks);
  CopyingExperts experts(shape.hidden);
  const auto group = SharedMemoryGroup::Create(shape, 1, &experts, OptionsOf(num_ranks));
  if (!group.ok()) return group.status();
  Ranks others;
  if (absl::Status status = others.Start(shape, (*group)->bootstrap()); !status.ok()) {
    return status;
  }
  if (absl::Status status = (*group)->Connect(); !status.ok()) return status;
  Owner owner(shape, group->get());
  for (const int num_rows : kNumRows) {
    ExchangeSample sample{.num_ranks = num_ranks, .num_rows = num_rows};
    const std::vector<int32_t> ids = DrawRoutes(shape, num_rows, &sample);
    if (absl::Status status = owner.Step(num_rows, ids); !status.ok()) return status;  // memory
    std::vector<double> steps;
    double elapsed = 0;
    while (elapsed < seconds || steps.size() < 3) {
      const auto begin = std::chrono::steady_clock::now();
      if (absl::Status status = owner.Step(num_rows, ids); !status.ok()) return status;
      steps.push_back(
          std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
      elapsed += steps.back();
    }
    sample.seconds = Median(std::move(steps)) / kLayers;
    samples->push_back(sample);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<ExchangeSample>> MeasureExchange(const model::ModelConfig& config,
                                                            const ExchangeTimeOptions& options,
                                                            const Progress& progress) {
  std::vector<int> widths;
  for (const int width : {2, 8, 64}) {
    if (width <= config.num_experts && width <= options.max_ranks) widths.push_back(width);
  }
  std::vector<ExchangeSample> samples;  // of the first round, then their medians
  std::vector<std::vector<double>> seconds;
  for (int round = 0; round < options.num_rounds; ++round) {
    std::vector<ExchangeSample> measured;
    for (size_t i = 0; i < widths.size(); ++i) {
      progress("exchange", (round + static_cast<double>(i) / static_cast<double>(widths.size())) /
                               options.num_rounds);
      absl::Status status = MeasureGroup(config, widths[i], options.seconds_per_sample, &measured);
      if (!status.ok()) return status;
    }
    if (round == 0) samples = measured;
    seconds.resize(measured.size());
    for (size_t i = 0; i < measured.size(); ++i) seconds[i].push_back(measured[i].seconds);
  }
  for (size_t i = 0; i < samples.size(); ++i) samples[i].seconds = Median(seconds[i]);
  return samples;
}

}  // namespace moe::cli
