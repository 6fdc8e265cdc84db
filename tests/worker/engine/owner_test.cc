// Tests worker/engine/owner.h and epoch_loop.h over a decoder and layers that only write down what
// they are asked for: what a device draws, what the host draws, and steps of which this rank has no
// rows.
#include "worker/engine/owner.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/thread_pool.h"
#include "worker/engine/epoch_loop.h"

namespace moe::engine {
namespace {

using model::LogitRequest;
using testing::ElementsAre;
using testing::HasSubstr;
using Want = LogitRequest::Want;

constexpr int kVocab = 10;

// Draws token 7 where it may, and gives logits with the largest at 4 where it has to.
class FakeDecoder : public model::Decoder {
 public:
  FakeDecoder() { config_.vocab_size = kVocab; }
  const model::ModelConfig& config() const override { return config_; }
  absl::Status Begin(absl::Span<const kernels::AttentionSlice> slices,
                     absl::Span<const int32_t> tokens) override {
    num_slices = static_cast<int>(slices.size());
    begun.assign(tokens.begin(), tokens.end());
    return begin_status;
  }
  absl::Status Finish(absl::Span<const LogitRequest> wanted, Deliver deliver) override {
    requests.assign(wanted.begin(), wanted.end());
    ++num_finished;
    for (size_t i = 0; i < wanted.size(); ++i) {
      model::LogitResult result;
      std::vector<float> logits(kVocab, 0.0F);
      logits[4] = 1;
      if (wanted[i].want == Want::kLogits) {
        result.logits = absl::MakeSpan(logits);
      } else {
        result.finite = finite;
        result.token = wanted[i].want == Want::kDraw ? 7 : wanted[i].token;
        result.logprob = -0.5F;
        for (int k = 0; k < wanted[i].num_top; ++k) result.top.emplace_back(k, -1.0F);
      }
      deliver(i, result);
    }
    return finish_status;
  }

  bool finite = true;
  absl::Status begin_status;
  absl::Status finish_status;
  int num_slices = 0;
  int num_finished = 0;
  std::vector<int32_t> begun;
  std::vector<LogitRequest> requests;

 private:
  model::ModelConfig config_;
};

class FakeLayers : public model::LayerLoop {
 public:
  explicit FakeLayers(bool collective) : collective_(collective) {}
  bool collective() const override { return collective_; }
  absl::Status Run(const model::StepOutline& outline) override {
    steps.push_back(outline.step);
    num_rows = outline.num_rows;
    return status;
  }

  absl::Status status;
  std::vector<uint64_t> steps;
  std::vector<int> num_rows;

 private:
  const bool collective_;
};

class OwnerTest : public testing::Test {
 protected:
  OwnerTest() : owner_({.rank = 1, .num_ranks = 3}, &decoder_, &blocks_, context_, nullptr) {}

  static v1::SamplingParams Sampling() {
    v1::SamplingParams sampling;
    sampling.set_top_p(1);
    sampling.set_repetition_penalty(1);
    sampling.set_num_logprobs(-1);
    sampling.set_num_prompt_logprobs(-1);
    return sampling;
  }
  // A prompt of three tokens, computed and drawn from in one step.
  static v1::StepPlan Plan(uint64_t sequence, uint32_t owner, const v1::SamplingParams& sampling) {
    v1::StepPlan plan;
    plan.set_epoch(1);
    plan.set_step(5);
    AddSequence(sequence, owner, sampling, &plan);
    return plan;
  }
  static void AddSequence(uint64_t sequence, uint32_t owner, const v1::SamplingParams& sampling,
                          v1::StepPlan* plan) {
    v1::NewSequence* added = plan->add_new_sequences();
    added->set_sequence_id(sequence);
    added->set_owner(owner);
    for (const int32_t token : {1, 2, 3}) added->add_prompt_tokens(token);
    *added->mutable_sampling() = sampling;
    v1::SequenceSlice* slice = plan->add_slices();
    slice->set_sequence_id(sequence);
    slice->set_owner(owner);
    slice->set_count(3);
    slice->set_sample(true);
  }

  kernels::ThreadPool pool_{{.num_threads = 1, .spin_microseconds = 0}};
  const kernels::Context context_ = {.level = kernels::CpuLevel::kPlain, .pool = &pool_};
  FakeDecoder decoder_;
  KvBlockPool blocks_{8, 32};
  Owner owner_;
  FakeLayers alone_{/*collective=*/false};
  FakeLayers together_{/*collective=*/true};
};

TEST_F(OwnerTest, WhatTheDeviceMayDrawIsItsDraw) {
  v1::SamplingParams sampling = Sampling();
  sampling.set_temperature(0.7F);
  sampling.set_seed(3);
  sampling.set_num_logprobs(2);
  const auto result = owner_.RunStep(Plan(9, 1, sampling), &alone_);
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_EQ(decoder_.requests.size(), 1u);
  EXPECT_EQ(decoder_.requests[0].row, 2);
  EXPECT_EQ(decoder_.requests[0].want, Want::kDraw);
  EXPECT_EQ(decoder_.requests[0].temperature, 0.7F);
  EXPECT_EQ(decoder_.requests[0].num_top, 2);
  EXPECT_EQ(result->results(0).token(), 7);
  EXPECT_EQ(result->results(0).logprob(), -0.5F);
  EXPECT_EQ(result->results(0).top_logprobs_size(), 2);
}

TEST_F(OwnerTest, WhatTheHostHasToDrawItDrawsFromTheLogits) {
  v1::SamplingParams sampling = Sampling();
  (*sampling.mutable_logit_bias())[5] = 0.25F;
  const auto result = owner_.RunStep(Plan(9, 1, sampling), &alone_);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(decoder_.requests[0].want, Want::kLogits);
  EXPECT_EQ(result->results(0).token(), 4);
}

TEST_F(OwnerTest, PromptLogprobsAreAskedForByToken) {
  v1::SamplingParams sampling = Sampling();
  sampling.set_num_prompt_logprobs(1);
  const auto result = owner_.RunStep(Plan(9, 1, sampling), &alone_);
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_EQ(decoder_.requests.size(), 3u);
  EXPECT_EQ(decoder_.requests[0].want, Want::kLogprobs);
  EXPECT_EQ(decoder_.requests[0].token, 2);
  EXPECT_EQ(decoder_.requests[1].token, 3);
  EXPECT_EQ(result->results(0).prompt_logprobs_size(), 2);
  EXPECT_EQ(result->results(0).prompt_logprobs(1).logprob(), -0.5F);
  EXPECT_EQ(result->results(0).token(), 7);
}

TEST_F(OwnerTest, LogitsThatAreNotFiniteFailTheirSequenceAlone) {
  v1::SamplingParams by_host = Sampling();
  by_host.set_min_tokens(1);
  v1::StepPlan plan = Plan(9, 1, Sampling());
  AddSequence(10, 1, by_host, &plan);
  decoder_.finite = false;
  const auto result = owner_.RunStep(plan, &alone_);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->results(0).error(), HasSubstr("not finite"));
  EXPECT_FALSE(result->results(0).sampled());
  EXPECT_EQ(result->results(1).error(), "");
  EXPECT_EQ(result->results(1).token(), 4);
}

TEST_F(OwnerTest, AStepWithoutOwnRowsRunsOnlyWhereEveryRankTakesPart) {
  const v1::StepPlan plan = Plan(9, 2, Sampling());
  const auto skipped = owner_.RunStep(plan, &alone_);
  ASSERT_TRUE(skipped.ok());
  EXPECT_EQ(skipped->results_size(), 0);
  EXPECT_TRUE(alone_.steps.empty());
  EXPECT_EQ(decoder_.num_finished, 0);

  const auto taken = owner_.RunStep(plan, &together_);
  ASSERT_TRUE(taken.ok());
  EXPECT_EQ(taken->results_size(), 0);
  EXPECT_THAT(together_.steps, ElementsAre(5));
  EXPECT_THAT(together_.num_rows, ElementsAre(0, 0, 3));
  EXPECT_TRUE(decoder_.begun.empty());
  EXPECT_EQ(decoder_.num_finished, 1);
}

TEST_F(OwnerTest, APlanWithoutRowsOfAnyRankRunsNoLayers) {
  v1::StepPlan plan;
  plan.set_step(6);
  plan.add_released(9);
  ASSERT_TRUE(owner_.RunStep(plan, &together_).ok());
  EXPECT_TRUE(together_.steps.empty());
}

TEST_F(OwnerTest, ErrorsOfTheDeviceKeepTheirCodes) {
  const v1::StepPlan plan = Plan(9, 1, Sampling());
  decoder_.begin_status = absl::InvalidArgumentError("a step that can't be");
  EXPECT_EQ(owner_.RunStep(plan, &alone_).status().code(), absl::StatusCode::kInternal);
  decoder_.begin_status = absl::DataLossError("lost");
  EXPECT_EQ(owner_.RunStep(plan, &alone_).status().code(), absl::StatusCode::kDataLoss);
  decoder_.begin_status = absl::OkStatus();
  alone_.status = absl::AbortedError("over");
  EXPECT_EQ(owner_.RunStep(plan, &alone_).status().code(), absl::StatusCode::kAborted);
  alone_.status = absl::OkStatus();
  decoder_.finish_status = absl::DataLossError("lost");
  EXPECT_EQ(owner_.RunStep(plan, &alone_).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(OwnerTest, AnOutlineTellsWhatThePlanHasForEachRank) {
  v1::StepPlan plan = Plan(9, 0, Sampling());
  AddSequence(10, 2, Sampling(), &plan);
  v1::SequenceSlice* decoding = plan.add_slices();
  decoding->set_sequence_id(11);
  decoding->set_owner(2);
  decoding->set_start(40);
  decoding->set_count(1);
  auto outline = OutlineOf(plan, 3, false);
  ASSERT_TRUE(outline.ok());
  EXPECT_EQ(outline->step, plan.step());
  EXPECT_THAT(outline->num_rows, ElementsAre(3, 0, 4));
  EXPECT_THAT(outline->num_keys, ElementsAre(3, 0, 44));
  EXPECT_EQ(outline->longest, 41);
  EXPECT_FALSE(outline->is_decode);
  outline = OutlineOf(plan, 3, true);
  ASSERT_TRUE(outline.ok());
  EXPECT_THAT(outline->num_rows, ElementsAre(7, 7, 7));
  EXPECT_THAT(outline->num_keys, ElementsAre(47, 47, 47));
  EXPECT_EQ(OutlineOf(plan, 2, false).status().code(), absl::StatusCode::kInternal);
  plan.mutable_slices()->DeleteSubrange(0, 2);
  outline = OutlineOf(plan, 3, false);
  ASSERT_TRUE(outline.ok());
  EXPECT_TRUE(outline->is_decode);
}

// ---- The loop of a rank that follows

class FakeControl : public exchange::ControlChannel {
 public:
  absl::Status SendPlan(uint64_t, std::string_view, absl::Span<const int>) override {
    return absl::OkStatus();
  }
  absl::StatusOr<ReceivedPlan> ReceivePlan() override {
    if (!plan.has_value()) return absl::AbortedError("over");
    return ReceivedPlan{5, *std::exchange(plan, std::nullopt)};
  }
  absl::Status SendResult(uint64_t, std::string_view bytes) override {
    results.emplace_back(bytes);
    return absl::OkStatus();
  }
  absl::StatusOr<std::vector<std::string>> ReceiveResults(uint64_t,
                                                          absl::Span<const int>) override {
    return std::vector<std::string>();
  }

  std::optional<std::string> plan;
  std::vector<std::string> results;
};

class FollowTest : public OwnerTest {
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
