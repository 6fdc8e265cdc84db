// The decision in a cluster where things happen in any order and go wrong: see simulated_cluster.h
// for what is checked throughout. Beside that, whatever happened, the deployment is as the spec
// asks soon after the faults have stopped, and then there is nothing left to do.
//
// A failure prints the seed; MOE_SIMULATION_SEED=30 runs that one alone, and 1500-20000 those from
// the first to the last.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gtest/gtest.h"
#include "tests/controller/reconcile/simulated_cluster.h"

namespace moe::reconcile {
namespace {

using Options = SimulatedCluster::Options;

// Moves that a cluster without faults needs at most, the longest backoffs included.
constexpr int kMaxQuietMoves = 20'000;

Options Draw(uint64_t seed) {
  Options options;
  options.expert = 1 + static_cast<int>(seed % 4);
  options.replicas = 1 + static_cast<int>(seed / 4 % 3);
  // Half of the groups that can have pods of two workers do.
  if (options.expert % 2 == 0 && seed / 48 % 2 == 1) {
    options.gpus_per_pod = 2;
  }
  options.max_surge = static_cast<int>(seed / 12 % 2);
  options.max_unavailable = static_cast<int>(seed / 24 % 2);
  options.max_slot_failures = seed % 5 == 0 ? 5 : 1000;
  // A third of the deployments have spare pods, and nodes for those.
  options.spares = seed % 3 == 2 ? 1 + static_cast<int>(seed / 3 % 2) : 0;
  options.num_nodes += 2 * options.spares;
  return options;
}

// Groups of up to 8. Each node has room for what any decision may ask for, so that scaling up can
// end, and a gang is given time for as many pods.
Options DrawAuto(uint64_t seed) {
  Options options = Draw(seed);
  options.automatic = true;
  options.gpus_per_pod = seed / 48 % 2 == 1 ? 2 : 1;
  options.gpus_per_node = options.spares > 0 ? 4 : 2;
  options.pods_per_node = 32;
  options.gang_timeout_seconds = 120;
  return options;
}

bool MoveUntilConverged(SimulatedCluster* cluster) {
  for (int i = 0; i < kMaxQuietMoves && cluster->violation().empty(); ++i) {
    if (i % 20 == 0 && cluster->Converged()) {
      return true;
    }
    cluster->Move(/*faults=*/false);
  }
  return false;
}

bool HasFailedGroup(const SimulatedCluster& cluster) {
  const auto& groups = cluster.deployment().status.groups;
  return std::any_of(groups.begin(), groups.end(),
                     [](const api::GroupStatus& group) { return group.phase == "Failed"; });
}

void RunWithFaults(const Options& options, uint64_t seed) {
  SimulatedCluster cluster(options, seed);
  for (int i = 0; i < 600 && cluster.violation().empty(); ++i) {
    cluster.Move(/*faults=*/true);
  }
  cluster.Heal();
  bool converged = false;
  for (int edits = 0; edits < 20 && !converged && cluster.violation().empty(); ++edits) {
    // Groups that failed wait for this; each may fail once more of what had happened before.
    cluster.Scale(cluster.deployment().spec.replicas);
    converged = MoveUntilConverged(&cluster);
    if (!HasFailedGroup(cluster)) {
      break;
    }
  }
  ASSERT_EQ(cluster.violation(), "") << cluster.Dump();
  ASSERT_TRUE(converged) << cluster.Dump();
}

// With each seed from 0 to `last`, or those that the environment names.
void RunSeeds(uint64_t last, Options (*draw)(uint64_t)) {
  uint64_t first = 0;
  if (const char* text = std::getenv("MOE_SIMULATION_SEED"); text != nullptr) {
    const std::pair<std::string, std::string> range = absl::StrSplit(text, absl::MaxSplits('-', 1));
    ASSERT_TRUE(absl::SimpleAtoi(range.first, &first)) << text;
    last = first;
    ASSERT_TRUE(range.second.empty() || absl::SimpleAtoi(range.second, &last)) << text;
  }
  for (uint64_t seed = first; seed <= last; ++seed) {
    SCOPED_TRACE(absl::StrCat("MOE_SIMULATION_SEED=", seed));
    RunWithFaults(draw(seed), seed);
    if (testing::Test::HasFatalFailure()) {
      return;
    }
  }
}

TEST(SimulationTest, WhateverHappensNoRuleIsBrokenAndTheSpecIsReached) { RunSeeds(1499, Draw); }

TEST(SimulationTest, NorWithModeAutoWhateverGpusComeAndGo) { RunSeeds(299, DrawAuto); }

TEST(SimulationTest, WithoutFaultsARolloutNeverServesLessThanPromised) {
  for (uint64_t seed = 0; seed < 100; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    Options options = Draw(seed);
    options.pods_per_node = 16;
    SimulatedCluster cluster(options, seed);
    ASSERT_TRUE(MoveUntilConverged(&cluster)) << cluster.violation() << cluster.Dump();
    const bool neither = options.max_surge == 0 && options.max_unavailable == 0;
    const int promised = std::max(0, options.replicas - (neither ? 1 : options.max_unavailable));
    for (int edit = 0; edit < 3; ++edit) {
      cluster.ChangeEngine(100 + edit);
      // Half of the time the next edit comes in the middle of the rollout.
      for (int i = 0; i < kMaxQuietMoves && !(i % 20 == 0 && i > 0 && cluster.Converged()); ++i) {
        cluster.Move(/*faults=*/false);
        ASSERT_EQ(cluster.violation(), "") << cluster.Dump();
        ASSERT_GE(cluster.num_serving(), promised) << cluster.Dump();
        if (edit < 2 && seed % 2 == 1 && i == 150) {
          break;
        }
      }
    }
    ASSERT_TRUE(cluster.Converged()) << cluster.Dump();
  }
}

TEST(SimulationTest, ScalingAndDeletionEndWithNothingLeft) {
  for (uint64_t seed = 0; seed < 100; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    SimulatedCluster cluster(Draw(seed), seed);
    for (const int replicas : {2, 3, 1, 0, 2}) {
      cluster.Scale(replicas);
      ASSERT_TRUE(MoveUntilConverged(&cluster)) << cluster.violation() << cluster.Dump();
    }
    cluster.Delete();
    for (int i = 0; i < kMaxQuietMoves && !cluster.Gone(); ++i) {
      cluster.Move(/*faults=*/false);
    }
    ASSERT_EQ(cluster.violation(), "") << cluster.Dump();
    ASSERT_TRUE(cluster.Gone()) << cluster.Dump();
  }
}

}  // namespace
}  // namespace moe::reconcile
