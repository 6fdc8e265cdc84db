#include "controller/api/number_list.h"

#include <limits>
#include <vector>

#include "gtest/gtest.h"

namespace moe::api {
namespace {

using List = std::vector<int>;
constexpr int kMax = std::numeric_limits<int>::max();

TEST(Ranges, AreShortAndComeBack) {
  const struct {
    List list;
    const char* text;
  } cases[] = {
      {{}, ""},
      {{7}, "7"},
      {{0, 1, 2}, "0-2"},
      {{0, 1, 2, 40, 3}, "0-2,40,3"},
      {{2, 1, 0}, "2,1,0"},
      {{5, 5, 6}, "5,5-6"},
      {{kMax - 1, kMax, 0}, "2147483646-2147483647,0"},
  };
  for (const auto& c : cases) {
    EXPECT_EQ(FormatRanges(c.list), c.text);
    EXPECT_EQ(ParseRanges(c.text, 5).value(), c.list) << c.text;
  }
}

TEST(Ranges, RefuseWhatIsNoneOrTooLong) {
  for (const char* text : {"x", "1-", "-1", "3-1", "0-5", "0-99999999999", "0,1,2,3,4,5", "1-2-3",
                           "0-2147483647", "1*2"}) {
    EXPECT_FALSE(ParseRanges(text, 5).ok()) << text;
  }
}

TEST(Runs, AreShortAndComeBack) {
  const struct {
    List list;
    const char* text;
  } cases[] = {
      {{}, ""},
      {{7}, "7"},
      {{0, 0, 0}, "0*3"},
      {{0, 0, 0, 1, -1}, "0*3,1,-1"},
      {{-1, -1, 0, kMax}, "-1*2,0,2147483647"},
  };
  for (const auto& c : cases) {
    EXPECT_EQ(FormatRuns(c.list), c.text);
    EXPECT_EQ(ParseRuns(c.text, 5).value(), c.list) << c.text;
  }
}

TEST(Runs, RefuseWhatIsNoneOrTooLong) {
  for (const char* text :
       {"x", "1*", "-2", "1*0", "1*-1", "0*6", "0*5,0", "0*99999999999", "1*2*3", "0-2"}) {
    EXPECT_FALSE(ParseRuns(text, 5).ok()) << text;
  }
}

}  // namespace
}  // namespace moe::api
