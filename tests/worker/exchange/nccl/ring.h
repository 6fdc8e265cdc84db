// The engine in small, for tests of epochs over NCCL: in each layer each rank sends a few bytes to
// the next one.
#ifndef MOE_TESTS_WORKER_EXCHANGE_NCCL_RING_H_
#define MOE_TESTS_WORKER_EXCHANGE_NCCL_RING_H_

#include <string>

#include "absl/strings/str_cat.h"
#include "tests/worker/exchange/nccl/nccl_threads.h"

namespace moe::exchange {

// One layer of the current step: OK, or what the epoch says.
inline absl::Status RunRingLayer(NcclThreads& threads, int rank, uint64_t step, int layer) {
  NcclEpoch& epoch = *threads.epochs[rank];
  if (absl::Status status = epoch.BeginLayer(layer); !status.ok()) return status;
  const int num_ranks = threads.shape.num_ranks;
  if (num_ranks == 1) return absl::OkStatus();
  const auto text = [&](int from) { return absl::StrCat(from, " ", step % 10, " ", layer); };
  const int before = (rank + num_ranks - 1) % num_ranks;
  const std::string sent = text(rank);
  std::string received(text(before).size(), ' ');
  const absl::Status status = epoch.Enqueue({{.kind = Transfer::Kind::kSend,
                                              .peer = (rank + 1) % num_ranks,
                                              .from = sent.data(),
                                              .num_bytes = sent.size()},
                                             {.kind = Transfer::Kind::kReceive,
                                              .peer = before,
                                              .to = received.data(),
                                              .num_bytes = received.size()}});
  if (!status.ok()) return status;
  EXPECT_EQ(received, text(before));
  return absl::OkStatus();
}

inline absl::Status RunRingStep(NcclThreads& threads, int rank, uint64_t step) {
  NcclEpoch& epoch = *threads.epochs[rank];
  if (absl::Status status = epoch.BeginStep(step); !status.ok()) return status;
  for (int layer = 0; layer < threads.shape.num_layers; ++layer) {
    if (absl::Status status = RunRingLayer(threads, rank, step, layer); !status.ok()) return status;
  }
  return epoch.EndStep();
}

// Plans, steps and results of one rank, all of which have to go well.
inline void RunRingSteps(NcclThreads& threads, int rank, int num_steps) {
  NcclEpoch& epoch = *threads.epochs[rank];
  for (int i = 0; i < num_steps; ++i) {
    if (rank != 0) {
      const auto plan = epoch.ReceivePlan();
      ASSERT_TRUE(plan.ok()) << plan.status();
      const absl::Status status = RunRingStep(threads, rank, plan->step);
      ASSERT_TRUE(status.ok()) << status;
      ASSERT_TRUE(epoch.SendResult(plan->step, plan->plan).ok());
      continue;
    }
    const uint64_t step = 40 + i;
    const absl::Status sent = epoch.SendPlan(step, "compute", threads.others());
    ASSERT_TRUE(sent.ok()) << sent;
    const absl::Status status = RunRingStep(threads, rank, step);
    ASSERT_TRUE(status.ok()) << status;
    const auto results = epoch.ReceiveResults(step, threads.others());
    ASSERT_TRUE(results.ok()) << results.status();
    EXPECT_THAT(*results, testing::Each("compute"));
  }
}

}  // namespace moe::exchange

#endif  // MOE_TESTS_WORKER_EXCHANGE_NCCL_RING_H_
