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
        Row{"tflops", 5, "\"tflops\" is unknown here; known are bf16_flops"}}) {
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
