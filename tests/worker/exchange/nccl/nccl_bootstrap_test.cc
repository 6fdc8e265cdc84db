#include "worker/exchange/nccl/nccl_bootstrap.h"

#include <algorithm>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::exchange {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

NcclBootstrap Sample() {
  NcclBootstrap bootstrap;
  bootstrap.control = "the control channel's";
  std::fill(bootstrap.id.bytes.begin(), bootstrap.id.bytes.end(), 's');
  bootstrap.id.bytes[5] = '\0';
  return bootstrap;
}

TEST(NcclBootstrapTest, WhatWasMadeIsRead) {
  const auto read = ParseNcclBootstrap(MakeNcclBootstrap(Sample()));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->id.bytes, Sample().id.bytes);
  EXPECT_EQ(read->control, "the control channel's");
}

TEST(NcclBootstrapTest, AnythingElseIsRefusedWithoutSayingWhatItWas) {
  const std::string good = MakeNcclBootstrap(Sample());
  for (const std::string& bytes :
       {std::string(), std::string("sssssss"), good.substr(1), good.substr(0, 136),
        "X" + good.substr(1), good.substr(0, 100)}) {
    const auto read = ParseNcclBootstrap(bytes);
    EXPECT_EQ(read.status().code(), absl::StatusCode::kInvalidArgument) << bytes.size();
    EXPECT_THAT(read.status().ToString(), Not(HasSubstr("ssss")));
  }
}

}  // namespace
}  // namespace moe::exchange
