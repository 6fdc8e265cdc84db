#include "controller/api/bounded_text.h"

#include <algorithm>
#include <string>

#include "gtest/gtest.h"

namespace moe::api {
namespace {

TEST(BoundedText, KeepsEveryCharacterOfUtf8) {
  const std::string text = "a\tb\n caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80 \xf4\x8f\xbf\xbf";
  EXPECT_EQ(HeadOf(text, 100), text);
  EXPECT_EQ(TailOf(text, 100), text);
}

TEST(BoundedText, ReplacesByteByByteWhatIsNone) {
  // Lone bytes, a surrogate, overlong forms, what is above U+10FFFF, and a character that is cut.
  EXPECT_EQ(HeadOf("\xff|\xc3|\xed\xa0\x80|\xc0\x80|\xe0\x80\x80|\xf4\x90\x80\x80|\xe2\x82", 100),
            "?|?|???|??|???|????|??");
  EXPECT_EQ(HeadOf(absl::string_view("a\0b\x01\x1b[0m", 7), 100), "a b  [0");
}

TEST(BoundedText, CutsBetweenCharacters) {
  const std::string text = "\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac";
  for (size_t max = 0; max <= 10; ++max) {
    EXPECT_EQ(HeadOf(text, max), text.substr(0, std::min<size_t>(9, max / 3 * 3))) << max;
    EXPECT_EQ(TailOf(text, max), text.substr(9 - std::min<size_t>(9, max / 3 * 3))) << max;
  }
}

}  // namespace
}  // namespace moe::api
