#include "cli/backend_probe.h"

#include <sys/stat.h>

#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::cli {
namespace {

using ::testing::HasSubstr;

TEST(ParseProbeTest, TakesTheBackendAndTheReason) {
  const auto cuda = ParseProbe("backend cuda: GPU 0 (NVIDIA H200)\ngpus: 8\n");
  ASSERT_TRUE(cuda.ok());
  EXPECT_TRUE(cuda->cuda);
  EXPECT_EQ(cuda->reason, "GPU 0 (NVIDIA H200)");
  EXPECT_EQ(cuda->num_gpus, 8);
  const auto cpu = ParseProbe("a line of a library\nbackend cpu: no NVIDIA driver\n");
  ASSERT_TRUE(cpu.ok());
  EXPECT_FALSE(cpu->cuda);
  EXPECT_EQ(cpu->reason, "no NVIDIA driver");
}

TEST(ParseProbeTest, OtherWordsAreTheError) {
  EXPECT_EQ(ParseProbe("--backend cuda: no GPU\n").status().message(), "--backend cuda: no GPU");
  EXPECT_FALSE(ParseProbe("").ok());
  for (const char* count : {"", "gpus: many\n", "gpus: 0\n"}) {
    EXPECT_FALSE(ParseProbe(std::string("backend cuda: GPU 0 (A GPU)\n") + count).ok()) << count;
  }
}

TEST(FitAutoTest, GpusAreTakenWhereThereAreAsManyAsTheRunNeeds) {
  struct Row {
    const char* what;
    bool cuda;
    int num_gpus;
    std::optional<int> expert_parallel;
    bool replicated;
    bool share;
    bool on_gpus;
    const char* reason;
  };
  for (const Row& row :
       std::vector<Row>{{"no GPU", false, 0, 4, false, false, false, "as probed"},
                        {"one rank", true, 1, std::nullopt, false, false, true, "as probed"},
                        {"one replicated rank", true, 1, 1, true, false, true, "as probed"},
                        {"a GPU for each", true, 4, 4, false, false, true, "as probed"},
                        {"too few", true, 2, 4, false, false, false,
                         "needs a GPU for each rank, and there are 2"},
                        {"too few, shared", true, 2, 4, false, true, true, "as probed"},
                        {"replicated", true, 4, 4, true, false, true, "as probed"}}) {
    SCOPED_TRACE(row.what);
    LayoutRequest request;
    request.expert_parallel = row.expert_parallel;
    request.replicated_attention = row.replicated;
    request.share_gpus = row.share;
    const BackendProbe fit =
        FitAuto({.cuda = row.cuda, .reason = "as probed", .num_gpus = row.num_gpus}, request);
    EXPECT_EQ(fit.cuda, row.on_gpus);
    EXPECT_THAT(fit.reason, HasSubstr(row.reason));
  }
}

class ProbeBackendTest : public ::testing::Test {
 protected:
  // A worker program that does what `script` says.
  std::string Worker(const std::string& script) {
    const std::string path = ::testing::TempDir() + "/probe-worker";
    std::ofstream(path) << "#!/bin/sh\n" << script << "\n";
    chmod(path.c_str(), 0755);
    return path;
  }
};

TEST_F(ProbeBackendTest, AsksTheWorker) {
  const auto probe = ProbeBackend(Worker("echo \"backend cpu: $1 $2 $3\""), "auto");
  ASSERT_TRUE(probe.ok()) << probe.status();
  EXPECT_EQ(probe->reason, "--probe --backend auto");
}

TEST_F(ProbeBackendTest, AWorkerThatRefusesIsQuoted) {
  const auto probe = ProbeBackend(Worker("echo 'no GPU here' >&2; exit 1"), "cuda");
  EXPECT_EQ(probe.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(probe.status().message()), HasSubstr("no GPU here"));
}

TEST_F(ProbeBackendTest, AWorkerThatIsNotThereIsAnError) {
  EXPECT_FALSE(ProbeBackend("/no/such/worker", "auto").ok());
}

}  // namespace
}  // namespace moe::cli
