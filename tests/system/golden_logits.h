// Our logits beside those of transformers in fp32, by one rule for every backend.
#ifndef MOE_TESTS_SYSTEM_GOLDEN_LOGITS_H_
#define MOE_TESTS_SYSTEM_GOLDEN_LOGITS_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tests/system/golden_file.h"

namespace moe::testing {

class GoldenLogits {
 public:
  // Of sequence `s`: [tokens.size(), vocab_size].
  using Compute =
      std::function<absl::StatusOr<std::vector<float>>(int s, const std::vector<int32_t>& tokens)>;

  GoldenLogits(const GoldenFile& golden, int vocab_size);

  int num_positions() const { return num_sequences_ * length_; }

  // Expects that the error of what `compute` gives is at most that of transformers in bf16, and
  // that the likeliest token is the same wherever the two likeliest are further apart than its
  // largest error. `what` is named in what is printed.
  void ExpectClose(const std::string& what, const Compute& compute) const;

 private:
  const int vocab_size_;
  const int num_sequences_;
  const int length_;
  const std::vector<int32_t> tokens_;   // [num_sequences, length]
  const std::vector<int32_t> columns_;  // of the vocabulary, those whose logits are compared
  const std::vector<float> logits_;     // [num_sequences, length, columns]
  const std::vector<int32_t> top1_;     // [num_sequences, length]
  const std::vector<float> top1_logit_;
  const std::vector<float> top2_logit_;
  const double bf16_rms_;
  const double bf16_max_;
};

}  // namespace moe::testing

#endif  // MOE_TESTS_SYSTEM_GOLDEN_LOGITS_H_
