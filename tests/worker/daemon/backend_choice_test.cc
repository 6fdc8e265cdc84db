// Tests worker/daemon/backend_choice.h: what is decided and said, with a GPU and without one.
#include "worker/daemon/backend_choice.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::worker {
namespace {

using testing::HasSubstr;

const absl::StatusOr<FoundGpu> kGpu = FoundGpu{.name = "GPU 0 (A GPU)", .num_gpus = 4};
const absl::StatusOr<FoundGpu> kNoGpu =
    absl::FailedPreconditionError("no NVIDIA driver on this machine");

TEST(DecideBackendTest, TakesTheGpuWhereOneIsWantedOrThere) {
  struct Case {
    const char* backend;
    bool gpu;
    bool cuda;
    const char* reason;
  };
  for (const Case& c : std::vector<Case>{{"cpu", true, false, "--backend cpu"},
                                         {"cpu", false, false, "--backend cpu"},
                                         {"cuda", true, true, "GPU 0 (A GPU)"},
                                         {"auto", true, true, "GPU 0 (A GPU)"},
                                         {"auto", false, false, "no NVIDIA driver"}}) {
    SCOPED_TRACE(c.backend);
    const auto decision = DecideBackend(c.backend, c.gpu ? kGpu : kNoGpu);
    ASSERT_TRUE(decision.ok()) << decision.status();
    EXPECT_EQ(decision->cuda, c.cuda);
    EXPECT_EQ(decision->num_gpus, c.cuda ? 4 : 0);
    EXPECT_THAT(decision->reason, HasSubstr(c.reason));
  }
}

TEST(DecideBackendTest, AGpuThatIsAskedForAndMissingIsAnErrorWithTheReason) {
  const auto decision = DecideBackend("cuda", kNoGpu);
  EXPECT_EQ(decision.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(decision.status().message(), "--backend cuda: no NVIDIA driver on this machine");
}

TEST(DecideBackendTest, AnUnknownNameIsRefused) {
  const auto decision = DecideBackend("rocm", kGpu);
  EXPECT_EQ(decision.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(decision.status().message()), HasSubstr("'rocm'"));
}

TEST(DecideBackendTest, ABuildWithoutCudaSaysWhatToDo) {
  const auto decision = DecideBackend(BackendOptions{.backend = "cuda"});
  EXPECT_EQ(decision.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(decision.status().message()), HasSubstr("tools/build-cuda moe-worker"));
  const auto automatic = DecideBackend(BackendOptions{.backend = "auto"});
  ASSERT_TRUE(automatic.ok());
  EXPECT_FALSE(automatic->cuda);
  EXPECT_THAT(automatic->reason, HasSubstr("built without CUDA"));
}

TEST(MakeBackendTest, TheNumericsIdNamesTheBackend) {
  const BackendOptions options;
  const auto backend = MakeBackend(options, {.cuda = false, .reason = "", .num_gpus = 0});
  ASSERT_TRUE(backend.ok());
  EXPECT_THAT((*backend)->numerics_id(), HasSubstr("cpu-"));
  EXPECT_FALSE((*backend)->on_device());
  EXPECT_FALSE(MakeBackend(options, {.cuda = true, .reason = "", .num_gpus = 1}).ok());
}

}  // namespace
}  // namespace moe::worker
