// Tests gateway/serving/stop_matcher.h.
#include "gateway/serving/stop_matcher.h"

#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace moe::gateway {
namespace {

// What is shown in the end, and whether it stopped, when text comes in pieces.
std::pair<std::string, bool> Feed(const std::vector<std::string>& stops,
                                  const std::vector<std::string>& pieces) {
  StopMatcher matcher(stops);
  std::string shown;
  for (const std::string& piece : pieces) {
    shown += matcher.Append(piece);
  }
  const bool stopped = matcher.stopped();
  return {shown + matcher.Flush(), stopped};
}

TEST(StopMatcherTest, FindsStopsAcrossPieces) {
  struct Case {
    const char* sentence;
    std::vector<std::string> stops;
    std::vector<std::string> pieces;
    std::string shown;
    bool stopped;
  };
  const std::vector<Case> cases = {
      {"no stops", {}, {"a", "b"}, "ab", false},
      {"in one piece", {"END"}, {"abENDcd"}, "ab", true},
      {"over three pieces", {"END"}, {"abE", "N", "Dcd"}, "ab", true},
      {"a beginning that is not followed", {"END"}, {"abE", "N", "xD"}, "abENxD", false},
      {"a beginning at the end of the text", {"END"}, {"abEN"}, "abEN", false},
      {"a beginning inside a beginning", {"aab"}, {"a", "a", "a", "b"}, "a", true},
      {"the stop that is complete first", {"bcd", "c"}, {"abcd"}, "ab", true},
      {"the longer of two that end together", {"c", "bc"}, {"abc"}, "a", true},
      {"at the very beginning", {"x"}, {"x"}, "", true},
      {"characters of several bytes", {"\xc3\xa9!"}, {"caf\xc3\xa9", "!"}, "caf", true},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.sentence);
    EXPECT_EQ(Feed(c.stops, c.pieces), std::pair(c.shown, c.stopped));
  }
}

TEST(StopMatcherTest, HoldsBackOnlyWhatMayBecomeAStop) {
  StopMatcher matcher({"</s>"});
  EXPECT_EQ(matcher.Append("a<"), "a");
  EXPECT_EQ(matcher.Append("b"), "<b");
  EXPECT_EQ(matcher.Append("</"), "");
  EXPECT_EQ(matcher.Append("s>"), "");
  EXPECT_TRUE(matcher.stopped());
  EXPECT_EQ(matcher.Append("more"), "");
}

TEST(StopMatcherTest, UncheckedTextDoesNotStop) {
  StopMatcher matcher({"ab"});
  EXPECT_EQ(matcher.AppendUnchecked("ab"), "ab");
  EXPECT_EQ(matcher.Append("a"), "");
  EXPECT_EQ(matcher.AppendUnchecked("b"), "ab");
  EXPECT_FALSE(matcher.stopped());
}

TEST(StopMatcherTest, ResultDoesNotDependOnTheCuts) {
  std::mt19937 random(7);
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::string> stops;
    for (unsigned i = 0; i < 1 + random() % 3; ++i) {
      std::string stop;
      for (unsigned k = 0; k < 1 + random() % 4; ++k) {
        stop += static_cast<char>('a' + random() % 2);
      }
      stops.push_back(stop);
    }
    std::string text;
    for (unsigned k = 0; k < random() % 12; ++k) {
      text += static_cast<char>('a' + random() % 3);
    }
    std::vector<std::string> pieces;
    for (size_t at = 0; at < text.size();) {
      const size_t length = 1 + random() % 3;
      pieces.push_back(text.substr(at, length));
      at += length;
    }
    std::vector<std::string> bytes;
    for (const char c : text) {
      bytes.emplace_back(1, c);
    }
    const auto whole = Feed(stops, {text});
    EXPECT_EQ(Feed(stops, pieces), whole) << text;
    EXPECT_EQ(Feed(stops, bytes), whole) << text;
  }
}

}  // namespace
}  // namespace moe::gateway
