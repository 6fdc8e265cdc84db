// The engine over the GPU's backend, on the emulator or a GPU: logits beside those of transformers,
// and the same tokens and log-probabilities in any batch, chunking and after a leader is lost.
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/system/golden_file.h"
#include "tests/system/golden_logits.h"
#include "tests/system/in_process_group.h"
#include "tests/system/requests.h"
#include "worker/cuda/backend.h"
#include "worker/model/checkpoint.h"

#if defined(MOE_EMULATED)
#include "tests/kernels/emulator/runtime.h"
#endif

namespace moe::testing {
namespace {

using engine::v1::SamplingParams;

std::unique_ptr<cuda::CudaBackend> MakeBackend(bool graphs = true) {
#if defined(MOE_EMULATED)
  emulator::SetDeviceMemory(size_t{1} << 30, size_t{1} << 30);
#endif
  auto backend = cuda::CudaBackend::Create({.graphs = graphs});
  EXPECT_TRUE(backend.ok()) << backend.status();
  return *std::move(backend);
}

std::unique_ptr<model::Checkpoint> OpenCheckpoint(const std::string& name) {
  auto checkpoint = model::Checkpoint::Open("tests/data/checkpoints/" + name);
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  return *std::move(checkpoint);
}

class CudaGoldenTest : public ::testing::TestWithParam<const char*> {};

TEST_P(CudaGoldenTest, LogitsAreAtLeastAsCloseToFp32AsTransformersInBf16) {
  const std::string name = GetParam();
  const auto golden = GoldenFile::Read("tests/data/golden/" + name + ".safetensors");
  ASSERT_TRUE(golden.ok()) << golden.status();
  const auto checkpoint = OpenCheckpoint(name);
  const auto backend = MakeBackend();
  InProcessGroup group(checkpoint.get(), {.backend = backend.get()});
  GoldenLogits(*golden, checkpoint->config().vocab_size)
      .ExpectClose(name + " in CUDA", [&](int, const std::vector<int32_t>& sequence) {
        return group.TeacherForced(sequence, /*chunk=*/static_cast<int>(sequence.size()));
      });
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, CudaGoldenTest,
                         ::testing::Values("fused_v5", "gqa", "clip_qkv", "norm_topk",
                                           "one_of_seven"),
                         [](const auto& golden) { return std::string(golden.param); });

// Prompts of many lengths; a third each greedy, drawn by the GPU, and drawn by the host.
std::vector<Request> MakeRequests(const model::ModelConfig& config, int num_requests) {
  std::mt19937 random(7);
  std::vector<Request> requests;
  for (int i = 0; i < num_requests; ++i) {
    const int length = 1 + static_cast<int>(random() % (i % 8 == 0 ? 90 : 20));
    Request request = MakeRequest(config, length, /*max_tokens=*/4 + i % 5, random);
    SamplingParams& sampling = request.sampling;
    sampling.set_num_logprobs(i % 2);
    if (i % 3 != 0) {
      sampling.set_temperature(0.8f);
      sampling.set_seed(1000 + i);
      sampling.set_choice(i % 3);
    }
    if (i % 3 == 2) {
      sampling.set_top_p(0.9f);
      sampling.set_frequency_penalty(0.3f);
    }
    requests.push_back(std::move(request));
  }
  return requests;
}

class CudaEngineTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    checkpoint_ = OpenCheckpoint("gqa").release();
    requests_ = MakeRequests(checkpoint_->config(), 13);
    // Each request alone, launched kernel by kernel: what all others must equal.
    const auto backend = MakeBackend(/*graphs=*/false);
    InProcessGroup group(checkpoint_, {.backend = backend.get()});
    ASSERT_TRUE(group.StartEpoch().ok());
    baseline_ = AnswerEachAlone(&group, requests_);
  }

  void ExpectBaseline(const std::vector<uint64_t>& ids, InProcessGroup* group,
                      const std::string& what) {
    ExpectSame(Collect(group, ids), baseline_, what);
  }
  void ExpectBaseline(GroupOptions options, const std::string& what) {
    const auto backend = MakeBackend();
    options.backend = backend.get();
    InProcessGroup group(checkpoint_, options);
    ASSERT_TRUE(group.StartEpoch().ok());
    ExpectBaseline(SubmitAll(&group, requests_), &group, what);
  }

  static model::Checkpoint* checkpoint_;
  static std::vector<Request> requests_;
  static std::vector<Answer> baseline_;
};

model::Checkpoint* CudaEngineTest::checkpoint_ = nullptr;
std::vector<Request> CudaEngineTest::requests_;
std::vector<Answer> CudaEngineTest::baseline_;

TEST_F(CudaEngineTest, ABatchGivesWhatEachRequestGivesAlone) { ExpectBaseline({}, "batch"); }

TEST_F(CudaEngineTest, EveryChunkingOfPromptsGivesTheSame) {
  for (const int chunk : {5, 16}) {
    ExpectBaseline({.max_step_tokens = chunk}, "chunk " + std::to_string(chunk));
  }
}

TEST_F(CudaEngineTest, PreemptionForWantOfKvCacheGivesTheSame) {
  ExpectBaseline({.kv_blocks_per_owner = 6}, "preemption");
}

TEST_F(CudaEngineTest, AnEpochThatEndsInTheMiddleChangesNothing) {
  const auto backend = MakeBackend();
  InProcessGroup group(checkpoint_, {.backend = backend.get()});
  ASSERT_TRUE(group.StartEpoch().ok());
  const std::vector<uint64_t> ids = SubmitAll(&group, requests_);
  group.WaitTokens(10);
  group.EndEpoch();
  ASSERT_TRUE(group.StartEpoch().ok());
  ExpectBaseline(ids, &group, "another epoch");
}

TEST_F(CudaEngineTest, ANewLeaderGoesOnWhereTheGatewayHasTokens) {
  const auto backend = MakeBackend();
  InProcessGroup group(checkpoint_, {.backend = backend.get()});
  ASSERT_TRUE(group.StartEpoch().ok());
  std::vector<uint64_t> ids;
  for (size_t i = 0; i < requests_.size(); ++i) {
    const std::vector<int32_t>& tokens = baseline_[i].tokens;
    const auto num_before = static_cast<int64_t>(i % tokens.size());
    ids.push_back(group.Submit(requests_[i].prompt, requests_[i].sampling,
                               {tokens.begin(), tokens.begin() + num_before}));
  }
  auto answers = group.WaitAll();
  for (size_t i = 0; i < ids.size(); ++i) {
    ASSERT_EQ(answers[ids[i]].error, "");
    EXPECT_EQ(answers[ids[i]].tokens, baseline_[i].tokens) << "request " << i;
  }
}

// Prompt log-probabilities come from the GPU, too.
TEST_F(CudaEngineTest, PromptLogprobsAreTheSameInAnyChunking) {
  std::vector<float> first;
  for (const int chunk : {512, 7}) {
    const auto backend = MakeBackend();
    InProcessGroup group(checkpoint_, {.backend = backend.get(), .max_step_tokens = chunk});
    ASSERT_TRUE(group.StartEpoch().ok());
    SamplingParams sampling = requests_[0].sampling;
    sampling.set_num_prompt_logprobs(2);
    sampling.set_num_logprobs(2);
    const uint64_t id = group.Submit(requests_[0].prompt, sampling);
    const Answer answer = group.WaitAll()[id];
    ASSERT_EQ(answer.error, "");
    EXPECT_EQ(answer.tokens, baseline_[0].tokens);
    if (first.empty()) first = answer.logprobs;
    EXPECT_TRUE(answer.logprobs == first);
  }
}

}  // namespace
}  // namespace moe::testing
