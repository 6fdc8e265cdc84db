#include "tests/system/golden_logits.h"

#include <algorithm>
#include <cmath>
#include <iostream>

#include "gtest/gtest.h"

namespace moe::testing {

GoldenLogits::GoldenLogits(const GoldenFile& golden, int vocab_size)
    : vocab_size_(vocab_size),
      num_sequences_(static_cast<int>(golden.Shape("tokens")[0])),
      length_(static_cast<int>(golden.Shape("tokens")[1])),
      tokens_(golden.Ints("tokens")),
      columns_(golden.Ints("columns")),
      logits_(golden.Floats("logits")),
      top1_(golden.Ints("top1_token")),
      top1_logit_(golden.Floats("top1_logit")),
      top2_logit_(golden.Floats("top2_logit")),
      bf16_rms_(golden.Floats("bf16_rms_error_subset")[0]),
      bf16_max_(golden.Floats("bf16_max_error")[0]) {}

void GoldenLogits::ExpectClose(const std::string& what, const Compute& compute) const {
  double sum_of_squares = 0;
  int num_decided = 0;
  for (int s = 0; s < num_sequences_; ++s) {
    const auto logits =
        compute(s, {tokens_.begin() + s * length_, tokens_.begin() + (s + 1) * length_});
    ASSERT_TRUE(logits.ok()) << logits.status();
    if (::testing::Test::HasFailure()) return;
    for (int p = 0; p < length_; ++p) {
      const float* row = logits->data() + size_t(p) * vocab_size_;
      const size_t position = size_t(s) * length_ + p;
      for (size_t c = 0; c < columns_.size(); ++c) {
        const double error = double{row[columns_[c]]} - logits_[position * columns_.size() + c];
        sum_of_squares += error * error;
      }
      if (top1_logit_[position] - top2_logit_[position] > bf16_max_) {
        ++num_decided;
        ASSERT_EQ(std::max_element(row, row + vocab_size_) - row, top1_[position])
            << "sequence " << s << " position " << p;
      }
    }
  }
  const double rms = std::sqrt(sum_of_squares / static_cast<double>(logits_.size()));
  std::cout << what << ": RMS error " << rms << ", transformers in bf16 " << bf16_rms_
            << "; greedy tokens compared " << num_decided << "\n";
  EXPECT_LE(rms, bf16_rms_);
  EXPECT_GT(num_decided, 0);
}

}  // namespace moe::testing
