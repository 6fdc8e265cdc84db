#include "planner/catalog/hardware_files.h"

#include <nlohmann/json.hpp>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "planner/descriptions.h"

namespace moe::planner {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;

TEST(HardwareFilesTest, EveryDescriptionThatIsBuiltInCanBeReadAndSaysItsSources) {
  std::set<std::string> kinds;
  for (const Description& description : Descriptions()) {
    kinds.insert(description.kind);
    absl::Status status;
    if (description.kind == "devices") {
      status = ParseDevice(description.json, description.name, description.name).status();
    } else if (description.kind == "links") {
      status = ParseLink(description.json, description.name).status();
    } else {
      status = ParseExchangeLibrary(description.json, description.name, description.name).status();
    }
    EXPECT_TRUE(status.ok()) << description.kind << "/" << description.name << ": " << status;
    EXPECT_FALSE(Sources(description.json).empty()) << description.name;
  }
  EXPECT_EQ(kinds, (std::set<std::string>{"devices", "exchanges", "links"}));
}

Json H200() {
  for (const Description& description : Descriptions()) {
    if (description.kind == "devices" && description.name == "h200") {
      return Json::parse(description.json);
    }
  }
  return {};
}

TEST(HardwareFilesTest, TheNumbersAreThoseOfTheFile) {
  const auto device = ParseDevice(H200().dump(), "h200", "h200.json");
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_THAT(device->products, testing::ElementsAre("NVIDIA-H200"));
  EXPECT_EQ(device->memory_bytes, 141e9);
  EXPECT_EQ(device->memory_bytes_per_second, 4.8e12);
  EXPECT_NEAR(device->flops(2), 989e12 * 0.8, 1);
  EXPECT_NEAR(device->flops(1), 1979e12 * 0.8, 1);
  EXPECT_NEAR(device->bandwidth(), 4.8e12 * 0.8, 1);
}

TEST(HardwareFilesTest, AFileThatIsWrongIsRefusedWithItsField) {
  struct Row {
    const char* field;
    Json value;
    const char* message;
  };
  for (const Row& row :
       {Row{"memory_bytes", 141e9, "my.json: memory_bytes must be {\"value\""},
        Row{"memory_bytes", {{"value", 141e9}}, "memory_bytes has no source"},
        Row{"memory_bytes", {{"value", 141e9}, {"source", ""}}, "memory_bytes has no source"},
        Row{"memory_bytes",
            {{"value", -1}, {"source", "x"}},
            "memory_bytes is -1; it must be from"},
        Row{"memory_efficiency", {{"value", 1.5}, {"source", "x"}}, "memory_efficiency is 1.5"},
        Row{"title", 5, "title must be a text"},
        Row{"products", "NVIDIA-H200", "products must be {\"value\": [texts]"},
        Row{"products",
            {{"value", {"NVIDIA-H200", ""}}, {"source", "x"}},
            "products must be {\"value\": [texts]"},
        Row{"products", {{"value", {"NVIDIA-H200"}}}, "products has no source"},
        Row{"tflops", 5, "\"tflops\" is unknown here; known are attention_flops"}}) {
    Json json = H200();
    json[row.field] = row.value;
    const auto device = ParseDevice(json.dump(), "my", "my.json");
    ASSERT_FALSE(device.ok()) << row.field;
    EXPECT_THAT(std::string(device.status().message()), HasSubstr(row.message));
  }
  Json missing = H200();
  missing.erase("bf16_flops");
  EXPECT_THAT(std::string(ParseDevice(missing.dump(), "my", "my.json").status().message()),
              HasSubstr("bf16_flops is missing"));
  EXPECT_FALSE(ParseDevice("{", "my", "my.json").ok());
  EXPECT_FALSE(ParseLink(H200().dump(), "my.json").ok());
}

TEST(HardwareFilesTest, ADeviceNeedsNoProducts) {
  Json json = H200();
  json.erase("products");
  const auto device = ParseDevice(json.dump(), "a", "a.json");
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_TRUE(device->products.empty());
}

TEST(HardwareFilesTest, ADeviceWithoutFp8ComputesInBf16) {
  Json json = H200();
  json.erase("fp8_flops");
  const auto device = ParseDevice(json.dump(), "a", "a.json");
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_EQ(device->flops(1), device->flops(2));
}

Json Number(double value) { return {{"value", value}, {"source", "x"}}; }

TEST(HardwareFilesTest, WhatRanksOfOneMachineShareIsReadInPairs) {
  Json json = H200();
  const auto parse = [&] { return ParseDevice(json.dump(), "a", "a.json"); };
  EXPECT_FALSE(parse()->shared_cores.has_value());
  EXPECT_FALSE(parse()->calibrated());
  EXPECT_EQ(parse()->read_overlap, 1);
  json["read_overlap"] = Number(0.25);
  json["attention_flops"] = Number(5e10);
  json["num_cores"] = Number(4);
  EXPECT_THAT(parse().status().message(), HasSubstr("core_bytes_per_second is missing"));
  json["core_bytes_per_second"] = Number(8e9);
  json["layer_host_seconds"] = Number(2e-5);
  EXPECT_THAT(parse().status().message(), HasSubstr("step_host_seconds is missing"));
  json["step_host_seconds"] = Number(1e-4);
  const auto device = parse();
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_EQ(device->read_overlap, 0.25);
  EXPECT_EQ(device->attention_flops, 5e10);
  EXPECT_EQ(device->shared_cores->num_cores, 4);
  EXPECT_EQ(device->shared_cores->core_bytes_per_second, 8e9);
  EXPECT_EQ(device->host->layer_seconds, 2e-5);
  EXPECT_EQ(device->host->step_seconds, 1e-4);
  EXPECT_TRUE(device->calibrated());
  json["read_overlap"] = Number(1.1);
  EXPECT_THAT(parse().status().message(), HasSubstr("read_overlap is 1.1; it must be from 0 to 1"));
}

TEST(HardwareFilesTest, ALibraryWithoutNumbersOfANetworkIsOfOneNode) {
  Json json = {{"title", "t"},
               {"started_by_device", true},
               {"node_dispatch_latency_seconds", Number(1e-5)},
               {"node_combine_latency_seconds", Number(0)},
               {"node_link_efficiency", Number(1)}};
  const auto parse = [&] { return ParseExchangeLibrary(json.dump(), "a", "a.json"); };
  ASSERT_TRUE(parse().ok()) << parse().status();
  EXPECT_TRUE(parse()->within_node_only);
  EXPECT_FALSE(parse()->owners_apart);
  json["owners_apart"] = true;
  json["node_message_seconds"] = Number(4e-6);
  EXPECT_TRUE(parse()->owners_apart);
  EXPECT_EQ(parse()->node_message_seconds, 4e-6);
  json["link_efficiency"] = Number(0.9);
  EXPECT_THAT(parse().status().message(), HasSubstr("dispatch_latency_seconds is missing"));
}

TEST(HardwareFilesTest, APartOfAMachinesFileIsFoundByItsName) {
  const Json machine = {{"title", "m"}, {"device", H200()}};
  const auto device = PartOfFile(machine.dump(), "device", "m.json");
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_TRUE(ParseDevice(*device, "m", "m.json").ok());
  EXPECT_THAT(PartOfFile(machine.dump(), "exchange", "m.json").status().message(),
              HasSubstr("has no part \"exchange\""));
  EXPECT_EQ(PartOfFile(H200().dump(), "device", "h200.json").value(), H200().dump());
  EXPECT_FALSE(PartOfFile("[]", "device", "m.json").ok());
}

TEST(HardwareFilesTest, SpeedsAreReadWithTheirUnit) {
  EXPECT_EQ(ParseLinkSpeed("400Gb/s").value(), 50e9);
  EXPECT_EQ(ParseLinkSpeed("50GB/s").value(), 50e9);
  EXPECT_EQ(ParseLinkSpeed("2.5Gb/s").value(), 0.3125e9);
  for (const char* text : {"", "400", "400gb/s", "-1Gb/s", "0Gb/s", "nanGb/s", "infGB/s", "fast"}) {
    EXPECT_FALSE(ParseLinkSpeed(text).ok()) << text;
  }
}

}  // namespace
}  // namespace moe::planner
