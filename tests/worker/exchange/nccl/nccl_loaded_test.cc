// Tests worker/exchange/nccl/nccl_library.h with the real NCCL. Needs no GPU: without one NCCL is
// loaded all the same, and says in words that it can't go on.
#include <chrono>
#include <filesystem>
#include <string>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/exchange/nccl/nccl_library.h"

namespace moe::exchange {
namespace {

using ::testing::StartsWith;

// That of the toolkit; where the test was carried to another machine, the one that is found there.
std::string Library() {
  return std::filesystem::exists(MOE_NCCL_LIBRARY) ? MOE_NCCL_LIBRARY : "libnccl.so.2";
}

TEST(NcclLoadedTest, TheLibraryHasEveryFunctionAndIsNewEnough) {
  const auto functions = LoadNccl(Library());
  ASSERT_TRUE(functions.ok()) << functions.status();
  int version = 0;
  ASSERT_EQ(functions->get_version(&version), ncclSuccess);
  EXPECT_GE(version, kMinNcclVersion);
}

TEST(NcclLoadedTest, ACommunicatorOfOneRankConnectsOrSaysWhyNot) {
  const auto functions = LoadNccl(Library());
  ASSERT_TRUE(functions.ok()) << functions.status();
  const std::unique_ptr<NcclApi> api = MakeNccl(*functions, nullptr);
  absl::Status status;
  const auto id = api->MakeId();
  if (id.ok()) {
    const auto communicator = api->Connect(*id, 1, 0);
    status = communicator.status();
    absl::StatusOr<NcclProgress> progress = NcclProgress::kUnderWay;
    while (communicator.ok() && progress.ok() && *progress == NcclProgress::kUnderWay) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      progress = (*communicator)->Poll();
    }
    if (communicator.ok()) status = progress.status();
  } else {
    status = id.status();
  }
  if (!status.ok()) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
    EXPECT_THAT(std::string(status.message()), StartsWith("NCCL: "));
    std::printf("without a GPU: %s\n", std::string(status.message()).c_str());
  }
}

}  // namespace
}  // namespace moe::exchange
