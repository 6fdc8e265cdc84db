#include "worker/model/mapping_fault.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <string>

#include "tests/worker/model/checkpoint_writer.h"
#include "tests/worker/model/model_dir_test.h"

namespace moe::model {
namespace {

namespace fs = std::filesystem;

class MappingFaultDeathTest : public ModelDirTest {};

// Died, but not by way of the reporter. (Sanitizers end the process with a code of their own.)
bool DiedOtherwise(int status) {
  return status != 0 && !(WIFEXITED(status) && WEXITSTATUS(status) == kMappingFaultExitCode);
}

// The last byte of a mapped file of 16 pages that was cut to one.
volatile const char* CutMapping(const std::string& path) {
  EXPECT_TRUE(WriteFile(path, std::string(65536, 'x')).ok());
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  auto* data = static_cast<const char*>(mmap(nullptr, 65536, PROT_READ, MAP_SHARED, fd, 0));
  close(fd);
  fs::resize_file(path, 4096);
  return data + 65535;
}

TEST_F(MappingFaultDeathTest, ACutWeightFileEndsTheProcessNamingFileAndTensor) {
  ASSERT_TRUE(WriteRandomCheckpoint(Dir(), TinyConfig(), 1).ok());
  EXPECT_EXIT(
      {
        const MappingFaultReporter reporter;
        auto checkpoint = Checkpoint::Open(Dir());
        fs::resize_file(Dir() + "/model.safetensors", 4096);
        // The last row of the last tensor.
        const volatile uint16_t* last = &(*checkpoint)->weights().lm_head[100 * 32 - 1].bits;
        _exit(*last == 0 ? 1 : 2);
      },
      ::testing::ExitedWithCode(kMappingFaultExitCode),
      "^moe: cannot read .*model.safetensors at byte [0-9]+ \\(tensor lm_head.weight\\): "
      "the file became shorter or its storage failed while in use\n$");
}

TEST_F(MappingFaultDeathTest, AnotherMappingFaultsAsBefore) {
  EXPECT_EXIT(
      {
        const MappingFaultReporter reporter;
        _exit(*CutMapping(Dir()) == 0 ? 0 : 0);
      },
      DiedOtherwise, "");
}

TEST_F(MappingFaultDeathTest, ASignalThatWasSentActsAsBefore) {
  EXPECT_EXIT(
      {
        const MappingFaultReporter reporter;
        raise(SIGBUS);
        _exit(0);
      },
      DiedOtherwise, "");
}

TEST_F(MappingFaultDeathTest, WithoutAReporterNothingIsCaught) {
  EXPECT_EXIT(
      {
        {
          const MappingFaultReporter reporter;
        }
        volatile const char* last = CutMapping(Dir());
        const MappingFaultRange range(const_cast<const char*>(last) - 65535, 65536, "f", {});
        _exit(*last == 0 ? 0 : 0);
      },
      DiedOtherwise, "");
}

TEST_F(MappingFaultDeathTest, ARangeThatEndedIsForgotten) {
  EXPECT_EXIT(
      {
        const MappingFaultReporter reporter;
        volatile const char* last = CutMapping(Dir());
        {
          const MappingFaultRange range(const_cast<const char*>(last) - 65535, 65536, "f", {});
        }
        _exit(*last == 0 ? 0 : 0);
      },
      DiedOtherwise, "");
}

}  // namespace
}  // namespace moe::model
