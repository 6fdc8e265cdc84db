// A rank without a model, for tests of owners and of the loop over steps: a decoder and layers that
// write down what they are asked for, a control channel, and plans.
#ifndef MOE_TESTS_WORKER_ENGINE_FAKE_RANK_H_
#define MOE_TESTS_WORKER_ENGINE_FAKE_RANK_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "proto/step.pb.h"
#include "worker/exchange/exchange.h"
#include "worker/model/decoder.h"

namespace moe::engine {

inline constexpr int kFakeVocab = 10;

// Draws token 7 where it may, and gives logits with the largest at 4 where it has to.
class FakeDecoder : public model::Decoder {
 public:
  FakeDecoder() { config_.vocab_size = kFakeVocab; }
  const model::ModelConfig& config() const override { return config_; }
  absl::Status Begin(absl::Span<const kernels::AttentionSlice> slices,
                     absl::Span<const int32_t> tokens) override {
    num_slices = static_cast<int>(slices.size());
    begun.assign(tokens.begin(), tokens.end());
    if (log != nullptr) log->push_back("begin");
    return begin_status;
  }
  absl::Status Finish(absl::Span<const model::LogitRequest> wanted, Deliver deliver) override {
    requests.assign(wanted.begin(), wanted.end());
    ++num_finished;
    if (log != nullptr) log->push_back("finish");
    for (size_t i = 0; i < wanted.size(); ++i) {
      model::LogitResult result;
      std::vector<float> logits(kFakeVocab, 0.0F);
      logits[4] = 1;
      if (wanted[i].want == model::LogitRequest::Want::kLogits) {
        result.logits = absl::MakeSpan(logits);
      } else {
        result.finite = finite;
        result.token = wanted[i].want == model::LogitRequest::Want::kDraw ? 7 : wanted[i].token;
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
  std::vector<model::LogitRequest> requests;
  std::vector<std::string>* log = nullptr;  // of calls; not owned

 private:
  model::ModelConfig config_;
};

class FakeLayers : public model::LayerLoop {
 public:
  explicit FakeLayers(bool collective) : collective_(collective) {}
  bool collective() const override { return collective_; }
  // As on a GPU, where all ranks run all steps.
  bool asynchronous() const override { return collective_; }
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

// Another rank's answers to the leader, or the one plan that a follower gets.
class FakeControl : public exchange::ControlChannel {
 public:
  absl::Status SendPlan(uint64_t step, std::string_view bytes, absl::Span<const int>) override {
    Log(absl::StrCat("send ", step));
    sent.emplace_back();
    EXPECT_TRUE(sent.back().ParseFromString(std::string(bytes)));
    return absl::OkStatus();
  }
  bool TakesPlanAhead() const override { return takes_plan_ahead; }
  absl::StatusOr<ReceivedPlan> ReceivePlan() override {
    if (!plan.has_value()) return absl::AbortedError("over");
    return ReceivedPlan{5, *std::exchange(plan, std::nullopt)};
  }
  absl::Status SendResult(uint64_t, std::string_view bytes) override {
    results.emplace_back(bytes);
    return absl::OkStatus();
  }
  absl::StatusOr<std::vector<std::string>> ReceiveResults(uint64_t step,
                                                          absl::Span<const int> ranks) override {
    Log(absl::StrCat("receive ", step));
    v1::StepResult empty;
    empty.set_epoch(1);
    empty.set_step(step);
    return std::vector<std::string>(ranks.size(), empty.SerializeAsString());
  }

  bool takes_plan_ahead = false;
  std::vector<v1::StepPlan> sent;
  std::optional<std::string> plan;
  std::vector<std::string> results;
  std::vector<std::string>* log = nullptr;  // of calls; not owned

 private:
  void Log(const std::string& call) {
    if (log != nullptr) log->push_back(call);
  }
};

inline v1::SamplingParams Sampling() {
  v1::SamplingParams sampling;
  sampling.set_top_p(1);
  sampling.set_repetition_penalty(1);
  sampling.set_num_logprobs(-1);
  sampling.set_num_prompt_logprobs(-1);
  return sampling;
}
inline void AddSequence(uint64_t sequence, uint32_t owner, const v1::SamplingParams& sampling,
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

// A prompt of three tokens, computed and drawn from in one step.
inline v1::StepPlan Plan(uint64_t sequence, uint32_t owner, const v1::SamplingParams& sampling) {
  v1::StepPlan plan;
  plan.set_epoch(1);
  plan.set_step(5);
  AddSequence(sequence, owner, sampling, &plan);
  return plan;
}

}  // namespace moe::engine

#endif  // MOE_TESTS_WORKER_ENGINE_FAKE_RANK_H_
