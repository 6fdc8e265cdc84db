#include "controller/reconcile/gpu_inventory.h"

#include "gtest/gtest.h"

namespace moe::reconcile {
namespace {

TEST(GpuInventoryTest, PodsOfSeveralGpusLoseWhatIsLeftOverOnANode) {
  const GpuPool pool{.product = "A", .nodes_by_gpus = {{2, 3}, {7, 1}, {8, 2}}};
  EXPECT_EQ(pool.num_nodes(), 6);
  EXPECT_EQ(pool.num_gpus(), 29);
  EXPECT_EQ(pool.UsableBy(1), 29);
  EXPECT_EQ(pool.UsableBy(2), 28);
  EXPECT_EQ(pool.UsableBy(4), 20);
  EXPECT_EQ(pool.UsableBy(8), 16);
  EXPECT_EQ(pool.UsableBy(16), 0);
  EXPECT_EQ(pool.MinGpusOfNode(), 2);
}

TEST(GpuInventoryTest, SaysWhatThereIsAndWhatIsNotCounted) {
  GpuInventory inventory;
  EXPECT_EQ(DescribeGpus(inventory), "none");
  EXPECT_EQ(DescribeLeftOut(inventory), "");
  inventory.pools = {{.product = "A", .nodes_by_gpus = {{8, 8}}},
                     {.product = "B", .nodes_by_gpus = {{4, 1}}}};
  inventory.left_out = {{"cordoned", 1}, {"without allocatable nvidia.com/gpu", 2}};
  EXPECT_EQ(DescribeGpus(inventory), "64 x A on 8 nodes, 4 x B on 1 node");
  EXPECT_EQ(DescribeLeftOut(inventory),
            "; 3 nodes with GPUs not counted: 1 cordoned, 2 without allocatable nvidia.com/gpu");
}

}  // namespace
}  // namespace moe::reconcile
