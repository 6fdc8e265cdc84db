#include "cli/simulate/trace.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::cli {
namespace {

using ::testing::HasSubstr;

TEST(TraceTest, LinesAreReadAndSortedByArrival) {
  const auto requests = ParseTrace(
      "arrival_seconds,input_tokens,output_tokens\n"
      "# the second comes first\n"
      "1.5, 90 ,300\r\n"
      "\n"
      "0.25,512,128\n"
      "1.5,7,8",
      "t.csv");
  ASSERT_TRUE(requests.ok()) << requests.status();
  ASSERT_EQ(requests->size(), 3);
  EXPECT_EQ((*requests)[0].arrival, absl::Milliseconds(250));
  EXPECT_EQ((*requests)[0].input_tokens, 512);
  EXPECT_EQ((*requests)[0].output_tokens, 128);
  EXPECT_EQ((*requests)[1].input_tokens, 90);  // as in the file
  EXPECT_EQ((*requests)[2].input_tokens, 7);
}

TEST(TraceTest, WhatIsWrongIsNamedByItsLine) {
  struct Case {
    const char* text;
    const char* message;
  };
  for (const Case& c : {
           Case{"", "t.csv has no request"},
           Case{"# nothing\n\n", "t.csv has no request"},
           Case{"seconds,in,out\n", "t.csv has no request"},
           Case{"0,1,1\n0,1\n", "t.csv, line 2: \"0,1\" is not"},
           Case{"0,1,1\n0,1,1,1\n", "line 2"},
           Case{"0,1,1\nseconds,in,out\n", "line 2: the arrival is \"seconds\""},
           Case{"0,1,1\n,1,1\n", "line 2: the arrival is \"\""},
           Case{"-1,1,1\n", "line 1: the arrival is \"-1\""},
           Case{"nan,1,1\n", "line 1: the arrival"},
           Case{"inf,1,1\n", "line 1: the arrival"},
           Case{"1e9,1,1\n", "from 0 to 2592000"},
           Case{"\n0,0,1\n", "line 2: the input tokens are \"0\""},
           Case{"0,1.5,1\n", "whole number from 1 to 16777216"},
           Case{"0,99999999999,1\n", "the input tokens"},
           Case{"0,1,-5\n", "the output tokens are \"-5\""},
           Case{"0,1,\n", "the output tokens are \"\""},
           Case{"0,1,\x01\x02\n", "the output tokens"},
           Case{"{\"timestamp\": 0}", "is not \"seconds,input tokens,output tokens\""},
       }) {
    const auto requests = ParseTrace(c.text, "t.csv");
    ASSERT_TRUE(absl::IsInvalidArgument(requests.status())) << c.text;
    EXPECT_THAT(requests.status().message(), HasSubstr(c.message)) << c.text;
  }
}

TEST(TraceTest, AMessageShowsOnlyTheBeginningOfALongLine) {
  const auto requests = ParseTrace(std::string(100000, 'x') + "\n", "t.csv");
  ASSERT_FALSE(requests.ok());
  EXPECT_LT(requests.status().message().size(), 500);
}

TEST(TraceTest, AHeadingIsOnlyTheFirstLine) {
  EXPECT_TRUE(ParseTrace("# c\nseconds,input,output\n0,1,1\n", "t").ok());
  EXPECT_FALSE(ParseTrace("seconds,input,output\nseconds,input,output\n0,1,1\n", "t").ok());
  EXPECT_FALSE(ParseTrace("seconds,input\n0,1,1\n", "t").ok());
  EXPECT_FALSE(ParseTrace("0,x,y\n0,1,1\n", "t").ok());
}

}  // namespace
}  // namespace moe::cli
