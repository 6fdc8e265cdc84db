#include "cli/calibrate/machine_file.h"

#include <nlohmann/json.hpp>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "planner/catalog/hardware_files.h"

namespace moe::cli {
namespace {

using testing::HasSubstr;

// A machine of 4 cores with 20 GB/s and 400 GFLOP/s of which half of the shorter hides, whose
// exchange takes 30 us, 4 us for a message and 1 us for 5 kB.
Measurements OfKnownMachine() {
  Measurements measured;
  measured.date = "2026-01-02";
  measured.cpu = "Some \"CPU\"";
  measured.level = "avx2";
  measured.model = "tiny";
  measured.num_cores = 4;
  measured.num_rounds = 3;
  measured.memory_bytes = 16e9;
  const ProductRates rates = {.bytes_per_second = 20e9, .flops_per_second = 400e9, .overlap = 0.5};
  for (const double rows : {1, 4, 16, 64, 256}) {
    ProductSample sample = {.bytes = 1e9, .flops = 1e9 * rows};
    sample.seconds = SecondsOf(rates, sample);
    measured.kernels.products.push_back(sample);
  }
  const ProductRates core = {.bytes_per_second = 8e9, .flops_per_second = 100e9, .overlap = 0.5};
  measured.kernels.one_core = {.bytes = 1e9, .flops = 1e9};
  measured.kernels.one_core.seconds = SecondsOf(core, measured.kernels.one_core);
  const ProductRates attention = {
      .bytes_per_second = 20e9, .flops_per_second = 50e9, .overlap = 0.5};
  measured.kernels.attention = {{.bytes = 1e6, .flops = 1e9}};
  measured.kernels.attention[0].seconds = SecondsOf(attention, measured.kernels.attention[0]);
  measured.host = {.step_seconds = 40e-6, .layer_seconds = 25e-6};
  for (const double messages : {1, 7, 60}) {
    for (const double bytes : {5e3, 5e6}) {
      measured.exchange.push_back({.num_ranks = 64,
                                   .num_rows = 1,
                                   .messages = messages,
                                   .bytes = bytes,
                                   .seconds = 30e-6 + messages * 4e-6 + bytes / 5e9});
    }
  }
  return measured;
}

TEST(MachineFileTest, ThePlannerReadsWhatTheMachineIs) {
  const Measurements measured = OfKnownMachine();
  const auto machine = DescribeMachine(measured);
  ASSERT_TRUE(machine.ok()) << machine.status();
  const std::string text = MachineFileText(measured, *machine);

  const auto device_text = planner::PartOfFile(text, "device", "m.json");
  ASSERT_TRUE(device_text.ok()) << device_text.status();
  const auto device = planner::ParseDevice(*device_text, "m", "m.json");
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_NEAR(device->bandwidth() / 20e9, 1, 0.03);
  EXPECT_NEAR(device->flops(2) / 400e9, 1, 0.03);
  EXPECT_NEAR(device->read_overlap, 0.5, 0.05);
  EXPECT_NEAR(device->attention_flops / 50e9, 1, 0.03);
  EXPECT_EQ(device->memory_bytes, 16e9);
  EXPECT_NEAR(device->node_link_bytes_per_second / 5e9, 1, 0.01);
  ASSERT_TRUE(device->shared_cores.has_value());
  EXPECT_EQ(device->shared_cores->num_cores, 4);
  EXPECT_NEAR(device->shared_cores->core_bytes_per_second / 8e9, 1, 0.05);
  ASSERT_TRUE(device->host.has_value());
  EXPECT_EQ(device->host->step_seconds, 40e-6);
  EXPECT_EQ(device->host->layer_seconds, 25e-6);

  const auto library_text = planner::PartOfFile(text, "exchange", "m.json");
  ASSERT_TRUE(library_text.ok()) << library_text.status();
  const auto library = planner::ParseExchangeLibrary(*library_text, "m", "m.json");
  ASSERT_TRUE(library.ok()) << library.status();
  EXPECT_NEAR(library->node_dispatch_latency_seconds, 30e-6, 1e-8);
  EXPECT_NEAR(library->node_message_seconds, 4e-6, 1e-9);
  EXPECT_TRUE(library->owners_apart);
  EXPECT_TRUE(library->within_node_only);
}

TEST(MachineFileTest, EachMeasuredNumberSaysWhenAndOnWhatItWasMeasured) {
  const Measurements measured = OfKnownMachine();
  const nlohmann::json json =
      nlohmann::json::parse(MachineFileText(measured, DescribeMachine(measured).value()));
  for (const char* field : {"memory_bytes_per_second", "bf16_flops", "read_overlap",
                            "attention_flops", "node_link_bytes_per_second",
                            "core_bytes_per_second", "step_host_seconds", "layer_host_seconds"}) {
    EXPECT_THAT(json["device"][field]["source"].get<std::string>(),
                HasSubstr("measured by moe calibrate, 2026-01-02, Some \"CPU\", 4 threads, avx2, "
                          "shapes of tiny"))
        << field;
  }
  EXPECT_THAT(json["exchange"]["node_message_seconds"]["source"].get<std::string>(),
              HasSubstr("between up to 64 processes, each within 1%"));
}

TEST(MachineFileTest, AMachineHasNoNetworkLink) {
  const Measurements measured = OfKnownMachine();
  const std::string text = MachineFileText(measured, DescribeMachine(measured).value());
  EXPECT_THAT(planner::PartOfFile(text, "link", "m.json").status().message(),
              HasSubstr("m.json: describes a machine, and has no part \"link\""));
}

TEST(MachineFileTest, OneCoreReachesItsPartAtLeastAndAllAtMost) {
  Measurements measured = OfKnownMachine();
  const auto core_bandwidth = [&] {
    return DescribeMachine(measured)->device.shared_cores->core_bytes_per_second;
  };
  measured.kernels.one_core.seconds *= 100;  // a core that was busy with something else
  EXPECT_NEAR(core_bandwidth() / 5e9, 1, 0.03);
  measured.kernels.one_core.seconds /= 10000;
  EXPECT_NEAR(core_bandwidth() / 20e9, 1, 0.03);
}

TEST(MachineFileTest, WithoutSamplesThereIsNoMachine) {
  Measurements measured = OfKnownMachine();
  measured.exchange.clear();
  EXPECT_FALSE(DescribeMachine(measured).ok());
  measured = OfKnownMachine();
  measured.kernels.products.clear();
  EXPECT_FALSE(DescribeMachine(measured).ok());
}

}  // namespace
}  // namespace moe::cli
