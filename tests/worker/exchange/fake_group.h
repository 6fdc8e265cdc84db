// What the exchange tests share: experts that compute an exact function of (layer, expert, row
// bits), the obvious reference for a layer, random routings, and groups of ranks as threads.
#ifndef MOE_TESTS_WORKER_EXCHANGE_FAKE_GROUP_H_
#define MOE_TESTS_WORKER_EXCHANGE_FAKE_GROUP_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "worker/exchange/segment.h"
#include "worker/exchange/shared_memory.h"
#include "worker/exchange/shared_memory_group.h"

namespace moe::exchange {

// One output element of an expert: mixes every bit of its inputs.
inline uint16_t ExpertOutput(int layer, int expert, uint16_t x_bits, int column) {
  uint32_t hash = 2166136261u;
  for (const uint32_t value : {static_cast<uint32_t>(layer), static_cast<uint32_t>(expert),
                               static_cast<uint32_t>(x_bits), static_cast<uint32_t>(column)}) {
    hash = (hash ^ value) * 16777619u;
  }
  return static_cast<uint16_t>(hash ^ (hash >> 16));
}

// Checks what LocalExperts::Run promises about its rows, and computes ExpertOutput.
class FakeExperts : public LocalExperts {
 public:
  FakeExperts(const GroupShape& shape, int rank) : shape_(shape), rank_(rank) {}

  void Run(int layer, absl::Span<const RoutedRow> rows, const kernels::BFloat16* x,
           kernels::BFloat16* out) override {
    if (before_run) before_run(layer);
    num_runs.fetch_add(1);
    num_rows.fetch_add(static_cast<int64_t>(rows.size()));
    for (size_t i = 0; i < rows.size(); ++i) {
      const RoutedRow& row = rows[i];
      EXPECT_EQ(shape_.rank_of_expert[row.expert], rank_);
      if (i > 0) {
        EXPECT_LT(std::pair(rows[i - 1].expert, rows[i - 1].out_row),
                  std::pair(row.expert, row.out_row));
      }
      for (int c = 0; c < shape_.hidden; ++c) {
        const size_t from = static_cast<size_t>(row.x_row) * shape_.hidden + c;
        const size_t to = static_cast<size_t>(row.out_row) * shape_.hidden + c;
        out[to].bits = ExpertOutput(layer, row.expert, x[from].bits, c);
      }
    }
  }

  std::function<void(int layer)> before_run;
  std::atomic<int64_t> num_runs{0};
  std::atomic<int64_t> num_rows{0};

 private:
  const GroupShape shape_;
  const int rank_;
};

// A group whose experts lie on random ranks (some ranks may hold none).
inline GroupShape RandomShape(int num_ranks, int num_attention_ranks, std::mt19937& random) {
  GroupShape shape;
  shape.num_ranks = num_ranks;
  shape.num_attention_ranks = num_attention_ranks;
  shape.num_layers = std::uniform_int_distribution<int>(1, 4)(random);
  shape.num_experts = std::uniform_int_distribution<int>(1, 70)(random);
  shape.hidden = std::uniform_int_distribution<int>(1, 40)(random);
  shape.top_k = std::uniform_int_distribution<int>(1, std::min(8, shape.num_experts))(random);
  shape.max_rows = std::uniform_int_distribution<int>(1, 20)(random);
  shape.rank_of_expert.resize(shape.num_experts);
  for (int& rank : shape.rank_of_expert) {
    rank = std::uniform_int_distribution<int>(0, num_ranks - 1)(random);
  }
  return shape;
}

inline GroupShape SmallShape(int num_ranks, int num_attention_ranks) {
  GroupShape shape;
  shape.num_ranks = num_ranks;
  shape.num_attention_ranks = num_attention_ranks;
  shape.num_layers = 2;
  shape.num_experts = num_ranks;
  shape.hidden = 4;
  shape.top_k = num_ranks;
  shape.max_rows = 3;
  for (int expert = 0; expert < num_ranks; ++expert) shape.rank_of_expert.push_back(expert);
  return shape;
}

// Fills rows [num_rows, hidden] and returns expert_ids [num_rows, top_k] without repetition.
inline std::vector<int32_t> RandomRouting(const GroupShape& shape, int num_rows,
                                          kernels::BFloat16* rows, std::mt19937& random) {
  for (int i = 0; i < num_rows * shape.hidden; ++i) {
    rows[i].bits = static_cast<uint16_t>(random());
  }
  std::vector<int32_t> all(shape.num_experts);
  for (int expert = 0; expert < shape.num_experts; ++expert) all[expert] = expert;
  std::vector<int32_t> expert_ids;
  for (int row = 0; row < num_rows; ++row) {
    std::shuffle(all.begin(), all.end(), random);
    expert_ids.insert(expert_ids.end(), all.begin(), all.begin() + shape.top_k);
  }
  return expert_ids;
}

// The obvious reference: every pair on its own. Returns the number of wrong elements.
inline int CountWrong(const GroupShape& shape, int layer, int num_rows,
                      const kernels::BFloat16* rows, const std::vector<int32_t>& expert_ids,
                      const kernels::BFloat16* results) {
  int num_wrong = 0;
  for (int row = 0; row < num_rows; ++row) {
    for (int j = 0; j < shape.top_k; ++j) {
      const int out_row = row * shape.top_k + j;
      for (int c = 0; c < shape.hidden; ++c) {
        const uint16_t x = rows[static_cast<size_t>(row) * shape.hidden + c].bits;
        const uint16_t expected = ExpertOutput(layer, expert_ids[out_row], x, c);
        if (results[static_cast<size_t>(out_row) * shape.hidden + c].bits != expected) ++num_wrong;
      }
    }
  }
  return num_wrong;
}

// All ranks of a group in this process, each with its experts.
struct RankThreads {
  explicit RankThreads(const GroupShape& group_shape) : shape(group_shape) {
    for (int rank = 0; rank < shape.num_ranks; ++rank) {
      experts.push_back(std::make_unique<FakeExperts>(shape, rank));
    }
  }
  virtual ~RankThreads() = default;

  // Runs body(rank, group) on a thread per rank, and joins them. A fatal failure of one ends the
  // waits of all.
  void RunAll(const std::function<void(int, EpochExchange&)>& body) {
    std::vector<std::thread> threads;
    for (int rank = 0; rank < shape.num_ranks; ++rank) {
      threads.emplace_back([&, rank] {
        body(rank, *ranks[rank]);
        if (!testing::Test::HasFatalFailure()) return;
        for (const auto& group : ranks) {
          if (group != nullptr) group->Abort("another rank's test failed");
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

  void ConnectAll() {
    RunAll([](int rank, EpochExchange& group) {
      const absl::Status status = group.Connect();
      EXPECT_TRUE(status.ok()) << "rank " << rank << ": " << status;
    });
  }

  GroupShape shape;
  std::vector<std::unique_ptr<FakeExperts>> experts;
  std::vector<std::unique_ptr<EpochExchange>> ranks;
};

// Far longer than anything takes on a busy machine: for tests that expect no deadline to pass.
inline constexpr SharedMemoryOptions kPatient{.step_deadline = absl::Minutes(2),
                                              .join_deadline = absl::Minutes(2)};

// Over one mapping of shared memory, so that the thread sanitizer sees their accesses as what they
// are. `segment` is there to play a corrupt peer.
struct ThreadGroup : RankThreads {
  explicit ThreadGroup(const GroupShape& group_shape, const SharedMemoryOptions& options = kPatient)
      : RankThreads(group_shape) {
    absl::StatusOr<std::unique_ptr<Segment>> created = Segment::Create(shape, /*epoch=*/7);
    EXPECT_TRUE(created.ok()) << created.status();
    segment = *std::move(created);
    for (int rank = 0; rank < shape.num_ranks; ++rank) {
      ranks.push_back(
          std::make_unique<RankGroup>(segment, shape, rank, experts[rank].get(), options));
    }
  }

  std::shared_ptr<Segment> segment;
};

}  // namespace moe::exchange

#endif  // MOE_TESTS_WORKER_EXCHANGE_FAKE_GROUP_H_
