#include "planner/catalog/built_in.h"

#include <set>
#include <string>

#include "gtest/gtest.h"

namespace moe::planner {
namespace {

TEST(BuiltInTest, EveryDeviceIsFoundByItsProductAndNoProductMeansTwo) {
  const auto devices = BuiltInDevices();
  ASSERT_TRUE(devices.ok()) << devices.status();
  std::set<std::string> products;
  for (const Device& device : *devices) {
    EXPECT_FALSE(device.products.empty()) << device.name;
    for (const std::string& product : device.products) {
      EXPECT_TRUE(products.insert(product).second) << product;
      EXPECT_EQ(FindProduct(*devices, product), &device);
      EXPECT_EQ(product.find(' '), std::string::npos) << "no label has blanks: " << product;
    }
  }
}

TEST(BuiltInTest, OnlyAWholeNameIsAProduct) {
  const auto devices = BuiltInDevices();
  ASSERT_TRUE(devices.ok()) << devices.status();
  struct Case {
    const char* product;
    const char* device;
  };
  for (const Case& test_case :
       {Case{"NVIDIA-H100-80GB-HBM3", "h100"}, Case{"NVIDIA-H200", "h200"},
        Case{"NVIDIA-A100-SXM4-80GB", "a100"}, Case{"NVIDIA-A100-SXM4-40GB", ""},
        Case{"NVIDIA-H100-PCIe", ""}, Case{"NVIDIA-H100-80GB-HBM3-MIG-1g.10gb", ""},
        Case{"NVIDIA-H100-80GB-HBM3-SHARED", ""}, Case{"H200", ""}, Case{"", ""}}) {
    const Device* device = FindProduct(*devices, test_case.product);
    EXPECT_EQ(device == nullptr ? "" : device->name, test_case.device) << test_case.product;
  }
}

TEST(BuiltInTest, TheDefaultNetworkIsThatOfMoePlan) {
  const auto network = DefaultNetwork();
  ASSERT_TRUE(network.ok()) << network.status();
  EXPECT_EQ(network->link_bytes_per_second, 50e9);
  EXPECT_EQ(network->library.name, "nccl");
  EXPECT_GT(network->library.dispatch_latency_seconds, 0);
  EXPECT_EQ(network->gpus_per_node, 1);
}

}  // namespace
}  // namespace moe::planner
