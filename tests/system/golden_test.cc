// Our logits beside those of transformers, for the demo model and each kind of checkpoint, at
// several expert-parallel widths. The bar is transformers' own error in bf16 against fp32.
#include <algorithm>
#include <cmath>
#include <iostream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/system/golden_file.h"
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
  const int num_sequences = static_cast<int>(golden->Shape("tokens")[0]);
  const int length = static_cast<int>(golden->Shape("tokens")[1]);
  ASSERT_GE(num_sequences * length, 1000);
  const std::vector<int32_t> tokens = golden->Ints("tokens");
  const std::vector<int32_t> columns = golden->Ints("columns");
  const std::vector<float> want = golden->Floats("logits");
  const std::vector<int32_t> top1 = golden->Ints("top1_token");
  const std::vector<float> top1_logit = golden->Floats("top1_logit");
  const std::vector<float> top2_logit = golden->Floats("top2_logit");
  const double bf16_rms = golden->Floats("bf16_rms_error_subset")[0];
  const double bf16_max = golden->Floats("bf16_max_error")[0];

  std::vector<int> widths = {1, std::min(8, config.num_experts), config.num_experts};
  widths.erase(std::unique(widths.begin(), widths.end()), widths.end());
  std::vector<std::vector<float>> first;  // logits of each sequence at width 1
  for (const int width : widths) {
    InProcessGroup group(checkpoint->get(), {.num_ranks = width, .num_threads = 2});
    double sum_of_squares = 0;
    int num_decided = 0;
    for (int s = 0; s < num_sequences; ++s) {
      const std::vector<int32_t> sequence(tokens.begin() + s * length,
                                          tokens.begin() + (s + 1) * length);
      const auto logits = group.TeacherForced(sequence, /*chunk=*/length);
      ASSERT_TRUE(logits.ok()) << logits.status();
      if (width == 1) {
        first.push_back(*logits);
      } else {
        ASSERT_TRUE(*logits == first[s]) << "the logits at width " << width << " have other bits";
      }
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
    std::cout << name << " EP" << width << ": RMS error " << rms << ", transformers in bf16 "
              << bf16_rms << "; greedy tokens compared " << num_decided << "\n";
    EXPECT_LE(rms, bf16_rms);
    EXPECT_GT(num_decided, 0);
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
