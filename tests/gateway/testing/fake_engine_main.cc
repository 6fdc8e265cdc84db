// A scripted engine as a program, for tests that run the real moe-gateway: a coordinator and a
// leader on unix sockets in FOLDER, and the tiny model in FOLDER/model. Answers are ANSWER, one
// token per byte. Says "ready" and runs until its standard input ends.
//   fake_engine FOLDER ANSWER
#include <cstdio>
#include <filesystem>
#include <string>

#include "tests/gateway/testing/fake_engine.h"
#include "tests/gateway/testing/tiny_model.h"

int main(int argc, char** argv) {
  using namespace moe::gateway::testing;  // NOLINT: a test's main
  if (argc != 3) {
    return 2;
  }
  const std::string folder = argv[1];
  std::filesystem::create_directories(folder + "/model");
  WriteTinyModel(folder + "/model");
  FakeLeaderOptions options;
  options.address = "unix:" + folder + "/leader.sock";
  options.answer = BytesAsTokens(argv[2]);
  FakeLeader leader(options);
  FakeCoordinator coordinator("unix:" + folder + "/coordinator.sock");
  coordinator.SetLeader(options.address, options.epoch);
  std::puts("ready");
  std::fflush(stdout);
  while (std::getchar() != EOF) {
  }
  return 0;
}
