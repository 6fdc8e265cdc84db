// Random runs of a leader with owners that check every plan: whatever happens in between, each
// sequence generates exactly the tokens of an undisturbed run, each position once.

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/worker/engine/fake_owners.h"
#include "worker/engine/leader.h"

namespace moe::engine {
namespace {

constexpr int kVocab = 50;

struct Expected {
  v1::Submit submit;
  std::vector<int32_t> tokens;    // that arrived, those of the submission included
  std::vector<int32_t> complete;  // of an undisturbed run
  bool finished = false;
  bool cancelled = false;
};

class Simulation : public EventSink {
 public:
  explicit Simulation(unsigned seed) : random_(seed) {
    options_.limits = {.num_owners = Uniform(1, 4),
                       .max_sequences = Uniform(1, 10),
                       .max_step_tokens = Uniform(1, 40),
                       .min_prefill_chunk = Uniform(1, 10),
                       .kv_blocks_per_owner = Uniform(6, 24),
                       .kv_block_tokens = Uniform(1, 5)};
    options_.max_queue = 1000;
    options_.max_context = Uniform(8, 60);
    options_.vocab_size = kVocab;
    options_.end_token_ids = {7};
    owners_ = std::make_unique<FakeOwners>(options_.limits, kVocab);
    leader_ = *Leader::Create(options_, epoch_, this);
  }

  void OnEvents(uint64_t client, v1::StepEvents events) override {
    EXPECT_EQ(events.epoch(), epoch_);
    for (const v1::TokenEvent& event : events.events()) {
      Expected& expected = sequences_.at({client, event.request()});
      EXPECT_FALSE(expected.finished) << "an event after the end";
      EXPECT_EQ(event.position(), expected.tokens.size()) << "a gap or a double";
      EXPECT_NE(event.finish(), v1::TokenEvent::ERROR) << event.error();
      if (event.position() == 0 && expected.submit.sampling().num_prompt_logprobs() >= 0) {
        ASSERT_EQ(event.prompt_logprobs_size(), expected.submit.prompt_tokens_size());
        for (int i = 0; i < event.prompt_logprobs_size(); ++i) {
          EXPECT_EQ(event.prompt_logprobs(i).logprob(), static_cast<float>(i));
        }
      } else {
        EXPECT_EQ(event.prompt_logprobs_size(), 0);
      }
      expected.tokens.push_back(event.token());
      if (event.finish() == v1::TokenEvent::NONE) continue;
      expected.finished = true;
      EXPECT_EQ(expected.tokens, expected.complete);
      EXPECT_EQ(event.finish() == v1::TokenEvent::STOP, event.token() == 7);
    }
  }

  void Run() {
    for (int i = 0; i < 400; ++i) {
      if (i < 250 && Uniform(0, 3) == 0) SubmitNew();
      if (Uniform(0, 15) == 0) CancelOne();
      Step(Uniform(0, 9));
      if (testing::Test::HasFailure()) return;
    }
    for (int i = 0; i < 20000 && (leader_->HasWork() || !open_.empty()); ++i) {
      Step(9);
      if (testing::Test::HasFailure()) return;
    }
    EXPECT_FALSE(leader_->HasWork());
    for (const auto& [key, expected] : sequences_) {
      EXPECT_TRUE(expected.finished || expected.cancelled) << "request " << key.second;
    }
    EXPECT_EQ(leader_->stats().num_running(), 0u);
    EXPECT_EQ(leader_->stats().num_waiting(), 0u);
    EXPECT_EQ(leader_->stats().kv_usage(), 0);
  }

  // Plans that were made before the results of the step before.
  int num_ahead() const { return num_ahead_; }

 private:
  int Uniform(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }

  void SubmitNew() {
    Expected expected;
    v1::Submit& submit = expected.submit;
    submit.set_request(next_request_++);
    const int num_prompt = Uniform(1, 30);
    for (int i = 0; i < num_prompt; ++i) submit.add_prompt_tokens(Uniform(0, kVocab - 1));
    v1::SamplingParams* sampling = submit.mutable_sampling();
    sampling->set_top_p(1);
    sampling->set_repetition_penalty(1);
    sampling->set_max_tokens(static_cast<uint32_t>(Uniform(1, 30)));
    sampling->set_num_logprobs(-1);
    sampling->set_num_prompt_logprobs(Uniform(0, 2) == 0 ? 1 : -1);
    const uint64_t client = static_cast<uint64_t>(Uniform(1, 3));
    Put(client, std::move(expected));
  }

  void Put(uint64_t client, Expected expected) {
    const v1::Submit& submit = expected.submit;
    const auto rejected = leader_->Submit(client, submit, Now());
    if (rejected.has_value()) {
      EXPECT_EQ(rejected->reason(), v1::Rejected::TOO_LONG) << rejected->message();
      return;
    }
    const int num_prompt = submit.prompt_tokens_size();
    const int num_tokens = std::min(static_cast<int>(submit.sampling().max_tokens()),
                                    options_.max_context - num_prompt);
    expected.complete = FakeGeneration(
        {submit.prompt_tokens().begin(), submit.prompt_tokens().end()}, num_tokens, kVocab);
    const auto end = std::find(expected.complete.begin(), expected.complete.end(), 7);
    if (end != expected.complete.end()) expected.complete.erase(end + 1, expected.complete.end());
    sequences_[{client, submit.request()}] = std::move(expected);
  }

  void CancelOne() {
    for (auto& [key, expected] : sequences_) {
      if (expected.finished || expected.cancelled || Uniform(0, 3) != 0) continue;
      // Tokens of a step that runs already may still arrive.
      expected.cancelled = true;
      leader_->Cancel(key.first, key.second);
      return;
    }
  }

  void Step(int what) {
    if (open_.empty()) Open(leader_->NextPlan(Now()));
    if (open_.size() == 1 && Uniform(0, 2) != 0) Open(leader_->PlanAhead());
    if (what == 0) return LoseOwners();
    if (what == 1 && Uniform(0, 3) == 0) return LoseLeader();
    if (open_.empty()) return;
    const auto results = RunOldest();
    ASSERT_TRUE(results.ok()) << results.status();
    // Sometimes all have computed, and maybe the step after, but the leader does not see it.
    if (what == 2) {
      if (!open_.empty() && Uniform(0, 1) == 0) {
        const auto more = RunOldest();
        ASSERT_TRUE(more.ok()) << more.status();
      }
      return ChangeEpoch({});
    }
    const absl::Status status = leader_->Commit(ran_, *results, Now());
    ASSERT_TRUE(status.ok()) << status;
  }

  void Open(const std::optional<v1::StepPlan>& plan) {
    if (!plan.has_value()) return;
    EXPECT_EQ(plan->step(), ++step_);
    EXPECT_EQ(plan->epoch(), epoch_);
    if (!open_.empty()) ++num_ahead_;
    open_.push_back(*plan);
  }

  // REQUIRES: a plan is open.
  absl::StatusOr<std::vector<v1::StepResult>> RunOldest() {
    ran_ = open_.front();
    open_.pop_front();
    // Plans travel as bytes.
    v1::StepPlan received;
    EXPECT_TRUE(received.ParseFromString(ran_.SerializeAsString()));
    return owners_->Run(received);
  }

  void ChangeEpoch(const std::vector<int>& lost) {
    step_ = 0;
    open_.clear();
    leader_->OnEpochChanged(++epoch_, lost);
  }

  // The plans may have reached the owners that stay, or some of them, or none.
  void LoseOwners() {
    while (!open_.empty() && Uniform(0, 1) == 0) {
      const auto results = RunOldest();
      ASSERT_TRUE(results.ok()) << results.status();
    }
    std::vector<int> lost;
    for (int owner = 0; owner < options_.limits.num_owners; ++owner) {
      if (Uniform(0, 1) == 0) continue;
      lost.push_back(owner);
      owners_->Restart(owner);
    }
    ChangeEpoch(lost);
  }

  // Another leader takes over with nothing; the gateways submit again what they have.
  void LoseLeader() {
    step_ = 0;
    open_.clear();
    leader_ = *Leader::Create(options_, ++epoch_, this);
    owners_ = std::make_unique<FakeOwners>(options_.limits, kVocab);
    for (auto& [key, expected] : sequences_) {
      if (expected.finished || expected.cancelled) continue;
      v1::Submit again = expected.submit;
      again.mutable_generated_tokens()->Assign(expected.tokens.begin(), expected.tokens.end());
      const auto rejected = leader_->Submit(key.first, again, Now());
      EXPECT_FALSE(rejected.has_value()) << rejected->message();
    }
  }

  absl::Time Now() {
    now_ += absl::Milliseconds(1);
    return now_;
  }

  std::mt19937 random_;
  LeaderOptions options_;
  uint64_t epoch_ = 1;
  uint64_t step_ = 0;
  std::deque<v1::StepPlan> open_;  // given out, and not run
  v1::StepPlan ran_;               // the last that ran
  int num_ahead_ = 0;
  std::unique_ptr<FakeOwners> owners_;
  std::unique_ptr<Leader> leader_;
  std::map<std::pair<uint64_t, uint64_t>, Expected> sequences_;
  uint64_t next_request_ = 1;
  absl::Time now_ = absl::UnixEpoch();
};

TEST(LeaderSimulationTest, EverySequenceIsWholeWhateverIsLost) {
  int num_ahead = 0;
  for (unsigned seed = 0; seed < 300 && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Simulation simulation(seed);
    simulation.Run();
    num_ahead += simulation.num_ahead();
  }
  EXPECT_GT(num_ahead, 1000);
}

}  // namespace
}  // namespace moe::engine
