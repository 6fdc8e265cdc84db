// Checkpoint::Load: which bytes are touched, what is noticed, and what a cut file does.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "tests/worker/model/checkpoint_writer.h"
#include "tests/worker/model/model_dir_test.h"
#include "worker/model/checkpoint.h"
#include "worker/model/finite.h"

namespace moe::model {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class LoadTest : public ModelDirTest {};

// A checkpoint of zeros that takes no disk: header only, the rest is a hole.
absl::Status WriteSparse(const std::string& dir, const ModelConfig& config, bool fused) {
  WriteOptions options;
  options.fused_experts = fused;
  fs::create_directories(dir);
  absl::Status status = WriteFile(dir + "/config.json", ConfigJson(config, options));
  if (!status.ok()) return status;
  // The names of a small model, with the shapes of the large one.
  ModelConfig small = config;
  small.hidden = 2;
  small.head_dim = 2;
  small.num_heads = 1;
  small.num_kv_heads = 1;
  small.intermediate = 1;
  small.vocab_size = 1;
  std::vector<NamedTensor> tensors;
  uint64_t num_bytes = 0;
  const int64_t h = config.hidden;
  const int64_t i = config.intermediate;
  const int64_t e = config.num_experts;
  for (const TensorBytes& random : RandomTensors(small, 1, options)) {
    NamedTensor tensor = random.tensor;
    const auto has = [&](const char* part) { return tensor.name.find(part) != std::string::npos; };
    if (has("gate_up_proj")) {
      tensor.shape = {e, 2 * i, h};
    } else if (has("experts.down_proj")) {
      tensor.shape = {e, h, i};
    } else if (has(".down_proj")) {
      tensor.shape = {h, i};
    } else if (has(".gate_proj") || has(".up_proj")) {
      tensor.shape = {i, h};
    } else if (has("mlp.gate.")) {
      tensor.shape = {e, h};
    } else if (has("_proj")) {
      tensor.shape = {h, h};
    } else if (has("norm")) {
      tensor.shape = {h};
    } else {
      tensor.shape = {config.vocab_size, h};
    }
    uint64_t bytes = 2;
    for (const int64_t dimension : tensor.shape) bytes *= static_cast<uint64_t>(dimension);
    num_bytes += bytes;
    tensors.push_back(std::move(tensor));
  }
  const std::string header = MakeSafetensorsHeader(tensors, {});
  status = WriteFile(dir + "/model.safetensors", header);
  if (!status.ok()) return status;
  fs::resize_file(dir + "/model.safetensors", header.size() + num_bytes);
  return absl::OkStatus();
}

TEST_F(LoadTest, OnlyARanksOwnPagesBecomeResident) {
  ModelConfig config = TinyConfig();
  config.hidden = 256;
  config.num_heads = 4;
  config.num_kv_heads = 4;
  config.head_dim = 64;
  config.intermediate = 512;
  config.num_experts = 64;
  config.vocab_size = 20000;
  for (const bool fused : {false, true}) {
    SCOPED_TRACE(fused);
    fs::remove_all(Dir());
    ASSERT_TRUE(WriteSparse(Dir(), config, fused).ok());
    auto checkpoint = Checkpoint::Open(Dir());
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    EXPECT_GT((*checkpoint)->num_weight_bytes(), uint64_t{100} << 20);
    EXPECT_EQ((*checkpoint)->ResidentBytes(), 0U);

    const uint64_t expert_bytes = uint64_t{2} * 3 * 512 * 256 * 2;
    // What the kernel may map around the ends of each range.
    const uint64_t slack = uint64_t{2} * 3 * 2 * (64 << 10);
    auto set = (*checkpoint)->SelectTensors({17}, false);
    ASSERT_TRUE(set.ok());
    std::vector<uint64_t> done;
    auto report = (*checkpoint)->Load(*set, [&](uint64_t bytes, uint64_t total) {
      done.push_back(bytes);
      EXPECT_EQ(total, expert_bytes);
    });
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->num_bytes, expert_bytes);
    EXPECT_GE(report->resident_bytes, expert_bytes);
    EXPECT_LE(report->resident_bytes, expert_bytes + slack);
    EXPECT_EQ((*checkpoint)->ResidentBytes(), report->resident_bytes);
    EXPECT_GE(report->seconds, 0);
    EXPECT_THAT(report->warnings, IsEmpty());
    ASSERT_FALSE(done.empty());
    EXPECT_TRUE(std::is_sorted(done.begin(), done.end()));
    EXPECT_EQ(done.back(), expert_bytes);

    set = (*checkpoint)->SelectTensors({}, true);
    ASSERT_TRUE(set.ok());
    report = (*checkpoint)->Load(*set);
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_GE(report->resident_bytes, set->num_bytes + expert_bytes);
    EXPECT_LE(report->resident_bytes, set->num_bytes + expert_bytes + (uint64_t{4} << 20));
  }
}

TEST_F(LoadTest, NaNAndInfinityAreWarnedOfByTheRankThatHoldsThem) {
  for (const bool fused : {false, true}) {
    SCOPED_TRACE(fused);
    WriteOptions options;
    options.fused_experts = fused;
    std::vector<TensorBytes> tensors = RandomTensors(TinyConfig(), 1, options);
    const std::string name = fused ? "model.layers.1.mlp.experts.down_proj"
                                   : "model.layers.1.mlp.experts.3.down_proj.weight";
    for (TensorBytes& tensor : tensors) {
      if (tensor.tensor.name != name) continue;
      const size_t first = fused ? size_t{3} * 24 * 32 * 2 : 0;  // expert 3's share
      tensor.data.replace(first, 6, std::string("\xc0\x7f\x80\xff\x81\x7f", 6));  // NaN, -inf, NaN
    }
    fs::remove_all(Dir());
    fs::create_directories(Dir());
    ASSERT_TRUE(WriteFile(Dir() + "/config.json", ConfigJson(TinyConfig(), options)).ok());
    ASSERT_TRUE(WriteSafetensors(Dir() + "/model.safetensors", tensors).ok());
    auto checkpoint = Checkpoint::Open(Dir());
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    for (const int expert : {2, 3}) {
      auto report = (*checkpoint)->Load(*(*checkpoint)->SelectTensors({expert}, true));
      ASSERT_TRUE(report.ok()) << report.status();
      if (expert == 2) {
        EXPECT_THAT(report->warnings, IsEmpty());
      } else {
        EXPECT_THAT(report->warnings,
                    ElementsAre(AllOf(HasSubstr("model.safetensors: tensor \"" + name + "\""),
                                      HasSubstr("2 NaN and 1 infinite values"))));
      }
    }
  }
}

TEST_F(LoadTest, ManyBadTensorsGiveABoundedListOfWarnings) {
  std::vector<TensorBytes> tensors = RandomTensors(TinyConfig(), 1);
  for (TensorBytes& tensor : tensors) tensor.data.replace(0, 2, "\xc0\x7f");
  fs::create_directories(Dir());
  ASSERT_TRUE(WriteFile(Dir() + "/config.json", ConfigJson(TinyConfig())).ok());
  ASSERT_TRUE(WriteSafetensors(Dir() + "/model.safetensors", tensors).ok());
  auto checkpoint = Checkpoint::Open(Dir());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  auto report = (*checkpoint)->Load(*(*checkpoint)->SelectTensors({0, 1, 2, 3, 4, 5, 6, 7}, true));
  ASSERT_TRUE(report.ok());
  ASSERT_THAT(report->warnings, SizeIs(21));
  EXPECT_THAT(report->warnings.back(), HasSubstr("more tensors have NaN"));
}

TEST_F(LoadTest, AFileCutAfterOpeningIsNoticedBeforeItIsTouched) {
  ASSERT_TRUE(WriteRandomCheckpoint(Dir(), TinyConfig(), 1).ok());
  auto checkpoint = Checkpoint::Open(Dir());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  auto set = (*checkpoint)->SelectTensors({0}, true);
  ASSERT_TRUE(set.ok());
  fs::resize_file(Dir() + "/model.safetensors", 20000);
  const absl::Status status = (*checkpoint)->Load(*set).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("model.safetensors: now only 20000 bytes long"),
                    HasSubstr("(tensor \"model.")));
}

TEST(CountNonFiniteTest, FindsOneValueAtAnyPlaceOfAnyLength) {
  for (const size_t count : std::initializer_list<size_t>{1, 2, 4095, 4096, 4097, 8192, 9000}) {
    std::vector<kernels::BFloat16> values(count, kernels::BFloat16{0x7f7f});  // the largest finite
    NonFiniteCount found = CountNonFinite(values.data(), count);
    EXPECT_EQ(found.num_nan + found.num_infinite, 0U);
    for (size_t at = 0; at < count; at += 61) {
      for (const uint16_t bits : std::initializer_list<uint16_t>{0x7f80, 0xff80, 0x7f81, 0xffff}) {
        values[at].bits = bits;
        found = CountNonFinite(values.data(), count);
        const bool is_infinite = (bits & 0x7f) == 0;
        EXPECT_EQ(found.num_infinite, is_infinite ? 1U : 0U) << count << " " << at;
        EXPECT_EQ(found.num_nan, is_infinite ? 0U : 1U) << count << " " << at;
      }
      values[at].bits = 0xff7f;
    }
  }
  EXPECT_EQ(CountNonFinite(nullptr, 0).num_nan, 0U);
}

}  // namespace
}  // namespace moe::model
