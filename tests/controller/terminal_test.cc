#include "controller/terminal.h"

#include <string>

#include "gtest/gtest.h"

namespace moe::controller {
namespace {

using coordinator::v1::GroupState;

TEST(ProgressLineTest, EachPhaseSaysWhatIsBeingWaitedFor) {
  GroupState state;
  state.set_phase(GroupState::STARTING);
  for (int i = 0; i < 64; ++i) state.add_workers();
  state.mutable_workers(3)->set_pid(1234);
  EXPECT_EQ(ProgressLine(state), "starting workers, 1 of 64");
  state.set_phase(GroupState::LOADING);
  state.set_load_bytes_done(2'107'000'000);
  state.set_load_bytes_total(4'900'000'000);
  EXPECT_EQ(ProgressLine(state), "loading weights 43% (2.1 of 4.9 GB), 64 workers");
  state.set_phase(GroupState::CONNECTING);
  EXPECT_EQ(ProgressLine(state), "connecting workers");
  for (const auto phase :
       {GroupState::ACTIVE, GroupState::RECOVERING, GroupState::FAILED, GroupState::STOPPING}) {
    state.set_phase(phase);
    EXPECT_EQ(ProgressLine(state), "");
  }
}

TEST(ProgressLineTest, NothingToLoadIsNoDivisionByZero) {
  GroupState state;
  state.set_phase(GroupState::LOADING);
  state.add_workers();
  EXPECT_EQ(ProgressLine(state), "loading weights 0% (0.0 of 0.0 GB), 1 workers");
}

TEST(TerminalTest, LinesAppearAboveTheProgress) {
  std::string out;
  Terminal terminal(true, [&](std::string_view bytes) { out.append(bytes); });
  terminal.Progress("10%");
  terminal.Line("a warning");
  terminal.Progress("20%");
  terminal.Progress("20%");
  terminal.Progress("");
  terminal.Line("plain");
  EXPECT_EQ(out,
            "\r\033[K10%"
            "\r\033[Ka warning\n10%"
            "\r\033[K20%"
            "\r\033[K"
            "plain\n");
}

TEST(TerminalTest, WithoutATerminalThereIsNoProgress) {
  std::string out;
  Terminal terminal(false, [&](std::string_view bytes) { out.append(bytes); });
  terminal.Progress("10%");
  terminal.Line("a warning");
  terminal.Progress("");
  EXPECT_EQ(out, "a warning\n");
}

}  // namespace
}  // namespace moe::controller
