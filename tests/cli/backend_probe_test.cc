#include "cli/backend_probe.h"

#include <sys/stat.h>

#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::cli {
namespace {

using ::testing::HasSubstr;

TEST(ParseProbeTest, TakesTheBackendAndTheReason) {
  const auto cuda = ParseProbe("backend cuda: GPU 0 (NVIDIA H200)\n");
  ASSERT_TRUE(cuda.ok());
  EXPECT_TRUE(cuda->cuda);
  EXPECT_EQ(cuda->reason, "GPU 0 (NVIDIA H200)");
  const auto cpu = ParseProbe("a line of a library\nbackend cpu: no NVIDIA driver\n");
  ASSERT_TRUE(cpu.ok());
  EXPECT_FALSE(cpu->cuda);
  EXPECT_EQ(cpu->reason, "no NVIDIA driver");
}

TEST(ParseProbeTest, OtherWordsAreTheError) {
  EXPECT_EQ(ParseProbe("--backend cuda: no GPU\n").status().message(), "--backend cuda: no GPU");
  EXPECT_FALSE(ParseProbe("").ok());
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
