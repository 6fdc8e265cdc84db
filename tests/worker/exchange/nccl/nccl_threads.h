// All ranks of a group whose rows travel over the fake NCCL, as threads of this process: each with
// its own listener, control channel and NCCL, as processes have.
#ifndef MOE_TESTS_WORKER_EXCHANGE_NCCL_NCCL_THREADS_H_
#define MOE_TESTS_WORKER_EXCHANGE_NCCL_NCCL_THREADS_H_

#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker/exchange/nccl/fake_nccl.h"
#include "worker/exchange/nccl/nccl_epoch.h"

namespace moe::exchange {

struct NcclThreads {
  // The deadlines are those of tests that expect none to pass.
  explicit NcclThreads(const GroupShape& group_shape,
                       absl::Duration step_deadline = absl::Minutes(2),
                       absl::Duration join_deadline = absl::Minutes(2))
      : shape(group_shape) {
    options.control.step_deadline = step_deadline;
    options.control.join_deadline = join_deadline;
    options.watch.interval = absl::Milliseconds(5);
    for (int rank = 0; rank < shape.num_ranks; ++rank) {
      auto listener = TcpListener::Start("127.0.0.1:0");
      EXPECT_TRUE(listener.ok()) << listener.status();
      options.control.addresses.push_back((*listener)->address());
      listeners.push_back(*std::move(listener));
      apis.push_back(std::make_unique<FakeNcclApi>(&nccl, rank));
    }
  }
  ~NcclThreads() {
    epochs.clear();
    EXPECT_EQ(nccl.num_communicators(), 0);
    EXPECT_EQ(nccl.num_registrations(), 0);
    EXPECT_THAT(nccl.violations(), testing::IsEmpty());
  }

  // Makes all ranks' ends of a new epoch.
  void MakeEpoch(uint64_t number) {
    epochs.clear();
    for (int rank = 0; rank < shape.num_ranks; ++rank) {
      NcclEpochOptions own = options;
      own.control.listener = listeners[rank].get();
      auto epoch = rank == 0 ? NcclEpoch::Create(shape, number, apis[0].get(), own)
                             : NcclEpoch::Open(epochs[0]->bootstrap(), shape, number, rank,
                                               apis[rank].get(), own);
      ASSERT_TRUE(epoch.ok()) << epoch.status();
      epochs.push_back(*std::move(epoch));
    }
  }

  // Runs body(rank) on a thread for each rank, and joins them. A fatal failure of one ends the
  // waits of all.
  void RunAll(const std::function<void(int rank)>& body) {
    std::vector<std::thread> threads;
    for (int rank = 0; rank < shape.num_ranks; ++rank) {
      threads.emplace_back([&, rank] {
        body(rank);
        if (!testing::Test::HasFatalFailure()) return;
        for (const auto& epoch : epochs) {
          if (epoch != nullptr) epoch->Abort("another rank's test failed");
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

  void ConnectAll() {
    RunAll([this](int rank) {
      const absl::Status status = epochs[rank]->Connect();
      ASSERT_TRUE(status.ok()) << "rank " << rank << ": " << status;
    });
  }

  // All ranks but 0.
  std::vector<int> others() const {
    std::vector<int> ranks;
    for (int rank = 1; rank < shape.num_ranks; ++rank) ranks.push_back(rank);
    return ranks;
  }

  const GroupShape shape;
  NcclEpochOptions options;
  FakeNccl nccl;
  std::vector<std::unique_ptr<TcpListener>> listeners;
  std::vector<std::unique_ptr<FakeNcclApi>> apis;
  std::vector<std::unique_ptr<NcclEpoch>> epochs;
};

}  // namespace moe::exchange

#endif  // MOE_TESTS_WORKER_EXCHANGE_NCCL_NCCL_THREADS_H_
