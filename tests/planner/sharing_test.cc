#include "planner/sharing.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "planner/balance.h"
#include "planner/feasibility.h"
#include "planner/forward_time.h"
#include "planner/memory.h"
#include "tests/planner/scenarios.h"

namespace moe::planner {
namespace {

using testing::HasSubstr;

// Four cores with 20 GB/s, 8 GB/s of it for one alone, and 400 GFLOP/s, of which nothing overlaps.
Scenario OlmoeOnCores() {
  Scenario scenario = OlmoeOn(64);
  Device& device = scenario.device;
  device = {.name = "machine",
            .title = "four cores",
            .memory_bytes = 32e9,
            .memory_bytes_per_second = 20e9,
            .bf16_flops = 400e9,
            .node_link_bytes_per_second = 5e9,
            .read_overlap = 0,
            .shared_cores = SharedCores{.num_cores = 4, .core_bytes_per_second = 8e9},
            .host = HostTimes{.step_seconds = 100e-6, .layer_seconds = 20e-6}};
  scenario.network.gpus_per_node = 1024;
  scenario.network.library = {.name = "machine",
                              .node_dispatch_latency_seconds = 30e-6,
                              .node_message_seconds = 4e-6,
                              .owners_apart = true,
                              .within_node_only = true};
  return scenario;
}

ForwardTime Decode(const Scenario& scenario, const char* name, double sequences) {
  const Layout layout = ParseLayout(name).value();
  return TimeOfForward(scenario.model, scenario.device, scenario.network, scenario.assumptions,
                       layout, DecodeRows(layout, sequences, 100));
}

TEST(SharingTest, ARankWithADeviceOfItsOwnSharesNothing) {
  const Scenario scenario = OlmoeOn(64);
  const Sharing sharing =
      SharingOf(scenario.device, scenario.network, Founding(), DecodeRows(Founding(), 960, 100));
  EXPECT_EQ(sharing.ranks, 1);
  EXPECT_EQ(sharing.owners, 1);
  EXPECT_EQ(sharing.owner_rows, 15);
}

TEST(SharingTest, OwnersOfAMachineAddUpAndDivideItsCores) {
  const Scenario scenario = OlmoeOnCores();
  struct Row {
    const char* layout;
    double sequences;
    double owners;
    double owner_rows;
    double owner_cores;
    double expert_cores;
  };
  for (const Row& row :
       {Row{"EP64+A1+all-to-all", 8, 1, 8, 4, 4}, Row{"EP64+A2+all-to-all", 8, 2, 4, 4, 4},
        Row{"EP64+A2+all-to-all", 1, 1, 1, 2, 2},  // its two threads
        Row{"EP64+A8+all-to-all", 10, 8, 1.25, 4, 4}, Row{"EP64+A8+all-to-all", 2, 2, 1, 2, 2},
        Row{"EP8+replicated+gather", 6, 8, 6, 4, 4}, Row{"EP1", 3, 1, 3, 4, 4},
        Row{"EP4+A4+all-to-all", 1, 1, 1, 1, 4}}) {  // no turns: a core for each rank
    const Layout layout = ParseLayout(row.layout).value();
    const Sharing sharing = SharingOf(scenario.device, scenario.network, layout,
                                      DecodeRows(layout, row.sequences, 100));
    EXPECT_EQ(sharing.owners, row.owners) << row.layout;
    EXPECT_EQ(sharing.owner_rows, row.owner_rows) << row.layout;
    EXPECT_EQ(sharing.owner_cores, row.owner_cores) << row.layout;
    EXPECT_EQ(sharing.expert_cores, row.expert_cores) << row.layout;
  }
}

TEST(SharingTest, NoWidthMakesAMachineFaster) {
  const Scenario scenario = OlmoeOnCores();
  for (const double batch : {1, 8, 64}) {
    const double alone = Decode(scenario, "EP1", batch).total_seconds();
    for (const char* layout : {"EP2+A1+all-to-all", "EP8+A1+all-to-all", "EP64+A1+all-to-all",
                               "EP64+A8+all-to-all", "EP8+replicated+gather"}) {
      EXPECT_GE(Decode(scenario, layout, batch).total_seconds(), alone * (1 - 1e-9))
          << layout << " " << batch;
    }
  }
}

TEST(SharingTest, ExpertsOfAllRanksAreReadByTheCoresThatHaveWork) {
  const Scenario scenario = OlmoeOnCores();
  const ModelShape& model = scenario.model;
  // One row reads 8 experts; 8 ranks are more than the cores.
  const double bytes = 8 * model.expert_bytes() * 16;
  const double flops = 2.0 * 8 * static_cast<double>(model.expert_params()) * 16;
  const double expected = bytes / 20e9 + flops / 400e9;
  EXPECT_NEAR(Decode(scenario, "EP64+A1+all-to-all", 1).expert_seconds, expected, expected * 0.01);
  EXPECT_NEAR(Decode(scenario, "EP1", 1).expert_seconds, expected, expected * 0.01);
  // The owner of the row has half of the cores, and its experts run there.
  EXPECT_NEAR(Decode(scenario, "EP64+A2+all-to-all", 1).expert_seconds,
              bytes / 16e9 + flops / 200e9, expected * 0.01);
  // Two ranks run on two cores, which read 16 GB/s and compute at half of the rate, or wait for
  // the busier one.
  EXPECT_GE(Decode(scenario, "EP2+A1+all-to-all", 1).expert_seconds,
            bytes / 16e9 + flops / 200e9 - 1e-9);
}

TEST(SharingTest, WeightsAreReadOnceForEachOwnerWhoseRowsComeApart) {
  Scenario scenario = OlmoeOnCores();
  scenario.device.bf16_flops = 1e18;
  const ModelShape& model = scenario.model;
  const double eight_rows = ExpectedDistinctExperts(64, 8, 8) * model.expert_bytes() * 16 / 20e9;
  EXPECT_NEAR(Decode(scenario, "EP64+A8+all-to-all", 64).expert_seconds, 8 * eight_rows, 1e-6);
  scenario.network.library.owners_apart = false;
  EXPECT_NEAR(Decode(scenario, "EP64+A8+all-to-all", 64).expert_seconds,
              ExpectedDistinctExperts(64, 8, 64) * model.expert_bytes() * 16 / 20e9, 1e-6);
}

TEST(SharingTest, ExpertsThatAreKnownToBeChosenAreRead) {
  Scenario scenario = OlmoeOnCores();
  scenario.device.bf16_flops = 1e18;
  const Layout alone = ParseLayout("EP1").value();
  StepRows rows = SinglePromptRows(alone, 32);
  const auto seconds = [&] {
    return TimeOfForward(scenario.model, scenario.device, scenario.network, scenario.assumptions,
                         alone, rows)
        .expert_seconds;
  };
  const double bytes = scenario.model.expert_bytes() * 16;
  EXPECT_NEAR(seconds(), ExpectedDistinctExperts(64, 8, 32) * bytes / 20e9, 1e-6);
  rows.distinct_experts = 40;
  EXPECT_NEAR(seconds(), 40 * bytes / 20e9, 1e-6);
}

TEST(SharingTest, EachOwnersMessagesTakeTheirTurn) {
  Scenario scenario = OlmoeOnCores();
  scenario.device.node_link_bytes_per_second = 1e15;
  // A row reaches 8 of 64 ranks, of which 1/64 is the owner.
  const double one = 16 * (30e-6 + 4e-6 * 8 * 63 / 64);
  EXPECT_NEAR(Decode(scenario, "EP64+A1+all-to-all", 1).exchange_seconds(), one, 1e-7);
  // On the half of the cores that is its owner's.
  EXPECT_NEAR(Decode(scenario, "EP64+A2+all-to-all", 1).exchange_seconds(),
              16 * (30e-6 + 2 * 4e-6 * 8 * 63 / 64), 1e-7);
  EXPECT_NEAR(Decode(scenario, "EP64+A8+all-to-all", 8).exchange_seconds(),
              16 * (30e-6 + 8 * 4e-6 * 8 * 63 / 64), 1e-7);
}

TEST(SharingTest, TheHostsTimeIsTheMeasuredOne) {
  const Scenario scenario = OlmoeOnCores();
  EXPECT_NEAR(Decode(scenario, "EP1", 1).host_seconds, 100e-6 + 16 * 20e-6, 1e-12);
}

TEST(SharingTest, WhatNothingHidesIsNotHiddenInThePartsEither) {
  Scenario scenario = OlmoeOnCores();
  const ForwardTime sum = Decode(scenario, "EP1", 16);
  scenario.device.read_overlap = 1;
  const ForwardTime roofline = Decode(scenario, "EP1", 16);
  EXPECT_GT(sum.expert_seconds, roofline.expert_seconds);
  EXPECT_LE(sum.expert_seconds, 2 * roofline.expert_seconds);
}

TEST(SharingTest, AnOwnerHasWhatOtherRanksExpertsLeaveOfTheMachine) {
  const Scenario scenario = OlmoeOnCores();
  const auto memory = [&](const char* name) {
    return MemoryOfOwner(scenario.model, scenario.device, scenario.network, scenario.assumptions,
                         ParseLayout(name).value());
  };
  const double experts = 64.0 * scenario.model.expert_bytes() * 16;
  EXPECT_DOUBLE_EQ(memory("EP1"), 32e9);
  EXPECT_NEAR(memory("EP64+A1+all-to-all"), 32e9 - experts * 63 / 64, 1);
  EXPECT_NEAR(memory("EP64+A2+all-to-all"), (32e9 - experts * 62 / 64 - 3e9) / 2 + 3e9, 1);
  // A GPU is the rank's alone.
  EXPECT_EQ(MemoryOfOwner(scenario.model, RooflineH200(), scenario.network, scenario.assumptions,
                          Founding()),
            141e9);
}

TEST(SharingTest, WhatTheModelDoesNotKnowOfSharedCoresIsRefused) {
  const Scenario scenario = OlmoeOnCores();
  const auto check = [&](const char* name) {
    return CheckSharing(ParseLayout(name).value(), scenario.device, scenario.network);
  };
  EXPECT_TRUE(check("EP64+A1+all-to-all").ok());
  EXPECT_THAT(check("EP8_TP2").message(), HasSubstr("tensor parallelism is not modelled"));
  EXPECT_THAT(check("EP8_PP2").message(), HasSubstr("pipeline stages are not modelled"));
  EXPECT_THAT(check("EP8+C2").message(), HasSubstr("copies and spares are not modelled"));
  EXPECT_THAT(check("DP2").message(), HasSubstr("several groups on one machine"));
  EXPECT_TRUE(CheckSharing(ParseLayout("EP8_TP2").value(), RooflineH200(), scenario.network).ok());
}

TEST(SharingTest, ALibraryOfOneMachineIsRefusedWhereAGroupSpansTwo) {
  Scenario scenario = OlmoeOnCores();
  scenario.network.gpus_per_node = 32;
  const absl::Status status =
      CheckSizes(ParseLayout("EP64+A1+all-to-all").value(), scenario.model, scenario.network, 64);
  EXPECT_THAT(status.message(), HasSubstr("library machine was measured within one only"));
  EXPECT_TRUE(
      CheckSizes(ParseLayout("EP32+A1+all-to-all").value(), scenario.model, scenario.network, 64)
          .ok());
}

}  // namespace
}  // namespace moe::planner
