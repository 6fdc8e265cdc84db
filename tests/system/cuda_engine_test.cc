// The engine over the GPU's backend, on the emulator or a GPU: logits beside those of transformers,
// and the same tokens and log-probabilities in any batch, chunking and after a leader is lost.
#include <algorithm>
#include <cmath>
#include <iostream>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/system/golden_file.h"
#include "tests/system/in_process_group.h"
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
  const model::ModelConfig& config = checkpoint->config();
  const int num_sequences = static_cast<int>(golden->Shape("tokens")[0]);
  const int length = static_cast<int>(golden->Shape("tokens")[1]);
  const std::vector<int32_t> tokens = golden->Ints("tokens");
  const std::vector<int32_t> columns = golden->Ints("columns");
  const std::vector<float> want = golden->Floats("logits");
  const std::vector<int32_t> top1 = golden->Ints("top1_token");
  const std::vector<float> top1_logit = golden->Floats("top1_logit");
  const std::vector<float> top2_logit = golden->Floats("top2_logit");
  const double bf16_rms = golden->Floats("bf16_rms_error_subset")[0];
  const double bf16_max = golden->Floats("bf16_max_error")[0];
  const auto backend = MakeBackend();
  InProcessGroup group(checkpoint.get(), {.backend = backend.get()});
  double sum_of_squares = 0;
  int num_decided = 0;
  for (int s = 0; s < num_sequences; ++s) {
    const std::vector<int32_t> sequence(tokens.begin() + s * length,
                                        tokens.begin() + (s + 1) * length);
    const auto logits = group.TeacherForced(sequence, /*chunk=*/length);
    ASSERT_TRUE(logits.ok()) << logits.status();
    for (int p = 0; p < length; ++p) {
      const float* row = logits->data() + size_t(p) * config.vocab_size;
      const size_t position = size_t(s) * length + p;
      for (size_t c = 0; c < columns.size(); ++c) {
        const double error = double{row[columns[c]]} - want[position * columns.size() + c];
        sum_of_squares += error * error;
      }
      if (top1_logit[position] - top2_logit[position] > bf16_max) {
        ++num_decided;
        ASSERT_EQ(std::max_element(row, row + config.vocab_size) - row, top1[position])
            << "sequence " << s << " position " << p;
      }
    }
  }
  const double rms = std::sqrt(sum_of_squares / static_cast<double>(want.size()));
  std::cout << name << " in CUDA: RMS error " << rms << ", transformers in bf16 " << bf16_rms
            << "; greedy tokens compared " << num_decided << "\n";
  EXPECT_LE(rms, bf16_rms);
  EXPECT_GT(num_decided, 0);
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, CudaGoldenTest,
                         ::testing::Values("fused_v5", "gqa", "clip_qkv", "norm_topk",
                                           "one_of_seven"),
                         [](const auto& golden) { return std::string(golden.param); });

struct Request {
  std::vector<int32_t> prompt;
  SamplingParams sampling;
};

// Prompts of many lengths; a third each greedy, drawn by the GPU, and drawn by the host.
std::vector<Request> MakeRequests(const model::ModelConfig& config, int num_requests) {
  std::mt19937 random(7);
  std::vector<Request> requests;
  for (int i = 0; i < num_requests; ++i) {
    Request request;
    const int length = 1 + static_cast<int>(random() % (i % 8 == 0 ? 90 : 20));
    for (int t = 0; t < length; ++t) {
      request.prompt.push_back(static_cast<int32_t>(random() % config.vocab_size));
    }
    SamplingParams& sampling = request.sampling;
    sampling.set_top_p(1);
    sampling.set_repetition_penalty(1);
    sampling.set_num_logprobs(i % 2);
    sampling.set_num_prompt_logprobs(-1);
    sampling.set_max_tokens(4 + i % 5);
    sampling.set_ignore_eos(true);
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
    for (const Request& request : requests_) {
      const uint64_t id = group.Submit(request.prompt, request.sampling);
      baseline_.push_back(group.WaitAll()[id]);
      ASSERT_EQ(baseline_.back().error, "");
    }
  }

  void ExpectBaseline(const std::vector<uint64_t>& ids, InProcessGroup* group,
                      const std::string& what) {
    auto answers = group->WaitAll();
    for (size_t i = 0; i < ids.size(); ++i) {
      const Answer& answer = answers[ids[i]];
      ASSERT_EQ(answer.error, "") << what << ", request " << i;
      ASSERT_EQ(answer.tokens, baseline_[i].tokens) << what << ", request " << i;
      ASSERT_TRUE(answer.logprobs == baseline_[i].logprobs)
          << what << ", request " << i << ": log-probabilities with other bits";
    }
  }
  void ExpectBaseline(GroupOptions options, const std::string& what) {
    const auto backend = MakeBackend();
    options.backend = backend.get();
    InProcessGroup group(checkpoint_, options);
    ASSERT_TRUE(group.StartEpoch().ok());
    std::vector<uint64_t> ids;
    for (const Request& request : requests_) {
      ids.push_back(group.Submit(request.prompt, request.sampling));
    }
    ExpectBaseline(ids, &group, what);
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
  std::vector<uint64_t> ids;
  for (const Request& request : requests_) {
    ids.push_back(group.Submit(request.prompt, request.sampling));
  }
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
