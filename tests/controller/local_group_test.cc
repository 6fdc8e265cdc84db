#include "controller/local_group.h"

#include <string>
#include <vector>

#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::controller {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

LocalFlags Flags(int expert_parallel, const std::vector<int>& gpu_of_rank) {
  LocalFlags flags;
  flags.model = "/model";
  flags.run_dir = "/run/x";
  flags.expert_parallel = expert_parallel;
  flags.gpu_of_rank = gpu_of_rank;
  return flags;
}

std::string CommandOf(const LocalFlags& flags, int slot) {
  return absl::StrJoin(LocalWorkerCommand(flags, "/bin/moe-worker", slot, "worker-7"), " ");
}

TEST(LocalGroupTest, RanksExchangeByWhatTheyComputeOnAndHowManyTheyAre) {
  struct Case {
    const char* what;
    int expert_parallel;
    std::vector<int> gpu_of_rank;
    coordinator::v1::ExchangeKind exchange;
  };
  for (const Case& c :
       std::vector<Case>{{"one rank on a CPU", 1, {}, coordinator::v1::EXCHANGE_SHARED_MEMORY},
                         {"eight on CPUs", 8, {}, coordinator::v1::EXCHANGE_SHARED_MEMORY},
                         {"one on a GPU", 1, {0}, coordinator::v1::EXCHANGE_SHARED_MEMORY},
                         {"two on GPUs", 2, {0, 1}, coordinator::v1::EXCHANGE_NCCL},
                         {"four on two GPUs", 4, {0, 0, 1, 1}, coordinator::v1::EXCHANGE_NCCL}}) {
    SCOPED_TRACE(c.what);
    const auto group = MakeLocalGroup(Flags(c.expert_parallel, c.gpu_of_rank), 8, 2);
    ASSERT_TRUE(group.ok()) << group.status();
    EXPECT_EQ(group->exchange, c.exchange);
    EXPECT_EQ(coordinator::Group(*group).spec().exchange(), c.exchange);
    // Communicators take longer to make than what ranks of a CPU join by.
    EXPECT_EQ(group->stage_deadline > coordinator::GroupOptions().stage_deadline,
              c.exchange == coordinator::v1::EXCHANGE_NCCL);
  }
}

TEST(LocalGroupTest, EachWorkerIsToldItsGpuAndWhereItListensForOthers) {
  const LocalFlags two = Flags(2, {1, 3});
  EXPECT_THAT(CommandOf(two, 0), HasSubstr("--gpu 1 --exchange-address 127.0.0.1:0"));
  EXPECT_THAT(CommandOf(two, 1), HasSubstr("--gpu 3 --exchange-address 127.0.0.1:0"));
  EXPECT_THAT(CommandOf(two, 1), Not(HasSubstr("--shares-gpu")));
  EXPECT_THAT(CommandOf(Flags(1, {2}), 0), HasSubstr("--gpu 2"));
  EXPECT_THAT(CommandOf(Flags(1, {2}), 0), Not(HasSubstr("--exchange-address")));
  EXPECT_THAT(CommandOf(Flags(8, {}), 5), Not(HasSubstr("--gpu")));
  EXPECT_THAT(CommandOf(Flags(8, {}), 5), Not(HasSubstr("--exchange-address")));
}

TEST(LocalGroupTest, OnlyRanksThatShareAGpuAreHostsOfTheirOwnToNccl) {
  const LocalFlags flags = Flags(3, {0, 0, 1});
  EXPECT_THAT(CommandOf(flags, 0), HasSubstr("--shares-gpu"));
  EXPECT_THAT(CommandOf(flags, 1), HasSubstr("--shares-gpu"));
  EXPECT_THAT(CommandOf(flags, 2), Not(HasSubstr("--shares-gpu")));
}

TEST(LocalGroupTest, FlagsThatContradictEachOtherAreRefused) {
  const auto few = MakeLocalGroup(Flags(4, {0, 1}), 8, 2);
  EXPECT_EQ(few.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(few.status().message(), "--gpu-of-rank names 2 GPUs for 4 workers");
  EXPECT_EQ(MakeLocalGroup(Flags(9, {}), 8, 2).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace moe::controller
