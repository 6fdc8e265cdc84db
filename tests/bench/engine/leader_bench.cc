// Host time of the leader between two decode steps: what a device waits for where the next plan is
// made after the results, and what it does not wait for where the plan is made ahead.
//
//   leader_bench [Google Benchmark's flags]
//
// One iteration is a step of `batch` sequences on `owners` owners, whose results are made up
// outside the time that counts. Serialize and parse are those of the plan alone; the network is not
// there.
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "benchmark/benchmark.h"
#include "tests/bench/measure.h"
#include "worker/engine/leader.h"

namespace moe::engine {
namespace {

constexpr int kPromptTokens = 16;
constexpr int kContext = 4096;
constexpr int kToken = 1;

class Nobody : public EventSink {
 public:
  void OnEvents(uint64_t, v1::StepEvents) override {}
};

// A leader whose sequences all decode.
class Decoding {
 public:
  Decoding(int batch, int owners) : batch_(batch), owners_(owners) { Begin(); }

  Leader& leader() { return *leader_; }

  // Before each step: the sequences begin anew when their context is full. Then there is no plan.
  bool BeginsAnew() {
    if (--num_left_ > 0) return false;
    Begin();
    return true;
  }

  // One result for each owner with slices.
  static std::vector<v1::StepResult> ResultsOf(const v1::StepPlan& plan) {
    std::vector<v1::StepResult> results;
    int64_t owner = -1;
    for (const v1::SequenceSlice& slice : plan.slices()) {
      if (slice.owner() != owner) {
        owner = slice.owner();
        v1::StepResult& result = results.emplace_back();
        result.set_epoch(plan.epoch());
        result.set_step(plan.step());
        result.set_rank(slice.owner());
      }
      if (!slice.sample()) continue;
      v1::SequenceResult* result = results.back().add_results();
      result->set_sequence_id(slice.sequence_id());
      result->set_sampled(true);
      result->set_token(kToken);
    }
    return results;
  }

 private:
  void Begin() {
    LeaderOptions options;
    options.limits = {.num_owners = owners_,
                      .max_sequences = batch_,
                      .max_step_tokens = batch_ * kPromptTokens,
                      .kv_blocks_per_owner = batch_ * kContext / 32,
                      .kv_block_tokens = 32};
    options.max_context = kContext;
    options.vocab_size = 100;
    leader_ = bench::OrDie(Leader::Create(options, /*epoch=*/1, &nobody_));
    for (int i = 0; i < batch_; ++i) {
      v1::Submit submit;
      submit.set_request(static_cast<uint64_t>(i));
      for (int t = 0; t < kPromptTokens; ++t) submit.add_prompt_tokens(t);
      submit.mutable_sampling()->set_top_p(1);
      submit.mutable_sampling()->set_repetition_penalty(1);
      submit.mutable_sampling()->set_max_tokens(kContext);
      submit.mutable_sampling()->set_num_logprobs(-1);
      submit.mutable_sampling()->set_num_prompt_logprobs(-1);
      if (leader_->Submit(/*client=*/1, submit, absl::Now()).has_value()) {
        bench::OrDie(absl::InternalError("the leader takes no request"));
      }
    }
    const auto prompts = leader_->NextPlan(absl::Now());
    bench::OrDie(leader_->Commit(*prompts, ResultsOf(*prompts), absl::Now()));
    num_left_ = kContext - kPromptTokens - 8;
  }

  const int batch_;
  const int owners_;
  Nobody nobody_;
  std::unique_ptr<Leader> leader_;
  int num_left_ = 0;
};

using Plan = std::optional<v1::StepPlan>;

// Times `run_step`, which commits the plan with its results and returns the next one.
void RunSteps(benchmark::State& state,
              Plan (*run_step)(Leader& leader, const v1::StepPlan& plan,
                               const std::vector<v1::StepResult>& results)) {
  Decoding decoding(static_cast<int>(state.range(0)), static_cast<int>(state.range(1)));
  Plan plan = decoding.leader().NextPlan(absl::Now());
  for (auto _ : state) {
    state.PauseTiming();
    if (decoding.BeginsAnew()) plan = decoding.leader().NextPlan(absl::Now());
    const std::vector<v1::StepResult> results = Decoding::ResultsOf(*plan);
    state.ResumeTiming();
    plan = run_step(decoding.leader(), *plan, results);
  }
}

void Travel(const Plan& plan) {
  v1::StepPlan received;
  benchmark::DoNotOptimize(received.ParseFromString(plan->SerializeAsString()));
}

// What is between the results of a step and the next plan in every rank's hands.
void PlanAfterResults(benchmark::State& state) {
  RunSteps(state, [](Leader& leader, const v1::StepPlan& plan,
                     const std::vector<v1::StepResult>& results) {
    bench::OrDie(leader.Commit(plan, results, absl::Now()));
    Plan next = leader.NextPlan(absl::Now());
    Travel(next);
    return next;
  });
}

// The same where the plan is made while the step runs: all of it is beside the device's work.
void PlanAhead(benchmark::State& state) {
  RunSteps(state, [](Leader& leader, const v1::StepPlan& plan,
                     const std::vector<v1::StepResult>& results) {
    Plan next = leader.PlanAhead();
    Travel(next);
    bench::OrDie(leader.Commit(plan, results, absl::Now()));
    return next;
  });
}

void Sizes(benchmark::internal::Benchmark* benchmark) {
  for (const int batch : {1, 64, 256, 1024}) {
    for (const int owners : {1, 64}) {
      if (owners <= batch) benchmark->Args({batch, owners});
    }
  }
  benchmark->ArgNames({"batch", "owners"})->Unit(benchmark::kMicrosecond);
}

BENCHMARK(PlanAfterResults)->Apply(Sizes);
BENCHMARK(PlanAhead)->Apply(Sizes);

}  // namespace
}  // namespace moe::engine

BENCHMARK_MAIN();
