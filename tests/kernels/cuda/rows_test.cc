// Tests kernels/cuda/rows.h: bits of the CPU throughout.
#include "kernels/cuda/rows.h"

#include <algorithm>
#include <cmath>

#include "kernels/rope.h"
#include "tests/kernels/cuda/gpu_test.h"

namespace moe::kernels::cuda {
namespace {

class CudaRowsTest : public GpuTest {};

TEST_F(CudaRowsTest, EmbeddingRowsAreWidened) {
  std::mt19937 random(1);
  constexpr int kVocab = 10;
  for (const int hidden : {1, 37, 300}) {
    const int stride = PaddedStride(hidden);
    const std::vector<BFloat16> table = RandomBf16(int64_t{kVocab} * hidden, random);
    const std::vector<int32_t> tokens = {9, 0, 4, 4};
    const auto device_table = UploadRows(table, hidden, stride);
    const auto device_tokens = Upload(tokens);
    const auto out = Allocate<float>(int64_t{4} * hidden);
    Check(LookUpEmbedding(gpu(), device_table.data(), stride, device_tokens.data(), 4, hidden,
                          out.data()));
    Check(LookUpEmbedding(gpu(), device_table.data(), stride, device_tokens.data(), 0, hidden,
                          out.data()));
    std::vector<float> expected;
    for (const int32_t token : tokens) {
      for (int i = 0; i < hidden; ++i) {
        expected.push_back(ToFloat(table[int64_t{token} * hidden + i]));
      }
    }
    ExpectSameBits(Download(out), expected);
  }
}

TEST_F(CudaRowsTest, ClipKeepsNanAndWhatIsInside) {
  const std::vector<float> x = {0.5f, -0.5f, 2.0f, -2.0f, kInfinity, -kInfinity, kNan, -0.0f, 1.0f};
  std::vector<float> expected;
  for (const float value : x) expected.push_back(std::clamp(value, -1.0f, 1.0f));
  const auto device_x = Upload(x);
  Check(Clip(gpu(), device_x.data(), device_x.size(), 1.0f));
  ExpectSameValues(Download(device_x), expected);
}

TEST_F(CudaRowsTest, RopeGivesTheBitsOfTheCpu) {
  std::mt19937 random(2);
  for (const int head_dim : {2, 16, 80, 128}) {
    constexpr int kHeads = 3;
    constexpr int kPositions = 600;
    const RopeTable table(head_dim, kPositions, 10000.0);
    const int64_t size = int64_t{kPositions} * (head_dim / 2);
    const auto cos = Upload(std::vector<float>(table.cos(0), table.cos(0) + size));
    const auto sin = Upload(std::vector<float>(table.sin(0), table.sin(0) + size));
    const std::vector<int> positions = {0, 1, 599, 17};
    const int stride = kHeads * head_dim + 5;
    std::vector<float> x = RandomFloats(int64_t{4} * stride, random);
    const auto device_x = Upload(x);
    const auto device_positions = Upload(std::vector<int32_t>(positions.begin(), positions.end()));
    Check(ApplyRope(gpu(), {.cos = cos.data(), .sin = sin.data(), .head_dim = head_dim},
                    device_positions.data(), 4, kHeads, device_x.data(), stride));
    kernels::ApplyRope(cpu(), table, positions.data(), 4, kHeads, x.data(), stride);
    ExpectSameBits(Download(device_x), x);
  }
}

}  // namespace
}  // namespace moe::kernels::cuda
