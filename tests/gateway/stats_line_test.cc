// Tests gateway/stats_line.h.
#include "gateway/stats_line.h"

#include <optional>
#include <string>

#include "gtest/gtest.h"

namespace moe::gateway {
namespace {

TEST(ReadyLineTest, NamesUrlLayoutAndCache) {
  EngineView view;
  view.group.set_layout("EP2_TP1_PP1_DP1");
  view.group.set_kv_capacity_tokens(4096);
  view.group.add_workers();
  view.group.add_workers();
  EXPECT_EQ(ReadyLine("m", "127.0.0.1", 8000, view),
            "Serving m on http://127.0.0.1:8000 | EP2_TP1_PP1_DP1, 2 workers | KV cache 4096 "
            "tokens");
  EXPECT_EQ(ReadyLine("m", "::1", 80, view).substr(0, 28), "Serving m on http://[::1]:80");
}

TEST(ReadyLineTest, CountsTheGroupsWhenThereAreSeveral) {
  EngineView view;
  view.group.set_layout("EP2_TP1_PP1_DP1");
  for (int i = 0; i < 3; ++i) {
    GroupView& group = view.groups.emplace_back();
    group.state.add_workers();
    group.state.add_workers();
    group.state.set_kv_capacity_tokens(4096);
  }
  EXPECT_EQ(
      ReadyLine("m", "127.0.0.1", 8000, view),
      "Serving m on http://127.0.0.1:8000 | 3 groups of EP2_TP1_PP1_DP1, 6 workers | KV cache "
      "12288 tokens");
}

class StatsLineTest : public ::testing::Test {
 protected:
  std::optional<std::string> Next(int seconds, int64_t num_prompt, int64_t num_generated) {
    return line_.Next(start_ + absl::Seconds(seconds), num_prompt, num_generated,
                      [this] { return view_; });
  }

  const absl::Time start_ = absl::FromUnixSeconds(1000);
  StatsLine line_{absl::Seconds(10), start_};
  EngineView view_;
};

TEST_F(StatsLineTest, ComesOncePerIntervalWithTheRatesOfThatInterval) {
  view_.stats.set_num_running(3);
  view_.stats.set_num_waiting(2);
  view_.stats.set_kv_usage(0.125);
  EXPECT_EQ(Next(9, 1000, 500), std::nullopt);
  EXPECT_EQ(Next(10, 1000, 500),
            "prompt 100.0 tok/s, generation 50.0 tok/s | running 3, waiting 2 | KV 12.5%");
  EXPECT_EQ(Next(19, 1000, 500), std::nullopt);
  EXPECT_EQ(Next(30, 1000, 700),
            "prompt 0.0 tok/s, generation 10.0 tok/s | running 3, waiting 2 | KV 12.5%");
}

TEST_F(StatsLineTest, EndsWithTheGroupsThatServe) {
  view_.groups.resize(3);
  view_.groups[1].serving = true;
  EXPECT_EQ(Next(10, 1000, 500),
            "prompt 100.0 tok/s, generation 50.0 tok/s | running 0, waiting 0 | KV 0.0% | 1 of 3 "
            "groups serve");
}

TEST_F(StatsLineTest, IsLeftOutWhenNothingHappens) {
  EXPECT_EQ(Next(10, 0, 0), std::nullopt);
  view_.stats.set_num_waiting(1);
  EXPECT_NE(Next(20, 0, 0), std::nullopt) << "a request waits";
  StatsLine never(absl::ZeroDuration(), start_);
  EXPECT_EQ(never.Next(start_ + absl::Hours(1), 5, 5, [this] { return view_; }), std::nullopt);
}

}  // namespace
}  // namespace moe::gateway
