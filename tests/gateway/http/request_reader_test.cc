// Tests gateway/http/request_reader.h.
#include "gateway/http/request_reader.h"

#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::gateway {
namespace {

using State = RequestReader::State;
using ::testing::HasSubstr;
using ::testing::Not;

RequestLimits SmallLimits() {
  RequestLimits limits;
  limits.max_body_bytes = 64;
  return limits;
}

RequestReader MakeReader() {
  return {SmallLimits(), [](const RequestHead&) { return true; }};
}

std::string Post(const std::string& headers, const std::string& body) {
  return "POST /x HTTP/1.1\r\nHost: a\r\n" + headers + "\r\n" + body;
}

TEST(RequestReaderTest, RefusesWhatIsMalformedOrTooLarge) {
  struct Case {
    const char* sentence;
    std::string bytes;
    int status;
  };
  std::string many_headers = "GET / HTTP/1.1\r\n";
  for (int i = 0; i < 10000; ++i) {
    many_headers += "a: b\r\n";
  }
  std::string hundred_and_one = "GET / HTTP/1.1\r\n";
  for (int i = 0; i < 101; ++i) {
    hundred_and_one += "a: b\r\n";
  }
  const std::vector<Case> cases = {
      {"a header line without an end", "GET / HTTP/1.1\r\nA: " + std::string(20000, 'a'), 431},
      {"10,000 headers", many_headers + "\r\n", 431},
      {"more headers than are allowed, in few bytes", hundred_and_one + "\r\n", 431},
      {"chunks that add up to more than the limit",
       Post("Transfer-Encoding: chunked\r\n", "20\r\n" + std::string(32, 'a') + "\r\n21\r\n" +
                                                  std::string(33, 'a') + "\r\n0\r\n\r\n"),
       413},
      {"one chunk above the limit", Post("Transfer-Encoding: chunked\r\n", "41\r\n"), 413},
      {"a chunk size of -2", Post("Transfer-Encoding: chunked\r\n", "-2\r\n"), 400},
      {"a chunk size that overflows",
       Post("Transfer-Encoding: chunked\r\n", "fffffffffffffffff\r\n"), 400},
      {"a chunk size of 0x1", Post("Transfer-Encoding: chunked\r\n", "0x1\r\na\r\n0\r\n\r\n"), 400},
      {"a chunk size of +1", Post("Transfer-Encoding: chunked\r\n", "+1\r\na\r\n0\r\n\r\n"), 400},
      {"an empty chunk size", Post("Transfer-Encoding: chunked\r\n", "\r\n"), 400},
      {"a chunk longer than its size", Post("Transfer-Encoding: chunked\r\n", "1\r\nab\r\n"), 400},
      {"a chunk size line without an end",
       Post("Transfer-Encoding: chunked\r\n", "1;" + std::string(1000, 'x')), 400},
      {"an endless trailer",
       Post("Transfer-Encoding: chunked\r\n", "0\r\nA: " + std::string(10000, 'a')), 400},
      {"Content-Length with Transfer-Encoding",
       Post("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), 400},
      {"two lengths", Post("Content-Length: 3\r\nContent-Length: 4\r\n", "abcd"), 400},
      {"two equal lengths", Post("Content-Length: 3\r\nContent-Length: 3\r\n", "abc"), 400},
      {"a list of lengths", Post("Content-Length: 3, 3\r\n", "abc"), 400},
      {"a negative length", Post("Content-Length: -1\r\n", ""), 400},
      {"a length of many digits", Post("Content-Length: 99999999999999999999\r\n", ""), 400},
      {"a length above the limit", Post("Content-Length: 65\r\n", ""), 413},
      {"two codings", Post("Transfer-Encoding: gzip, chunked\r\n", ""), 400},
      {"a coding of an old client", "POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
      {"a bare LF", "GET / HTTP/1.1\r\nA: b\nC: d\r\n\r\n", 400},
      {"a folded line", "GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", 400},
      {"a space before the colon", "GET / HTTP/1.1\r\nA : b\r\n\r\n", 400},
      {"a header without a name", "GET / HTTP/1.1\r\n: b\r\n\r\n", 400},
      {"a header without a colon", "GET / HTTP/1.1\r\nab\r\n\r\n", 400},
      {"a NUL in a value", std::string("GET / HTTP/1.1\r\nA: b\0c\r\n\r\n", 27), 400},
      {"no version", "GET /\r\n\r\n", 400},
      {"another version", "GET / HTTP/2.0\r\n\r\n", 400},
      {"two spaces", "GET  / HTTP/1.1\r\n\r\n", 400},
      {"control characters in the target", "GET /\x01 HTTP/1.1\r\n\r\n", 400},
      {"a target that is too long", "GET /" + std::string(5000, 'a') + " HTTP/1.1\r\n\r\n", 414},
      {"garbage", "\x16\x03\x01\x02\r\n\r\n", 400},
      {"an expectation nobody knows", Post("Expect: coffee\r\nContent-Length: 1\r\n", "a"), 417},
  };
  for (const Case& c : cases) {
    for (const size_t piece : {size_t{1} << 20, size_t{7}}) {
      SCOPED_TRACE(c.sentence);
      RequestReader reader = MakeReader();
      for (size_t at = 0; at < c.bytes.size(); at += piece) {
        reader.Feed(absl::string_view(c.bytes).substr(at, piece));
        EXPECT_LT(reader.buffered_bytes(), size_t{3} << 20);
      }
      EXPECT_EQ(reader.state(), State::kRejected);
      EXPECT_EQ(reader.status(), c.status) << reader.reason();
      EXPECT_TRUE(reader.must_close());
    }
  }
}

TEST(RequestReaderTest, AHeadMayHaveSixteenKibibytesAndNotOneMore) {
  const std::string start = "GET / HTTP/1.1\r\nA: ";
  RequestReader reader = MakeReader();
  EXPECT_EQ(reader.Feed(start + std::string((16 << 10) - start.size(), 'a')), State::kHead);
  EXPECT_EQ(reader.Feed("a"), State::kRejected);
  EXPECT_EQ(reader.status(), 431);
  RequestReader full = MakeReader();
  EXPECT_EQ(full.Feed(start + std::string((16 << 10) - start.size() - 4, 'a') + "\r\n\r\n"),
            State::kComplete);
}

TEST(RequestReaderTest, GivesOneLengthAndNoCodingHoweverTheBytesAreCut) {
  const std::string bytes = Post("Transfer-Encoding: chunked\r\nX: y\r\n",
                                 "3\r\nabc\r\nA;ext=1\r\n0123456789\r\n0\r\nT: r\r\n\r\n");
  for (size_t piece = 1; piece < bytes.size(); ++piece) {
    RequestReader reader = MakeReader();
    for (size_t at = 0; at < bytes.size(); at += piece) {
      reader.Feed(absl::string_view(bytes).substr(at, piece));
    }
    ASSERT_EQ(reader.state(), State::kComplete) << reader.reason();
    const std::string request = reader.TakeRequest();
    EXPECT_THAT(request, HasSubstr("\r\nContent-Length: 13\r\n\r\nabc0123456789"));
    EXPECT_THAT(request, Not(HasSubstr("Transfer-Encoding")));
    EXPECT_THAT(request, HasSubstr("\r\nX: y\r\n"));
    EXPECT_FALSE(reader.must_close());
    EXPECT_TRUE(reader.idle());
  }
}

TEST(RequestReaderTest, KeepsThePipelinedRequestThatFollows) {
  RequestReader reader = MakeReader();
  reader.Feed("\r\nGET /a HTTP/1.1\r\n\r\n" + Post("Content-Length: 2\r\n", "hi") + "GET /c");
  ASSERT_EQ(reader.state(), State::kComplete);
  EXPECT_EQ(reader.head().target, "/a");
  reader.TakeRequest();
  ASSERT_EQ(reader.state(), State::kComplete);
  EXPECT_THAT(reader.TakeRequest(), HasSubstr("\r\n\r\nhi"));
  EXPECT_EQ(reader.state(), State::kHead);
  EXPECT_FALSE(reader.idle());
  EXPECT_EQ(reader.Feed(" HTTP/1.1\r\n\r\n"), State::kComplete);
}

TEST(RequestReaderTest, ABodyNobodyWantsIsNotRead) {
  RequestReader reader(SmallLimits(), [](const RequestHead& head) { return head.target != "/x"; });
  reader.Feed(Post("Content-Length: 50\r\nExpect: 100-continue\r\n", "abc"));
  ASSERT_EQ(reader.state(), State::kComplete);
  EXPECT_FALSE(reader.TakeContinue());
  EXPECT_TRUE(reader.must_close());
  EXPECT_THAT(reader.TakeRequest(), HasSubstr("Content-Length: 0\r\n\r\n"));
}

TEST(RequestReaderTest, AsksForContinueOnce) {
  RequestReader reader = MakeReader();
  reader.Feed(Post("Content-Length: 2\r\nExpect: 100-continue\r\n", ""));
  EXPECT_EQ(reader.state(), State::kBody);
  EXPECT_TRUE(reader.TakeContinue());
  EXPECT_FALSE(reader.TakeContinue());
  reader.Feed("hi");
  ASSERT_EQ(reader.state(), State::kComplete);
  EXPECT_THAT(reader.TakeRequest(), Not(HasSubstr("Expect")));
}

TEST(RequestReaderTest, SmallChunksOfALargeBodyStayCheap) {
  RequestLimits limits;
  RequestReader reader(limits, [](const RequestHead&) { return true; });
  reader.Feed(Post("Transfer-Encoding: chunked\r\n", ""));
  std::string chunks;
  for (int i = 0; i < 10000; ++i) {
    chunks += "1\r\na\r\n";
  }
  for (int i = 0; i < 100; ++i) {
    reader.Feed(chunks);
  }
  reader.Feed("0\r\n\r\n");
  ASSERT_EQ(reader.state(), State::kComplete);
  EXPECT_THAT(reader.TakeRequest(), HasSubstr("Content-Length: 1000000\r\n"));
}

TEST(RequestReaderTest, ALineOfTheLongestLengthIsTakenHoweverItArrives) {
  const std::string line = "3;" + std::string(254, 'e');
  const std::string bytes = Post("Transfer-Encoding: chunked\r\n", line + "\r\nabc\r\n0\r\n\r\n");
  for (const size_t piece : {bytes.size(), size_t{1}}) {
    RequestReader reader = MakeReader();
    for (size_t at = 0; at < bytes.size(); at += piece) reader.Feed(bytes.substr(at, piece));
    EXPECT_EQ(reader.state(), State::kComplete) << "in pieces of " << piece;
  }
}

TEST(RequestReaderTest, SurvivesRandomChangesOfGoodRequests) {
  std::mt19937 random(3);
  const std::string good =
      Post("Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n", "3\r\nabc\r\n0\r\n\r\n") +
      Post("Content-Length: 4\r\n", "body");
  for (int round = 0; round < 20000; ++round) {
    std::string bytes = good;
    for (unsigned i = 0; i < 1 + random() % 4; ++i) {
      const size_t at = random() % bytes.size();
      switch (random() % 3) {
        case 0:
          bytes[at] = static_cast<char>(random());
          break;
        case 1:
          bytes.erase(at, 1 + random() % 5);
          break;
        default:
          bytes.insert(at, bytes.substr(random() % bytes.size(), random() % 9));
      }
      if (bytes.empty()) {
        bytes = "x";
      }
    }
    RequestReader reader = MakeReader();
    State state = reader.Feed(bytes);
    for (int taken = 0; state == State::kComplete && taken < 10; ++taken) {
      const std::string request = reader.TakeRequest();
      EXPECT_THAT(request, HasSubstr("\r\nContent-Length: "));
      state = reader.state();
    }
  }
}

}  // namespace
}  // namespace moe::gateway
