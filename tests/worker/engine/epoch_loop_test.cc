// Tests worker/engine/epoch_loop.h over a rank that only writes down what it is asked for: in which
// order a leader plans, computes and receives, and what a rank that follows takes part in.
#include "worker/engine/epoch_loop.h"

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/thread_pool.h"
#include "tests/worker/engine/fake_rank.h"

namespace moe::engine {
namespace {

using testing::ElementsAre;

// ---- The loop of the leader

// A leader of two ranks, which owns all rows; ends with the last of its tokens.
class LeadTest : public testing::Test, public EventSink {
 protected:
  LeadTest() {
    options_.limits = {.max_sequences = 4, .max_step_tokens = 16, .kv_blocks_per_owner = 8};
    options_.max_context = 64;
    options_.vocab_size = kFakeVocab;
    decoder_.log = &log_;
    control_.log = &log_;
  }

  void OnEvents(uint64_t, v1::StepEvents events) override {
    for (const v1::TokenEvent& event : events.events()) {
      log_.push_back(absl::StrCat("token ", event.position()));
      EXPECT_EQ(event.token(), 7);
      if (event.finish() != v1::TokenEvent::NONE) stop_ = true;
    }
  }

  absl::Status Lead(model::LayerLoop* layers, int num_ranks = 2) {
    leader_ = *Leader::Create(options_, /*epoch=*/1, this);
    v1::Submit submit;
    submit.set_request(1);
    submit.add_prompt_tokens(3);
    *submit.mutable_sampling() = Sampling();
    submit.mutable_sampling()->set_max_tokens(3);
    EXPECT_FALSE(leader_->Submit(1, submit, absl::UnixEpoch()).has_value());
    Owner owner({.rank = 0, .num_ranks = num_ranks}, &decoder_, &blocks_, context_, nullptr);
    return LeadEpoch({.epoch = 1,
                      .rank = 0,
                      .num_ranks = num_ranks,
                      .layers = layers,
                      .control = num_ranks > 1 ? &control_ : nullptr,
                      .owner = &owner,
                      .stop = &stop_,
                      .current_step = &step_},
                     leader_.get());
  }

  kernels::ThreadPool pool_{{.num_threads = 1, .spin_microseconds = 0}};
  const kernels::Context context_ = {.level = kernels::CpuLevel::kPlain, .pool = &pool_};
  LeaderOptions options_;
  FakeDecoder decoder_;
  KvBlockPool blocks_{8, 32};
  FakeControl control_;
  FakeLayers alone_{/*collective=*/false};
  FakeLayers together_{/*collective=*/true};
  std::unique_ptr<Leader> leader_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> step_{0};
  std::vector<std::string> log_;
};

TEST_F(LeadTest, TheNextPlanGoesOutWhileTheDeviceComputes) {
  control_.takes_plan_ahead = true;
  EXPECT_TRUE(absl::IsAborted(Lead(&together_)));
  EXPECT_THAT(log_, ElementsAre("send 1", "begin",                                    //
                                "send 2", "finish", "begin", "receive 1", "token 0",  //
                                "send 3", "finish", "begin", "receive 2", "token 1",  //
                                "finish", "receive 3", "token 2"));
  EXPECT_TRUE(control_.sent[1].slices(0).follows_draw());
  EXPECT_THAT(together_.steps, ElementsAre(1, 2, 3));
}

TEST_F(LeadTest, AStepThatIsComputedInsideItsStartIsPlannedAfterTheResults) {
  control_.takes_plan_ahead = true;
  EXPECT_TRUE(absl::IsAborted(Lead(&alone_)));
  EXPECT_THAT(log_, ElementsAre("send 1", "begin", "finish", "receive 1", "token 0",  //
                                "send 2", "begin", "finish", "receive 2", "token 1",  //
                                "send 3", "begin", "finish", "receive 3", "token 2"));
  EXPECT_TRUE(control_.sent[1].slices(0).has_token());
}

TEST_F(LeadTest, AChannelThatTakesNoPlanAheadGetsNone) {
  EXPECT_TRUE(absl::IsAborted(Lead(&together_)));
  EXPECT_THAT(log_, ElementsAre("send 1", "begin", "finish", "receive 1", "token 0",  //
                                "send 2", "begin", "finish", "receive 2", "token 1",  //
                                "send 3", "begin", "finish", "receive 3", "token 2"));
}

TEST_F(LeadTest, ALeaderThatIsAloneTellsNobody) {
  EXPECT_TRUE(absl::IsAborted(Lead(&together_, /*num_ranks=*/1)));
  EXPECT_THAT(log_, ElementsAre("begin",                       //
                                "finish", "begin", "token 0",  //
                                "finish", "begin", "token 1",  //
                                "finish", "token 2"));
}

// ---- The loop of a rank that follows

class FollowTest : public testing::Test {
 protected:
  absl::Status Follow(const v1::StepPlan& plan, model::LayerLoop* layers) {
    control_.plan = plan.SerializeAsString();
    return FollowEpoch({.epoch = 1,
                        .rank = 1,
                        .num_ranks = 3,
                        .layers = layers,
                        .control = &control_,
                        .owner = nullptr,
                        .stop = &stop_,
                        .current_step = &step_});
  }

  FakeControl control_;
  FakeLayers alone_{/*collective=*/false};
  FakeLayers together_{/*collective=*/true};
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> step_{0};
};

TEST_F(FollowTest, ARankOfExpertsTakesPartInStepsOfAllRanks) {
  EXPECT_TRUE(absl::IsAborted(Follow(Plan(9, 0, Sampling()), &together_)));
  EXPECT_THAT(together_.num_rows, ElementsAre(3, 0, 0));
  ASSERT_EQ(control_.results.size(), 1u);
  v1::StepResult result;
  ASSERT_TRUE(result.ParseFromString(control_.results[0]));
  EXPECT_EQ(result.rank(), 1u);
  EXPECT_EQ(result.step(), 5u);
  EXPECT_EQ(result.results_size(), 0);
}

TEST_F(FollowTest, RowsOfARankOfExpertsAreRefused) {
  EXPECT_EQ(Follow(Plan(9, 1, Sampling()), &together_).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(Follow(Plan(9, 0, Sampling()), &alone_).code(), absl::StatusCode::kInternal);
}

TEST_F(FollowTest, AStepOfAllRanksGoesToAllOfThem) {
  const EpochRank rank = {.num_ranks = 4, .layers = &together_};
  EXPECT_THAT(RanksOfPlan(Plan(9, 0, Sampling()), rank), ElementsAre(1, 2, 3));
  const EpochRank others = {.num_ranks = 4, .layers = &alone_};
  EXPECT_THAT(RanksOfPlan(Plan(9, 2, Sampling()), others), ElementsAre(2));
}

}  // namespace
}  // namespace moe::engine
