#include "runtime/log_tail.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::runtime {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(LogTailTest, LinesAreCompletedWhereverTheBytesAreCut) {
  LogTail tail(10, 100);
  EXPECT_THAT(tail.Append("on"), IsEmpty());
  EXPECT_THAT(tail.Append("e\ntwo\n\nthr"), ElementsAre("one", "two", ""));
  EXPECT_THAT(tail.Append("ee\n"), ElementsAre("three"));
  EXPECT_THAT(tail.Finish(), IsEmpty());
}

TEST(LogTailTest, AnUnfinishedLineIsNotLost) {
  LogTail tail(10, 100);
  tail.Append("last words");
  EXPECT_THAT(tail.Finish(), ElementsAre("last words"));
  EXPECT_THAT(tail.lines(), ElementsAre("last words"));
}

TEST(LogTailTest, OnlyTheLastLinesAreKept) {
  LogTail tail(2, 100);
  tail.Append("1\n2\n3\n4\n");
  EXPECT_THAT(tail.lines(), ElementsAre("3", "4"));
}

TEST(LogTailTest, AnEndlessLineTakesBoundedMemory) {
  LogTail tail(2, 8);
  for (int i = 0; i < 1000; ++i) tail.Append(std::string(1000, 'x'));
  EXPECT_THAT(tail.Append("\nnext\n"), ElementsAre("xxxxxxxx", "next"));
}

TEST(LogTailTest, ControlCharactersCannotSteerTheTerminal) {
  LogTail tail(2, 100);
  EXPECT_THAT(tail.Append("\033[2Jgone\r\tx\x7f\n"), ElementsAre("?[2Jgone?\tx?"));
}

TEST(IsAlarmingTest, OnlyLinesOfALowLevelAreNot) {
  const struct {
    const char* line;
    bool alarming;
  } kCases[] = {
      {"2026-01-01T00:00:00.000 info ready", false},
      {"2026-01-01T00:00:00.000 debug detail", false},
      {"2026-01-01T00:00:00.000 trace detail", false},
      {"2026-01-01T00:00:00.000 warning odd", true},
      {"2026-01-01T00:00:00.000 error bad", true},
      {"2026-01-01T00:00:00.000 critical worse", true},
      {"terminate called after throwing", true},
      {"Aborted", true},
      {"", true},
  };
  for (const auto& c : kCases) EXPECT_EQ(IsAlarming(c.line), c.alarming) << c.line;
}

}  // namespace
}  // namespace moe::runtime
