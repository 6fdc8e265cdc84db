// The same tokens and log-probabilities whatever the width, the number of attention ranks, the CPU
// level, the batch, the chunking, and whichever rank is lost on the way.
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/system/in_process_group.h"
#include "tests/system/requests.h"
#include "worker/model/checkpoint.h"

namespace moe::testing {
namespace {

using engine::v1::SamplingParams;

// Prompts of many lengths, half greedy and half sampled with every knob.
std::vector<Request> MakeRequests(const model::ModelConfig& config, int num_requests) {
  std::mt19937 random(7);
  std::vector<Request> requests;
  for (int i = 0; i < num_requests; ++i) {
    const int length = 1 + static_cast<int>(random() % (i % 8 == 0 ? 150 : 24));
    Request request = MakeRequest(config, length, /*max_tokens=*/8 + i % 9, random);
    SamplingParams& sampling = request.sampling;
    if (i % 2 == 1) {
      sampling.set_temperature(0.8f);
      sampling.set_seed(1000 + i);
      sampling.set_choice(i % 3);
      sampling.set_top_k(i % 4 == 1 ? 20 : 0);
      sampling.set_top_p(0.9f);
      sampling.set_frequency_penalty(0.3f);
      sampling.set_repetition_penalty(1.1f);
    }
    requests.push_back(std::move(request));
  }
  return requests;
}

class BitwiseTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto opened = model::Checkpoint::Open("models/demo");
    ASSERT_TRUE(opened.ok()) << opened.status();
    checkpoint_ = std::move(opened)->release();
    requests_ = MakeRequests(checkpoint_->config(), 64);
    // Each request alone, at width 1: what all others must equal.
    InProcessGroup group(checkpoint_, {});
    ASSERT_TRUE(group.StartEpoch().ok());
    baseline_ = AnswerEachAlone(&group, requests_);
  }

  void ExpectBaseline(const GroupOptions& options, int num_requests, const std::string& what) {
    InProcessGroup group(checkpoint_, options);
    ASSERT_TRUE(group.StartEpoch().ok());
    const std::vector<Request> requests(requests_.begin(), requests_.begin() + num_requests);
    const std::vector<Answer> want(baseline_.begin(), baseline_.begin() + num_requests);
    ExpectSame(Collect(&group, SubmitAll(&group, requests)), want, what);
  }

  // Kills `rank` after `num_tokens` tokens, as kill -9 would: the epoch ends at whatever
  // instruction the ranks are at, and a fresh process takes the slot.
  void ExpectBaselineAfterLosing(const GroupOptions& options, const std::vector<int>& lost,
                                 const std::string& what) {
    const int num_requests = 24;
    InProcessGroup group(checkpoint_, options);
    ASSERT_TRUE(group.StartEpoch().ok());
    const std::vector<Request> requests(requests_.begin(), requests_.begin() + num_requests);
    const std::vector<Answer> want(baseline_.begin(), baseline_.begin() + num_requests);
    const std::vector<uint64_t> ids = SubmitAll(&group, requests);
    int num_tokens = 10;
    for (const int rank : lost) {
      group.WaitTokens(num_tokens);
      num_tokens += 40;
      group.EndEpoch();
      ASSERT_TRUE(group.StartEpoch({rank}).ok());
    }
    ExpectSame(Collect(&group, ids), want, what);
  }

  static model::Checkpoint* checkpoint_;
  static std::vector<Request> requests_;
  static std::vector<Answer> baseline_;
};

model::Checkpoint* BitwiseTest::checkpoint_ = nullptr;
std::vector<Request> BitwiseTest::requests_;
std::vector<Answer> BitwiseTest::baseline_;

TEST_F(BitwiseTest, ABatchOf64GivesWhatEachRequestGivesAlone) {
  ExpectBaseline({.num_threads = 2}, 64, "batch of 64");
}

TEST_F(BitwiseTest, EveryWidthAndNumberOfAttentionRanksGivesTheSame) {
  for (const auto& [num_ranks, num_attention_ranks] :
       std::vector<std::pair<int, int>>{{2, 1}, {2, 2}, {5, 3}, {8, 1}, {8, 8}, {64, 1}, {64, 4}}) {
    ExpectBaseline({.num_ranks = num_ranks, .num_attention_ranks = num_attention_ranks}, 64,
                   "EP" + std::to_string(num_ranks) + " A" + std::to_string(num_attention_ranks));
  }
}

TEST_F(BitwiseTest, ReplicatedAttentionGivesTheSame) {
  for (const int num_ranks : {2, 8}) {
    ExpectBaseline({.num_ranks = num_ranks, .num_attention_ranks = num_ranks, .replicated = true},
                   16, "replicated EP" + std::to_string(num_ranks));
  }
}

TEST_F(BitwiseTest, TheTcpExchangeGivesTheSame) {
  for (const auto& [num_ranks, num_attention_ranks] :
       std::vector<std::pair<int, int>>{{2, 1}, {8, 1}, {8, 8}, {64, 1}}) {
    ExpectBaseline(
        {.num_ranks = num_ranks, .num_attention_ranks = num_attention_ranks, .tcp = true}, 64,
        "TCP EP" + std::to_string(num_ranks) + " A" + std::to_string(num_attention_ranks));
  }
  ExpectBaseline({.num_ranks = 4, .num_attention_ranks = 4, .replicated = true, .tcp = true}, 16,
                 "TCP replicated");
}

TEST_F(BitwiseTest, LosingRanksOverTcpChangesNothing) {
  ExpectBaselineAfterLosing({.num_ranks = 8, .num_attention_ranks = 3, .tcp = true}, {5, 2},
                            "rank lost over TCP");
}

TEST_F(BitwiseTest, EveryCpuLevelGivesTheSame) {
  for (const char* name : {"plain", "avx2", "avx512", "avx512_bf16"}) {
    const auto level = kernels::ParseCpuLevel(name);
    if (!level.ok()) {
      std::cout << "NOT COMPARED: " << level.status().message() << "\n";
      continue;
    }
    ExpectBaseline({.num_threads = 2, .level = *level}, 8, name);
  }
}

TEST_F(BitwiseTest, EveryChunkingOfPromptsGivesTheSame) {
  for (const int chunk : {1, 7, 512}) {
    ExpectBaseline({.num_ranks = 4, .max_step_tokens = chunk}, 16,
                   "chunk " + std::to_string(chunk));
  }
}

TEST_F(BitwiseTest, PreemptionForWantOfKvCacheGivesTheSame) {
  // Room for about six sequences of the batch at a time.
  ExpectBaseline({.num_ranks = 2, .kv_blocks_per_owner = 7}, 24, "preemption");
}

TEST_F(BitwiseTest, LosingAnExpertRankChangesNothing) {
  ExpectBaselineAfterLosing({.num_ranks = 8, .num_attention_ranks = 2}, {5, 7}, "expert rank lost");
}

TEST_F(BitwiseTest, LosingAnOwnerChangesNothing) {
  ExpectBaselineAfterLosing({.num_ranks = 8, .num_attention_ranks = 3}, {2, 1}, "owner lost");
}

TEST_F(BitwiseTest, LosingAReplicaChangesNothing) {
  ExpectBaselineAfterLosing({.num_ranks = 4, .num_attention_ranks = 4, .replicated = true}, {3},
                            "replica lost");
}

// A new leader knows nothing: the gateway submits each request again with the tokens that it has.
TEST_F(BitwiseTest, LosingTheLeaderChangesNothingWhenRequestsAreSubmittedAgain) {
  const int num_requests = 16;
  GroupOptions options{.num_ranks = 8, .num_attention_ranks = 2};
  InProcessGroup group(checkpoint_, options);
  ASSERT_TRUE(group.StartEpoch().ok());
  std::vector<uint64_t> ids;
  for (int i = 0; i < num_requests; ++i) {
    const Answer& want = baseline_[i];
    const size_t num_before = i % want.tokens.size();
    ids.push_back(group.Submit(
        requests_[i].prompt, requests_[i].sampling,
        {want.tokens.begin(), want.tokens.begin() + static_cast<int64_t>(num_before)}));
  }
  const std::vector<Answer> answers = Collect(&group, ids);
  for (int i = 0; i < num_requests; ++i) {
    ASSERT_EQ(answers[i].error, "");
    EXPECT_EQ(answers[i].tokens, baseline_[i].tokens) << "request " << i;
  }
}

}  // namespace
}  // namespace moe::testing
