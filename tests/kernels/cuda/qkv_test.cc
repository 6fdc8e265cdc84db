// Tests kernels/cuda/qkv.h.
#include "kernels/cuda/qkv.h"

#include <string>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/rms_norm.h"
#include "kernels/rope.h"
#include "tests/kernels/cuda/gpu_test.h"

namespace moe::kernels::cuda {
namespace {

class CudaQkvTest : public GpuTest {};

TEST_F(CudaQkvTest, HasTheBitsOfItsPartsOneAfterTheOther) {
  struct Shape {
    int num_heads;
    int num_kv_heads;
    int head_dim;
  };
  const std::vector<Shape> shapes =
      kEmulated ? std::vector<Shape>{{2, 1, 40}, {3, 3, 16}}
                : std::vector<Shape>{{16, 16, 128}, {2, 1, 40}, {3, 3, 16}, {8, 2, 64}};
  std::mt19937 random(1);
  for (const Shape& shape : shapes) {
    for (const float clip : {0.0f, 0.7f}) {
      SCOPED_TRACE(std::to_string(shape.head_dim) + (clip > 0 ? ", clipped" : ""));
      constexpr float kEpsilon = 1e-5f;
      constexpr int kBlocks = 3;
      const int q_size = shape.num_heads * shape.head_dim;
      const int kv_size = shape.num_kv_heads * shape.head_dim;
      const int stride = q_size + 2 * kv_size;
      const std::vector<int32_t> positions = {0, 33, 7};
      const std::vector<int32_t> slots = {64, 1, 95};
      const int num_rows = static_cast<int>(positions.size());
      const std::vector<float> qkv = RandomFloats(int64_t{num_rows} * stride, random);
      const auto q_norm = Upload(RandomBf16(q_size, random));
      const auto k_norm = Upload(RandomBf16(kv_size, random));
      const RopeTable table(shape.head_dim, 40, 10000.0);
      const int64_t table_size = int64_t{40} * (shape.head_dim / 2);
      const auto cos = Upload(std::vector<float>(table.cos(0), table.cos(0) + table_size));
      const auto sin = Upload(std::vector<float>(table.sin(0), table.sin(0) + table_size));
      const RopeTableView rope = {.cos = cos.data(), .sin = sin.data(), .head_dim = shape.head_dim};
      const auto device_positions = Upload(positions);
      const auto device_slots = Upload(slots);
      const int64_t block_size = int64_t{kKvBlockTokens} * kv_size;
      const auto cache_in = [&](const device::DeviceBuffer<BFloat16>& memory) {
        return KvLayerView{.k = memory.data(),
                           .v = memory.data() + block_size,
                           .block_stride = 2 * block_size,
                           .num_kv_heads = shape.num_kv_heads,
                           .head_dim = shape.head_dim};
      };

      const auto parts = Upload(qkv);
      const auto parts_cache = Allocate<BFloat16>(kBlocks * 2 * block_size);
      float* const k = parts.data() + q_size;
      Check(RmsNormInPlace(gpu(), parts.data(), stride, q_norm.data(), kEpsilon, num_rows, q_size));
      Check(RmsNormInPlace(gpu(), k, stride, k_norm.data(), kEpsilon, num_rows, kv_size));
      if (clip > 0) Check(Clip(gpu(), parts.data(), parts.size(), clip));
      Check(ApplyRope(gpu(), rope, device_positions.data(), num_rows, shape.num_heads, parts.data(),
                      stride));
      Check(
          ApplyRope(gpu(), rope, device_positions.data(), num_rows, shape.num_kv_heads, k, stride));
      Check(StoreKv(gpu(), k, k + kv_size, stride, device_slots.data(), num_rows,
                    cache_in(parts_cache)));

      const auto fused = Upload(qkv);
      const auto fused_cache = Allocate<BFloat16>(kBlocks * 2 * block_size);
      Check(FinishQkv(gpu(), {.qkv = fused.data(),
                              .stride = stride,
                              .num_rows = num_rows,
                              .num_heads = shape.num_heads,
                              .q_norm = q_norm.data(),
                              .k_norm = k_norm.data(),
                              .epsilon = kEpsilon,
                              .clip = clip,
                              .rope = rope,
                              .positions = device_positions.data(),
                              .slots = device_slots.data(),
                              .cache = cache_in(fused_cache)}));
      ExpectSameBits(Download(fused_cache), Download(parts_cache));
      const std::vector<float> expected = Download(parts);
      const std::vector<float> actual = Download(fused);
      for (int row = 0; row < num_rows; ++row) {
        const int64_t at = int64_t{row} * stride;
        ExpectSameBits(std::vector<float>(actual.begin() + at, actual.begin() + at + q_size),
                       std::vector<float>(expected.begin() + at, expected.begin() + at + q_size));
      }
    }
  }
}

}  // namespace
}  // namespace moe::kernels::cuda
