#include "worker/daemon/inspect.h"

#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/model/checkpoint.h"

namespace moe::worker {
namespace {

using ::testing::HasSubstr;

constexpr char kCheckpoints[] = "tests/data/checkpoints/";

class InspectTest : public ::testing::Test {
 protected:
  InspectTest() {
    std::string form = ::testing::TempDir() + "/inspect-XXXXXX";
    folder_ = mkdtemp(form.data());
    log_ = folder_ + "/termination-log";
  }
  ~InspectTest() override { std::filesystem::remove_all(folder_); }

  std::string ReadLog() const {
    std::ifstream file(log_);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }

  std::string folder_;
  std::string log_;
};

TEST_F(InspectTest, TheFactsAreThoseThatTheWorkerFindsWhenItLoads) {
  // fp32 and fp16 count as the bf16 that they become.
  for (const char* name : {"gqa", "fp32", "fp16", "fused_v5", "sharded", "tied"}) {
    const std::string dir = absl::StrCat(kCheckpoints, name);
    const auto facts = InspectModel(dir);
    ASSERT_TRUE(facts.ok()) << name << facts.status();
    const auto checkpoint = model::Checkpoint::Open(dir);
    ASSERT_TRUE(checkpoint.ok()) << name;
    const model::ModelConfig& config = (*checkpoint)->config();
    EXPECT_EQ(facts->num_layers, config.num_layers) << name;
    EXPECT_EQ(facts->num_experts, config.num_experts) << name;
    EXPECT_EQ(facts->top_k, config.top_k) << name;
    EXPECT_EQ(facts->weight_bytes, (*checkpoint)->num_weight_bytes()) << name;
    EXPECT_EQ(facts->hidden, config.hidden) << name;
    EXPECT_EQ(facts->intermediate, config.intermediate) << name;
    EXPECT_EQ(facts->num_heads, config.num_heads) << name;
    EXPECT_EQ(facts->num_kv_heads, config.num_kv_heads) << name;
    EXPECT_EQ(facts->head_dim, config.head_dim) << name;
    EXPECT_EQ(facts->vocab_size, config.vocab_size) << name;
    EXPECT_EQ(facts->max_positions, config.max_positions) << name;
    EXPECT_EQ(facts->tied_embeddings, config.tie_word_embeddings) << name;
  }
}

TEST_F(InspectTest, TheLineIsJson) {
  EXPECT_EQ(
      ToJsonLine({.num_layers = 16,
                  .num_experts = 64,
                  .top_k = 8,
                  .weight_bytes = 13838323712,
                  .hidden = 2048,
                  .intermediate = 1024,
                  .num_heads = 16,
                  .num_kv_heads = 4,
                  .head_dim = 128,
                  .vocab_size = 50304,
                  .max_positions = 4096,
                  .tied_embeddings = true}),
      R"({"num_layers":16,"num_experts":64,"top_k":8,"weight_bytes":13838323712,"shape":{"hidden":2048,)"
      R"("intermediate":1024,"num_heads":16,"num_kv_heads":4,"head_dim":128,"vocab_size":50304,)"
      R"("max_positions":4096,"tied_embeddings":true}})");
}

TEST_F(InspectTest, TheKubeletsFileGetsTheLine) {
  std::ofstream(log_) << "what was there before, and is longer than the line that replaces it: "
                      << std::string(1000, 'x');
  EXPECT_EQ(RunInspect(absl::StrCat(kCheckpoints, "gqa"), log_), 0);
  EXPECT_EQ(ReadLog(), ToJsonLine(*InspectModel(absl::StrCat(kCheckpoints, "gqa"))));
}

TEST_F(InspectTest, AnErrorGoesToTheSameFile) {
  std::ofstream(log_).flush();
  EXPECT_EQ(RunInspect(folder_, log_), 1);
  EXPECT_THAT(ReadLog(), HasSubstr("config.json"));
}

TEST_F(InspectTest, WithoutThatFileNoneIsMade) {
  EXPECT_EQ(RunInspect(absl::StrCat(kCheckpoints, "gqa"), log_), 0);
  EXPECT_FALSE(std::filesystem::exists(log_));
}

}  // namespace
}  // namespace moe::worker
