// Whole groups of either exchange, ranks as threads, and the engine in small that runs steps on
// them.
#ifndef MOE_TESTS_WORKER_EXCHANGE_GROUP_STEPS_H_
#define MOE_TESTS_WORKER_EXCHANGE_GROUP_STEPS_H_

#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/worker/exchange/fake_group.h"
#include "worker/exchange/tcp.h"

namespace moe::exchange {

// Over TCP on the loopback device, each rank with a listener of its own, as processes have. Without
// experts it is the control channel of another exchange.
struct TcpThreadGroup : RankThreads {
  explicit TcpThreadGroup(const GroupShape& group_shape,
                          absl::Duration step_deadline = absl::Minutes(2),
                          absl::Duration join_deadline = absl::Minutes(2), bool has_experts = true)
      : RankThreads(group_shape) {
    TcpOptions options{.step_deadline = step_deadline, .join_deadline = join_deadline};
    for (int rank = 0; rank < shape.num_ranks; ++rank) {
      auto listener = TcpListener::Start("127.0.0.1:0");
      EXPECT_TRUE(listener.ok()) << listener.status();
      options.addresses.push_back((*listener)->address());
      listeners.push_back(*std::move(listener));
    }
    for (int rank = 0; rank < shape.num_ranks; ++rank) {
      options.listener = listeners[rank].get();
      LocalExperts* const own = has_experts ? experts[rank].get() : nullptr;
      auto group = rank == 0 ? TcpGroup::Create(shape, /*epoch=*/7, own, options)
                             : TcpGroup::Open(ranks[0]->bootstrap(), shape, 7, rank, own, options);
      EXPECT_TRUE(group.ok()) << group.status();
      ranks.push_back(*std::move(group));
    }
  }
  // The groups use the listeners.
  ~TcpThreadGroup() override { ranks.clear(); }

  TcpGroup& at(int rank) { return dynamic_cast<TcpGroup&>(*ranks[rank]); }

  std::vector<std::unique_ptr<TcpListener>> listeners;
};

enum class Kind { kSharedMemory, kTcp };

inline std::unique_ptr<RankThreads> MakeThreads(Kind kind, const GroupShape& shape,
                                                absl::Duration step_deadline = absl::Minutes(2),
                                                absl::Duration join_deadline = absl::Minutes(2)) {
  if (kind == Kind::kTcp) {
    return std::make_unique<TcpThreadGroup>(shape, step_deadline, join_deadline);
  }
  return std::make_unique<ThreadGroup>(
      shape, SharedMemoryOptions{.step_deadline = step_deadline, .join_deadline = join_deadline});
}

inline std::string KindName(const testing::TestParamInfo<Kind>& info) {
  return info.param == Kind::kTcp ? "Tcp" : "SharedMemory";
}

// The plan of these tests: how many rows each owner has in the step.
inline std::string PlanText(const std::vector<int>& num_rows) {
  std::string text;
  for (const int count : num_rows) text.push_back(static_cast<char>(count));
  return text;
}

inline int RunLayers(const GroupShape& shape, EpochExchange& group, uint64_t step, int num_rows,
                     std::mt19937& random) {
  int num_wrong = 0;
  for (int layer = 0; layer < shape.num_layers; ++layer) {
    const std::vector<int32_t> expert_ids = RandomRouting(shape, num_rows, group.rows(), random);
    const absl::Status sent = group.Dispatch(step, layer, num_rows, expert_ids.data());
    EXPECT_TRUE(sent.ok()) << sent;
    const auto results = group.Combine();
    EXPECT_TRUE(results.ok()) << results.status();
    if (!sent.ok() || !results.ok()) return -1;
    num_wrong += CountWrong(shape, layer, num_rows, group.rows(), expert_ids, *results);
  }
  return num_wrong;
}

// The engine in small: a leader with plans and results, and owners that compute their rows. Ends
// with a plan that has no rows for anybody and names all ranks.
inline void RunSteps(RankThreads& threads, int num_steps, uint32_t seed) {
  const GroupShape& shape = threads.shape;
  const int num_owners = shape.replicated ? shape.num_ranks : shape.num_attention_ranks;
  std::vector<int> all;
  for (int rank = 1; rank < shape.num_ranks; ++rank) all.push_back(rank);

  threads.RunAll([&](int rank, EpochExchange& group) {
    ASSERT_TRUE(group.Connect().ok());
    std::mt19937 random(shape.replicated ? seed : seed + 1000 * (rank + 1));
    if (rank != 0) {
      while (true) {
        auto plan = group.ReceivePlan();
        ASSERT_TRUE(plan.ok()) << plan.status();
        if (plan->plan.empty()) return;
        const int num_rows = plan->plan.at(shape.replicated ? 0 : rank);
        const int num_wrong = RunLayers(shape, group, plan->step, num_rows, random);
        ASSERT_EQ(num_wrong, 0);
        const absl::Status sent =
            group.SendResult(plan->step, absl::StrCat("r", rank, "s", plan->step));
        ASSERT_TRUE(sent.ok()) << sent;
      }
    }
    std::mt19937 leader_random(seed + 99);
    for (int step = 1; step <= num_steps; ++step) {
      std::vector<int> num_rows(num_owners);
      std::vector<int> named;
      for (int owner = 0; owner < num_owners; ++owner) {
        // Often idle; a replicated group has one number of rows for all, and never none.
        const int low = shape.replicated ? 1 : -shape.max_rows;
        const int count = std::uniform_int_distribution<int>(low, shape.max_rows)(leader_random);
        num_rows[owner] = std::max(0, count);
        if (owner > 0 && num_rows[owner] > 0) named.push_back(owner);
      }
      if (shape.replicated) named = all;
      const absl::Status sent = group.SendPlan(step, PlanText(num_rows), named);
      ASSERT_TRUE(sent.ok()) << sent;
      if (num_rows[0] > 0) {
        ASSERT_EQ(RunLayers(shape, group, step, num_rows[0], random), 0);
      }
      auto results = group.ReceiveResults(step, named);
      ASSERT_TRUE(results.ok()) << results.status();
      ASSERT_EQ(results->size(), named.size());
      for (size_t i = 0; i < named.size(); ++i) {
        EXPECT_EQ((*results)[i], absl::StrCat("r", named[i], "s", step));
      }
    }
    ASSERT_TRUE(group.SendPlan(num_steps + 1, "", all).ok());
  });
}

}  // namespace moe::exchange

#endif  // MOE_TESTS_WORKER_EXCHANGE_GROUP_STEPS_H_
