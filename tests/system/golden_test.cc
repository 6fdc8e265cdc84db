// Our logits beside those of transformers, for the demo model and each kind of checkpoint, at
// several expert-parallel widths. The bar is transformers' own error in bf16 against fp32.
#include <algorithm>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/system/golden_file.h"
#include "tests/system/golden_logits.h"
#include "tests/system/in_process_group.h"
#include "worker/model/checkpoint.h"

namespace moe::testing {
namespace {

std::string CheckpointDir(const std::string& name) {
  return name == "demo" ? "models/demo" : "tests/data/checkpoints/" + name;
}

class GoldenTest : public ::testing::TestWithParam<const char*> {};

TEST_P(GoldenTest, LogitsAreAtLeastAsCloseToFp32AsTransformersInBf16AtEveryWidth) {
  const std::string name = GetParam();
  const auto golden = GoldenFile::Read("tests/data/golden/" + name + ".safetensors");
  ASSERT_TRUE(golden.ok()) << golden.status();
  const auto checkpoint = model::Checkpoint::Open(CheckpointDir(name));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const model::ModelConfig& config = (*checkpoint)->config();
  const GoldenLogits golden_logits(*golden, config.vocab_size);
  ASSERT_GE(golden_logits.num_positions(), 1000);

  std::vector<int> widths = {1, std::min(8, config.num_experts), config.num_experts};
  widths.erase(std::unique(widths.begin(), widths.end()), widths.end());
  std::vector<std::vector<float>> first;  // logits of each sequence at width 1
  for (const int width : widths) {
    InProcessGroup group(checkpoint->get(), {.num_ranks = width, .num_threads = 2});
    const auto compute = [&](int s, const std::vector<int32_t>& sequence) {
      auto logits = group.TeacherForced(sequence, /*chunk=*/static_cast<int>(sequence.size()));
      if (!logits.ok()) return logits;
      if (width == 1) first.push_back(*logits);
      EXPECT_TRUE(*logits == first[s]) << "the logits at width " << width << " have other bits";
      return logits;
    };
    golden_logits.ExpectClose(name + " EP" + std::to_string(width), compute);
    if (HasFailure()) return;
  }
}

TEST_P(GoldenTest, GreedyAnswersAreThoseOfFp32UpToTheFirstNearTie) {
  const std::string name = GetParam();
  const auto golden = GoldenFile::Read("tests/data/golden/" + name + ".safetensors");
  ASSERT_TRUE(golden.ok()) << golden.status();
  const auto checkpoint = model::Checkpoint::Open(CheckpointDir(name));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const double bf16_max = golden->Floats("bf16_max_error")[0];
  InProcessGroup group(checkpoint->get(), {.num_ranks = 1, .num_threads = 2});
  ASSERT_TRUE(group.StartEpoch().ok());
  std::vector<uint64_t> requests;
  for (int i = 0; golden->Has("prompt." + std::to_string(i)); ++i) {
    engine::v1::SamplingParams sampling;
    sampling.set_max_tokens(
        static_cast<uint32_t>(golden->Ints("greedy." + std::to_string(i)).size()));
    sampling.set_ignore_eos(true);
    sampling.set_top_p(1);
    sampling.set_repetition_penalty(1);
    sampling.set_num_prompt_logprobs(-1);
    requests.push_back(group.Submit(golden->Ints("prompt." + std::to_string(i)), sampling));
  }
  ASSERT_FALSE(requests.empty());
  auto answers = group.WaitAll();
  int num_compared = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    const std::vector<int32_t> want = golden->Ints("greedy." + std::to_string(i));
    const std::vector<float> margin = golden->Floats("margin." + std::to_string(i));
    const Answer& answer = answers[requests[i]];
    ASSERT_EQ(answer.error, "");
    for (size_t g = 0; g < want.size() && margin[g] > bf16_max; ++g) {
      ASSERT_EQ(answer.tokens[g], want[g]) << "prompt " << i << " token " << g;
      ++num_compared;
    }
  }
  EXPECT_GT(num_compared, 0);
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, GoldenTest,
                         ::testing::Values("demo", "per_expert_v4", "fused_v5", "sharded", "fp16",
                                           "fp32", "gqa", "clip_qkv", "norm_topk", "tied",
                                           "large_vocab", "odd_sizes", "many_experts",
                                           "all_experts", "one_of_seven"),
                         [](const auto& golden) { return std::string(golden.param); });

}  // namespace
}  // namespace moe::testing
