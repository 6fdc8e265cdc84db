#include "identity/worker_id.h"

#include "gtest/gtest.h"

namespace moe::identity {
namespace {

TEST(WorkerIdTest, TheOnlyProcessOfAPodIsCalledAsThePod) {
  EXPECT_EQ(WorkerId("7d1c-22", 0, 1), "7d1c-22");
  EXPECT_EQ(PodUidOf("7d1c-22"), "7d1c-22");
}

TEST(WorkerIdTest, OneOfSeveralHasItsNumberBehindThePods) {
  EXPECT_EQ(WorkerId("7d1c-22", 0, 4), "7d1c-22/0");
  EXPECT_EQ(WorkerId("7d1c-22", 15, 16), "7d1c-22/15");
  for (int process = 0; process < 16; ++process) {
    EXPECT_EQ(PodUidOf(WorkerId("7d1c-22", process, 16)), "7d1c-22");
  }
}

TEST(WorkerIdTest, WhatIsNoNumberBelongsToNoPod) {
  for (const char* id : {"7d1c-22/", "7d1c-22/x", "7d1c-22/-1", "7d1c-22/100", "7d1c-22/1 ", "",
                         "/", "7d1c-22/1x"}) {
    EXPECT_EQ(PodUidOf(id), id);
  }
  // One number goes, not two.
  EXPECT_EQ(PodUidOf("7d1c-22/1/2"), "7d1c-22/1");
}

}  // namespace
}  // namespace moe::identity
