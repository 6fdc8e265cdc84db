#include "worker/exchange/tcp_frame.h"

#include <functional>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker/exchange/tcp_frame_input.h"
#include "tests/worker/exchange/tcp_peer.h"
#include "worker/exchange/segment.h"

namespace moe::exchange {
namespace {

using ::testing::HasSubstr;

TEST(TcpFrameTest, FramesThatARankCanSendPass) {
  const GroupShape shape = SmallShape(2, 1);
  std::string body;
  const FrameHeader dispatch = GoodDispatch(shape, 1, 1, &body);
  EXPECT_TRUE(CheckFrame(shape, kPeerEpoch, dispatch).ok());
  FrameHeader outputs = SizedFrame(FrameType::kOutputs, RowBytes(shape, 6), 1, 1);
  outputs.num_pairs = 6;
  EXPECT_TRUE(CheckFrame(shape, kPeerEpoch, outputs).ok());
  FrameHeader share = outputs;
  share.type = FrameType::kShare;
  share.digest = 12;
  EXPECT_TRUE(CheckFrame(shape, kPeerEpoch, share).ok());
  FrameHeader missing = SizedFrame(FrameType::kMissing, 0);
  missing.num_rows = 1;
  EXPECT_TRUE(CheckFrame(shape, kPeerEpoch, missing).ok());
  FrameHeader words = SizedFrame(FrameType::kLastWords, 0, 9);
  EXPECT_TRUE(CheckFrame(shape, kPeerEpoch, words).ok());
  words.num_pairs = shape.num_layers;
  words.num_rows = shape.num_ranks;
  words.layer = 1;
  EXPECT_TRUE(CheckFrame(shape, kPeerEpoch, words).ok());
  for (const auto& [type, num_bytes] :
       std::vector<std::pair<FrameType, size_t>>{{FrameType::kCanary, RowBytes(shape, 1)},
                                                 {FrameType::kEcho, RowBytes(shape, 1)},
                                                 {FrameType::kReady, 0},
                                                 {FrameType::kStart, 0},
                                                 {FrameType::kPlan, 0},
                                                 {FrameType::kPlan, kMaxPlanBytes},
                                                 {FrameType::kResult, kMaxResultBytes}}) {
    const FrameHeader header = SizedFrame(type, num_bytes);
    EXPECT_TRUE(CheckFrame(shape, kPeerEpoch, header).ok()) << static_cast<uint32_t>(type);
  }
}

TEST(TcpFrameTest, FramesThatCantBeAreRefused) {
  const GroupShape shape = SmallShape(2, 1);
  struct Case {
    std::string what;
    std::function<void(FrameHeader&)> spoil;  // a good kDispatch
    std::string message;
  };
  for (const Case& c : std::vector<Case>{
           {"another magic", [](FrameHeader& h) { h.magic ^= 1; }, "no frame"},
           {"another epoch", [](FrameHeader& h) { h.epoch = kPeerEpoch - 1; }, "unexpected epoch"},
           {"type 0", [](FrameHeader& h) { h.type = FrameType{0}; }, "no such type"},
           {"a type beyond the last", [](FrameHeader& h) { h.type = FrameType{12}; },
            "no such type"},
           {"no pairs", [](FrameHeader& h) { h.num_pairs = 0; }, "0 pairs"},
           {"negative pairs", [](FrameHeader& h) { h.num_pairs = -1; }, "-1 pairs"},
           {"more pairs than rows have", [](FrameHeader& h) { h.num_pairs = 7; }, "7 pairs"},
           {"no rows", [](FrameHeader& h) { h.num_rows = 0; }, "0 rows"},
           {"negative rows", [](FrameHeader& h) { h.num_rows = INT32_MIN; }, "rows"},
           {"more rows than pairs", [](FrameHeader& h) { h.num_rows = 3; }, "3 rows for 2 pairs"},
           {"a negative layer", [](FrameHeader& h) { h.layer = -1; }, "layer -1"},
           {"a layer that is none", [](FrameHeader& h) { h.layer = 2; }, "layer 2 of 2"},
           {"a byte too many", [](FrameHeader& h) { ++h.num_bytes; }, "bytes"},
           {"a byte too few", [](FrameHeader& h) { --h.num_bytes; }, "bytes"},
           {"endless bytes", [](FrameHeader& h) { h.num_bytes = ~uint64_t{0}; }, "bytes"},
           {"a digest", [](FrameHeader& h) { h.digest = 1; }, "does not have"},
           {"an unused field", [](FrameHeader& h) { h.unused = 1; }, "does not have"},
           {"a plan with rows", [](FrameHeader& h) { h.type = FrameType::kPlan; }, "does not have"},
           {"a start with a body", [](FrameHeader& h) { h = SizedFrame(FrameType::kStart, 1); },
            "1 bytes"},
           {"a plan over its bound",
            [](FrameHeader& h) { h = SizedFrame(FrameType::kPlan, kMaxPlanBytes + 1); }, "bytes"},
           {"a result over its bound",
            [](FrameHeader& h) { h = SizedFrame(FrameType::kResult, kMaxResultBytes + 1); },
            "bytes"},
           {"last words with a body",
            [](FrameHeader& h) { h = SizedFrame(FrameType::kLastWords, 1); }, "bytes"},
           {"last words of a layer that is none",
            [](FrameHeader& h) {
              h = SizedFrame(FrameType::kLastWords, 0);
              h.num_pairs = 3;
            },
            "after 3 layers"},
           {"last words that are neither late nor not",
            [](FrameHeader& h) { h = SizedFrame(FrameType::kLastWords, 0, 1, 2); },
            "a malformed frame"},
           {"last words about a rank that is none",
            [](FrameHeader& h) {
              h = SizedFrame(FrameType::kLastWords, 0);
              h.num_rows = 3;
            },
            "rank 2 after"},
           {"last words about less than nobody",
            [](FrameHeader& h) {
              h = SizedFrame(FrameType::kLastWords, 0);
              h.num_rows = -1;
            },
            "rank -2 after"},
           {"last words about the least of all numbers",
            [](FrameHeader& h) {
              h = SizedFrame(FrameType::kLastWords, 0);
              h.num_rows = INT32_MIN;
            },
            "rank -2147483649 after"},
           {"a missing rank that is none",
            [](FrameHeader& h) {
              h = SizedFrame(FrameType::kMissing, 0);
              h.num_rows = 2;
            },
            "no rank 2"},
       }) {
    std::string body;
    FrameHeader header = GoodDispatch(shape, 1, 0, &body);
    c.spoil(header);
    const absl::Status status = CheckFrame(shape, kPeerEpoch, header);
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << c.what;
    EXPECT_THAT(status.ToString(), HasSubstr(c.message)) << c.what;
  }
}

TEST(TcpFrameTest, PairsComeOutAsTheExpertsTakeThem) {
  GroupShape shape = SmallShape(2, 1);
  shape.num_experts = 3;
  shape.rank_of_expert = {1, 0, 1};
  FrameHeader header = MakeFrame(FrameType::kDispatch, kPeerEpoch);
  header.num_rows = 2;
  header.num_pairs = 3;
  std::string body(PairBytes(3) + RowBytes(shape, 2), '\0');
  const std::vector<WirePair> pairs = {{0, 1}, {0, 0}, {2, 1}};
  std::memcpy(body.data(), pairs.data(), pairs.size() * sizeof(WirePair));
  std::vector<RoutedRow> rows;
  ASSERT_TRUE(ReadPairs(shape, 1, header, body.data(), &rows).ok());
  ASSERT_EQ(rows.size(), 3u);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(rows[i].expert, pairs[i].expert);
    EXPECT_EQ(rows[i].x_row, pairs[i].row);
    EXPECT_EQ(rows[i].out_row, i);
  }
}

TEST(TcpFrameTest, PairsThatCantBeAreRefused) {
  const GroupShape shape = SmallShape(2, 1);
  struct Case {
    std::string what;
    std::vector<WirePair> pairs;
  };
  GroupShape two_here = shape;
  two_here.rank_of_expert = {1, 1};
  for (const Case& c : std::vector<Case>{{"an expert of another rank", {{0, 0}, {1, 0}}},
                                         {"no expert", {{1, 0}, {2, 0}}},
                                         {"a negative expert", {{-1, 0}, {1, 0}}},
                                         {"a row that was not sent", {{1, 0}, {1, 2}}},
                                         {"a negative row", {{1, -1}, {1, 0}}}}) {
    std::string body;
    const FrameHeader header = GoodDispatch(shape, 1, 0, &body);
    std::memcpy(body.data(), c.pairs.data(), c.pairs.size() * sizeof(WirePair));
    std::vector<RoutedRow> rows;
    EXPECT_EQ(ReadPairs(shape, 1, header, body.data(), &rows).code(), absl::StatusCode::kInternal)
        << c.what;
  }
  std::string body;
  const FrameHeader header = GoodDispatch(two_here, 1, 0, &body);
  const std::vector<WirePair> reversed = {{1, 0}, {0, 0}};
  std::memcpy(body.data(), reversed.data(), reversed.size() * sizeof(WirePair));
  std::vector<RoutedRow> rows;
  EXPECT_THAT(ReadPairs(two_here, 1, header, body.data(), &rows).ToString(),
              HasSubstr("out of order"));
}

// The fuzzer's check, on seeded mutations of good frames: runs where libFuzzer is not at hand.
TEST(TcpFrameTest, MutatedFramesKeepTheParsersPromises) {
  std::mt19937 random(31);
  int num_good = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string body;
    const FrameHeader header = GoodDispatch(TcpFrameInputShape(), 1, round % 2, &body);
    std::string input = FrameBytes(header, body);
    const int num_changes = std::uniform_int_distribution<int>(0, 3)(random);
    for (int i = 0; i < num_changes; ++i) {
      input[random() % input.size()] = static_cast<char>(random() % 4 == 0 ? 255 : random() % 8);
    }
    if (random() % 8 == 0) input.resize(random() % input.size());
    if (CheckTcpFrameInput(input)) ++num_good;
  }
  EXPECT_GT(num_good, 1000);
  EXPECT_LT(num_good, 19000);
}

}  // namespace
}  // namespace moe::exchange
