#include "worker/model/convert.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "tests/worker/model/checkpoint_writer.h"
#include "tests/worker/model/model_dir_test.h"

namespace moe::model {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ConvertTest : public ModelDirTest {
 protected:
  void Write(const std::string& dir, DType dtype, uint64_t seed = 7) {
    WriteOptions options;
    options.dtype = dtype;
    ASSERT_TRUE(WriteRandomCheckpoint(Dir(dir), TinyConfig(), seed, options).ok());
  }

  // A checkpoint whose embedding holds `data`.
  void WriteEmbedding(ModelConfig config, DType dtype, int vocab_size, const std::string& data) {
    config.vocab_size = vocab_size;
    WriteOptions options;
    options.dtype = dtype;
    std::vector<TensorBytes> tensors = RandomTensors(config, 1, options);
    ASSERT_EQ(tensors[0].data.size(), data.size());
    tensors[0].data = data;
    fs::create_directories(Dir());
    ASSERT_TRUE(WriteFile(Dir() + "/config.json", ConfigJson(config, options)).ok());
    ASSERT_TRUE(WriteSafetensors(Dir() + "/model.safetensors", tensors).ok());
  }
};

TEST_F(ConvertTest, OnlyWhatIsNotBf16NeedsConversion) {
  Write("bf16", DType::kBF16);
  Write("fp16", DType::kF16);
  Write("fp32", DType::kF32);
  EXPECT_FALSE(*NeedsConversion(Dir("bf16")));
  EXPECT_TRUE(*NeedsConversion(Dir("fp16")));
  EXPECT_TRUE(*NeedsConversion(Dir("fp32")));
  EXPECT_EQ(NeedsConversion(Dir("nowhere")).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(ConvertTest, EveryFp16ValueBecomesTheNearestBf16) {
  // All 65,536 bit patterns, as an embedding of 2048 rows of 32.
  std::string data(65536 * 2, '\0');
  for (uint32_t i = 0; i < 65536; ++i) {
    const auto half = static_cast<uint16_t>(i);
    std::memcpy(&data[i * 2], &half, 2);
  }
  WriteEmbedding(TinyConfig(), DType::kF16, 2048, data);
  auto checkpoint = Checkpoint::Open(Dir());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  for (uint32_t i = 0; i < 65536; ++i) {
    const int exponent = static_cast<int>((i >> 10) & 31);
    const int mantissa = static_cast<int>(i & 1023);
    float value = exponent == 31  ? (mantissa == 0 ? std::numeric_limits<float>::infinity()
                                                   : std::numeric_limits<float>::quiet_NaN())
                  : exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -24)
                                  : std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25);
    if (i >= 32768) value = -value;
    const kernels::BFloat16 got = (*checkpoint)->weights().embed[i];
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(kernels::ToFloat(got))) << i;
    } else {
      EXPECT_EQ(got.bits, kernels::ToBFloat16(value).bits) << i;
    }
  }
}

TEST_F(ConvertTest, Fp32RoundsToNearestEven) {
  struct Case {
    const char* sentence;
    uint32_t from;
    uint16_t to;
  };
  const std::vector<Case> cases = {
      {"one is exact", 0x3f800000, 0x3f80},
      {"below half rounds down", 0x3f807fff, 0x3f80},
      {"half rounds to the even below", 0x3f808000, 0x3f80},
      {"half rounds to the even above", 0x3f818000, 0x3f82},
      {"above half rounds up", 0x3f808001, 0x3f81},
      {"a carry goes into the exponent", 0x3fffffff, 0x4000},
      {"the largest float becomes infinity", 0x7f7fffff, 0x7f80},
      {"minus zero stays", 0x80000000, 0x8000},
      {"a subnormal rounds like any other", 0x00018000, 0x0002},
      {"infinity stays", 0xff800000, 0xff80},
      {"a NaN with low bits only stays a NaN", 0x7f800001, 0x7fc0},
  };
  std::string data(100 * 32 * 4, '\0');
  for (size_t i = 0; i < cases.size(); ++i) std::memcpy(&data[i * 4], &cases[i].from, 4);
  WriteEmbedding(TinyConfig(), DType::kF32, 100, data);
  auto checkpoint = Checkpoint::Open(Dir());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  for (size_t i = 0; i < cases.size(); ++i) {
    EXPECT_EQ((*checkpoint)->weights().embed[i].bits, cases[i].to) << cases[i].sentence;
  }
}

TEST_F(ConvertTest, ASharedImageIsUsedWithoutAWarningAndGivesTheSameModel) {
  Write("bf16", DType::kBF16);
  Write("fp32", DType::kF32);
  auto plain = Checkpoint::Open(Dir("bf16"));
  ASSERT_TRUE(plain.ok()) << plain.status();
  auto alone = Checkpoint::Open(Dir("fp32"));
  ASSERT_TRUE(alone.ok()) << alone.status();
  EXPECT_THAT((*alone)->warnings(), testing::ElementsAre(HasSubstr("for this process alone")));

  uint64_t last = 0;
  uint64_t total = 0;
  auto converted = ConvertToBf16(Dir("fp32"), [&](uint64_t done, uint64_t of) {
    EXPECT_GE(done, last);
    last = done;
    total = of;
  });
  ASSERT_TRUE(converted.ok()) << converted.status();
  EXPECT_EQ(converted->num_bytes(), (*plain)->num_weight_bytes());
  EXPECT_EQ(last, total);
  EXPECT_EQ(total, converted->num_bytes());
  Checkpoint::Options options;
  options.converted_weights_path = converted->path();
  auto shared = Checkpoint::Open(Dir("fp32"), options);
  ASSERT_TRUE(shared.ok()) << shared.status();
  EXPECT_THAT((*shared)->warnings(), IsEmpty());
  EXPECT_EQ((*shared)->digest(), (*alone)->digest());
  EXPECT_EQ(AllWeights(**shared), AllWeights(**plain));
  EXPECT_EQ(AllWeights(**alone), AllWeights(**plain));
}

TEST_F(ConvertTest, AnotherProcessOpensTheImageByItsPath) {
  Write("fp16", DType::kF16);
  auto converted = ConvertToBf16(Dir("fp16"));
  ASSERT_TRUE(converted.ok()) << converted.status();
  Checkpoint::Options options;
  options.converted_weights_path = converted->path();
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    close(converted->fd());
    auto checkpoint = Checkpoint::Open(Dir("fp16"), options);
    _exit(checkpoint.ok() && (*checkpoint)->warnings().empty() ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST_F(ConvertTest, TheImageCannotBeChanged) {
  Write("fp16", DType::kF16);
  auto converted = ConvertToBf16(Dir("fp16"));
  ASSERT_TRUE(converted.ok()) << converted.status();
  EXPECT_EQ(write(converted->fd(), "x", 1), -1);
  EXPECT_EQ(ftruncate(converted->fd(), 0), -1);
}

TEST_F(ConvertTest, AnImageOfAnotherModelIsRefused) {
  Write("a", DType::kF32, 1);
  Write("b", DType::kF32, 2);
  auto converted = ConvertToBf16(Dir("a"));
  ASSERT_TRUE(converted.ok()) << converted.status();
  Checkpoint::Options options;
  options.converted_weights_path = converted->path();
  EXPECT_TRUE(Checkpoint::Open(Dir("a"), options).ok());
  absl::Status status = Checkpoint::Open(Dir("b"), options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("not a converted image of model \"b\""));

  options.converted_weights_path = Dir("a") + "/model.safetensors";
  EXPECT_EQ(Checkpoint::Open(Dir("a"), options).status().code(),
            absl::StatusCode::kFailedPrecondition);
  options.converted_weights_path = Dir("a") + "/missing";
  EXPECT_EQ(Checkpoint::Open(Dir("a"), options).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(ConvertTest, OnlyTheTensorsThatNeedItAreConverted) {
  Write("bf16", DType::kBF16);
  WriteOptions fp32;
  fp32.dtype = DType::kF32;
  std::vector<TensorBytes> mixed = RandomTensors(TinyConfig(), 7);
  std::vector<TensorBytes> wide = RandomTensors(TinyConfig(), 7, fp32);
  uint64_t num_norm_bytes = 0;
  for (size_t i = 0; i < mixed.size(); ++i) {
    if (mixed[i].tensor.name.find("norm") == std::string::npos) continue;
    num_norm_bytes += mixed[i].data.size();
    mixed[i] = wide[i];
  }
  fs::create_directories(Dir());
  ASSERT_TRUE(WriteFile(Dir() + "/config.json", ConfigJson(TinyConfig())).ok());
  ASSERT_TRUE(WriteSafetensors(Dir() + "/model.safetensors", mixed).ok());
  auto converted = ConvertToBf16(Dir());
  ASSERT_TRUE(converted.ok()) << converted.status();
  EXPECT_EQ(converted->num_bytes(), num_norm_bytes);
  auto checkpoint = Checkpoint::Open(Dir());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(AllWeights(**checkpoint), AllWeights(**Checkpoint::Open(Dir("bf16"))));
}

TEST_F(ConvertTest, Bf16AtOddOffsetsIsMoved) {
  Write("bf16", DType::kBF16);
  // As above with one space more in the header, as old writers left it.
  std::vector<NamedTensor> names;
  std::string data;
  for (const TensorBytes& tensor : RandomTensors(TinyConfig(), 7)) {
    names.push_back(tensor.tensor);
    data += tensor.data;
  }
  std::string header = MakeSafetensorsHeader(names, {}) + " ";
  const uint64_t length = header.size() - 8;
  for (size_t i = 0; i < 8; ++i) header[i] = static_cast<char>(length >> (8 * i));
  fs::create_directories(Dir());
  ASSERT_TRUE(WriteFile(Dir() + "/config.json", ConfigJson(TinyConfig())).ok());
  ASSERT_TRUE(WriteFile(Dir() + "/model.safetensors", header + data).ok());
  EXPECT_TRUE(*NeedsConversion(Dir()));
  auto checkpoint = Checkpoint::Open(Dir());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(AllWeights(**checkpoint), AllWeights(**Checkpoint::Open(Dir("bf16"))));
}

}  // namespace
}  // namespace moe::model
