#include "simulator/engine.h"

#include <map>
#include <vector>

#include "gtest/gtest.h"
#include "simulator/limits.h"
#include "tests/simulator/scenarios.h"

namespace moe::simulator {
namespace {

class EngineTest : public ::testing::Test, public engine::EventSink {
 protected:
  void OnEvents(uint64_t /*client*/, engine::v1::StepEvents events) override {
    for (const engine::v1::TokenEvent& event : events.events()) {
      EXPECT_EQ(event.position(), tokens_[event.request()]++);
    }
  }

  void Make(const char* layout, const EngineLimits& limits = {}) {
    options_.scenario = TenMillisecondSteps();
    options_.layout = planner::ParseLayout(layout).value();
    options_.leader = MakeLeaderOptions(options_.scenario, options_.layout, limits).value();
    router_ = RouterModel::Create({}, {.num_layers = 16, .num_experts = 64, .top_k = 8},
                                  *coordinator::PlaceInBlocks(64, options_.layout.expert), 1)
                  .value();
    engine_.emplace(&options_, &*router_, this);
    engine_->StartLeader();
    engine_->ChangeEpoch(1, {});
  }

  void Submit(uint64_t request, int input_tokens, uint32_t output_tokens) {
    engine::v1::Submit submit;
    submit.set_request(request);
    for (int i = 0; i < input_tokens; ++i) submit.add_prompt_tokens(0);
    submit.mutable_sampling()->set_top_p(1);
    submit.mutable_sampling()->set_repetition_penalty(1);
    submit.mutable_sampling()->set_max_tokens(output_tokens);
    submit.mutable_sampling()->set_ignore_eos(true);
    submit.mutable_sampling()->set_num_logprobs(-1);
    submit.mutable_sampling()->set_num_prompt_logprobs(-1);
    const auto rejected = engine_->Submit(1, std::move(submit), now_);
    EXPECT_FALSE(rejected.has_value()) << rejected->message();
  }

  // One step, if there is one.
  bool Step() {
    const auto time = engine_->BeginStep(now_);
    if (!time.has_value()) return false;
    now_ += *time;
    EXPECT_TRUE(engine_->EndStep(now_).ok());
    return true;
  }

  EngineOptions options_;
  std::optional<RouterModel> router_;
  std::optional<Engine> engine_;
  std::map<uint64_t, uint32_t> tokens_;  // of each request
  absl::Time now_ = absl::UnixEpoch();
};

TEST_F(EngineTest, EachStepTakesItsTimeAndGivesAToken) {
  Make("DP1");
  Submit(1, 100, 3);
  int num_steps = 0;
  while (Step()) ++num_steps;
  EXPECT_EQ(num_steps, 3);
  EXPECT_EQ(now_ - absl::UnixEpoch(), absl::Milliseconds(30));
  EXPECT_EQ(tokens_[1], 3);
  EXPECT_EQ(engine_->totals().num_steps, 3);
  EXPECT_EQ(engine_->totals().num_prefill_steps, 1);
  EXPECT_EQ(engine_->totals().rows, 102);
  EXPECT_EQ(engine_->num_prompt_tokens(), 100);
}

TEST_F(EngineTest, AnOwnerThatIsLostLosesWhatItComputed) {
  Make("EP4_TP1_PP1_DP1");
  for (uint64_t request = 1; request <= 4; ++request) Submit(request, 100, 10);
  Step();
  Step();
  // Each owner has one sequence: its prompt and one token.
  EXPECT_EQ(engine_->ChangeEpoch(2, {2}), 101);
  EXPECT_EQ(engine_->ChangeEpoch(3, {2}), 0);
  while (Step()) {
  }
  for (uint64_t request = 1; request <= 4; ++request) EXPECT_EQ(tokens_[request], 10);
  EXPECT_EQ(engine_->num_prompt_tokens(), 400 + 102);
}

TEST_F(EngineTest, AStepThatIsDroppedIsComputedAgain) {
  Make("DP1");
  Submit(1, 100, 2);
  ASSERT_TRUE(engine_->BeginStep(now_).has_value());
  EXPECT_TRUE(engine_->step_runs());
  engine_->DropStep();
  engine_->ChangeEpoch(2, {});
  while (Step()) {
  }
  EXPECT_EQ(tokens_[1], 2);
  EXPECT_EQ(engine_->totals().num_steps, 2);
}

TEST_F(EngineTest, ALostLeaderLosesEverythingAndItsCountersStay) {
  Make("EP4_TP1_PP1_DP1");
  for (uint64_t request = 1; request <= 4; ++request) Submit(request, 100, 10);
  Step();
  EXPECT_EQ(engine_->LoseLeader(), 400);
  EXPECT_FALSE(engine_->has_leader());
  EXPECT_EQ(engine_->num_prompt_tokens(), 400);
  EXPECT_EQ(engine_->LoseLeader(), 0);
}

TEST_F(EngineTest, SequencesThatEndedAreNotLost) {
  Make("DP1");
  Submit(1, 100, 1);
  while (Step()) {
  }
  EXPECT_EQ(engine_->LoseLeader(), 0);
}

TEST_F(EngineTest, AFullKvCachePreempts) {
  // 8 blocks of 32 tokens for two sequences that grow to 5 blocks each.
  Make("DP1", {.kv_tokens = 8 * 32});
  Submit(1, 100, 60);
  Submit(2, 100, 60);
  while (Step()) {
  }
  EXPECT_GT(engine_->num_preemptions(), 0);
  EXPECT_GT(engine_->num_prompt_tokens(), 200);
  EXPECT_EQ(tokens_[1], 60);
  EXPECT_EQ(tokens_[2], 60);
}

}  // namespace
}  // namespace moe::simulator
