#include "worker/model/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "tests/worker/model/checkpoint_writer.h"
#include "tests/worker/model/model_dir_test.h"

namespace moe::model {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Json = nlohmann::json;

class CheckpointTest : public ModelDirTest {
 protected:
  // Tiny checkpoint with `change` applied to its list of tensors.
  absl::Status OpenChanged(const std::function<void(std::vector<TensorBytes>*)>& change,
                           const WriteOptions& options = {}) {
    fs::remove_all(Dir());
    fs::create_directories(Dir());
    std::vector<TensorBytes> tensors = RandomTensors(TinyConfig(), 1, options);
    change(&tensors);
    EXPECT_TRUE(WriteFile(Dir() + "/config.json", ConfigJson(TinyConfig(), options)).ok());
    EXPECT_TRUE(WriteSafetensors(Dir() + "/model.safetensors", tensors).ok());
    return Checkpoint::Open(Dir()).status();
  }

  // Tiny sharded checkpoint with `change` applied to its index.
  absl::Status OpenWithIndex(const std::function<void(Json*)>& change) {
    WriteOptions options;
    options.num_shards = 3;
    EXPECT_TRUE(WriteRandomCheckpoint(Dir(), TinyConfig(), 1, options).ok());
    const std::string path = Dir() + "/model.safetensors.index.json";
    std::ifstream file(path);
    Json index = Json::parse(file);
    change(&index);
    EXPECT_TRUE(WriteFile(path, index.dump()).ok());
    return Checkpoint::Open(Dir()).status();
  }
};

TensorBytes& Named(std::vector<TensorBytes>* tensors, const std::string& name) {
  return *std::find_if(tensors->begin(), tensors->end(),
                       [&](const TensorBytes& t) { return t.tensor.name == name; });
}

void Erase(std::vector<TensorBytes>* tensors, const std::string& name) {
  std::erase_if(*tensors, [&](const TensorBytes& t) { return t.tensor.name == name; });
}

TEST_F(CheckpointTest, EveryPublishedFormGivesTheSameWeights) {
  ASSERT_TRUE(WriteRandomCheckpoint(Dir("base"), TinyConfig(), 7).ok());
  auto base = Checkpoint::Open(Dir("base"));
  ASSERT_TRUE(base.ok()) << base.status();
  EXPECT_THAT((*base)->warnings(), IsEmpty());
  EXPECT_EQ((*base)->name(), "base");
  const auto expected = AllWeights(**base);

  struct Case {
    const char* sentence;
    DType dtype;
    bool fused;
    int num_shards;
    bool transformers5;
  };
  for (const Case& c : {Case{"fused experts", DType::kBF16, true, 1, false},
                        Case{"fused experts, transformers 5 config", DType::kBF16, true, 1, true},
                        Case{"three shards", DType::kBF16, false, 3, false},
                        Case{"fused experts in five shards", DType::kBF16, true, 5, true},
                        Case{"fp32", DType::kF32, false, 1, false},
                        Case{"fp32, fused, in shards", DType::kF32, true, 2, true}}) {
    SCOPED_TRACE(c.sentence);
    WriteOptions options;
    options.dtype = c.dtype;
    options.fused_experts = c.fused;
    options.num_shards = c.num_shards;
    options.transformers5 = c.transformers5;
    fs::remove_all(Dir("variant"));
    ASSERT_TRUE(WriteRandomCheckpoint(Dir("variant"), TinyConfig(), 7, options).ok());
    auto variant = Checkpoint::Open(Dir("variant"));
    ASSERT_TRUE(variant.ok()) << variant.status();
    EXPECT_EQ(AllWeights(**variant), expected);
    EXPECT_EQ((*variant)->num_weight_bytes(), (*base)->num_weight_bytes());
    EXPECT_EQ((*variant)->warnings().size(), c.dtype == DType::kBF16 ? 0U : 1U);
  }
}

TEST_F(CheckpointTest, MatricesAreTheTensorsOfTheFile) {
  const std::vector<TensorBytes> tensors = RandomTensors(TinyConfig(), 3);
  ASSERT_TRUE(WriteRandomCheckpoint(Dir(), TinyConfig(), 3).ok());
  auto checkpoint = Checkpoint::Open(Dir());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto weights = AllWeights(**checkpoint);
  const std::map<std::string, std::string> names = {
      {"embed", "model.embed_tokens.weight"},
      {"final_norm", "model.norm.weight"},
      {"lm_head", "lm_head.weight"},
      {"1.input_norm", "model.layers.1.input_layernorm.weight"},
      {"1.post_attention_norm", "model.layers.1.post_attention_layernorm.weight"},
      {"1.q", "model.layers.1.self_attn.q_proj.weight"},
      {"1.k", "model.layers.1.self_attn.k_proj.weight"},
      {"1.v", "model.layers.1.self_attn.v_proj.weight"},
      {"1.o", "model.layers.1.self_attn.o_proj.weight"},
      {"1.q_norm", "model.layers.1.self_attn.q_norm.weight"},
      {"1.k_norm", "model.layers.1.self_attn.k_norm.weight"},
      {"1.gate", "model.layers.1.mlp.gate.weight"},
      {"1.5.gate", "model.layers.1.mlp.experts.5.gate_proj.weight"},
      {"1.5.up", "model.layers.1.mlp.experts.5.up_proj.weight"},
      {"1.5.down", "model.layers.1.mlp.experts.5.down_proj.weight"}};
  for (const auto& [ours, theirs] : names) {
    SCOPED_TRACE(ours);
    const auto it = std::find_if(tensors.begin(), tensors.end(),
                                 [&](const TensorBytes& t) { return t.tensor.name == theirs; });
    ASSERT_NE(it, tensors.end());
    EXPECT_EQ(weights.at(ours), it->data);
  }
}

TEST_F(CheckpointTest, ATiedHeadIsTheEmbedding) {
  ModelConfig config = TinyConfig();
  config.tie_word_embeddings = true;
  ASSERT_TRUE(WriteRandomCheckpoint(Dir(), config, 1).ok());
  auto checkpoint = Checkpoint::Open(Dir());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ((*checkpoint)->weights().lm_head, (*checkpoint)->weights().embed);
}

TEST_F(CheckpointTest, CheckpointsOfThisRepositoryOpen) {
  std::vector<std::string> dirs;
  if (fs::exists("models/demo/config.json")) dirs.emplace_back("models/demo");
  if (fs::is_directory("tests/data/checkpoints")) {
    for (const auto& entry : fs::directory_iterator("tests/data/checkpoints")) {
      if (fs::exists(entry.path() / "config.json")) dirs.push_back(entry.path().string());
    }
  }
  ASSERT_FALSE(dirs.empty());
  for (const std::string& dir : dirs) {
    SCOPED_TRACE(dir);
    auto checkpoint = Checkpoint::Open(dir);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    std::vector<int> all;
    for (int e = 0; e < (*checkpoint)->config().num_experts; ++e) all.push_back(e);
    auto set = (*checkpoint)->SelectTensors(all, true);
    ASSERT_TRUE(set.ok()) << set.status();
    EXPECT_EQ(set->num_bytes, (*checkpoint)->num_weight_bytes());
    auto report = (*checkpoint)->Load(*set);
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_THAT(report->warnings, IsEmpty());
  }
}

TEST_F(CheckpointTest, RefusesTensorsThatContradictTheConfig) {
  struct Case {
    const char* sentence;
    std::function<void(std::vector<TensorBytes>*)> change;
    const char* message;
  };
  const std::string expert = "model.layers.1.mlp.experts.7.down_proj.weight";
  const std::vector<Case> cases = {
      {"a tensor is missing", [](auto* t) { Erase(t, "model.norm.weight"); },
       "tensor \"model.norm.weight\" is missing"},
      {"an expert's matrix is missing", [&](auto* t) { Erase(t, expert); },
       "tensor \"model.layers.1.mlp.experts.7.down_proj.weight\" is missing"},
      {"many are missing", [](auto* t) { t->resize(4); }, " is missing, and "},
      {"lm_head is missing and not tied", [](auto* t) { Erase(t, "lm_head.weight"); },
       "tensor \"lm_head.weight\" is missing"},
      {"a matrix is transposed",
       [&](auto* t) {
         std::swap(Named(t, expert).tensor.shape[0], Named(t, expert).tensor.shape[1]);
       },
       "has shape [24, 32]; by config.json it must be [32, 24]"},
      {"a vector has a dimension too many",
       [](auto* t) { Named(t, "model.norm.weight").tensor.shape = {32, 1}; },
       "has shape [32, 1]; by config.json it must be [32]"},
      {"the router has more experts than the config",
       [](auto* t) {
         TensorBytes& gate = Named(t, "model.layers.0.mlp.gate.weight");
         gate.tensor.shape[0] = 9;
         gate.data.resize(9 * 32 * 2);
       },
       "has shape [9, 32]; by config.json it must be [8, 32]"},
      {"an expert more than the config",
       [&](auto* t) {
         TensorBytes extra = Named(t, expert);
         extra.tensor.name = "model.layers.1.mlp.experts.8.down_proj.weight";
         t->push_back(extra);
       },
       "is of expert 8, but config.json has num_experts 8"},
      {"a layer more than the config",
       [](auto* t) {
         TensorBytes extra = Named(t, "model.layers.1.input_layernorm.weight");
         extra.tensor.name = "model.layers.2.input_layernorm.weight";
         t->push_back(extra);
       },
       "is of layer 2, but config.json has num_hidden_layers 2"},
      {"experts in both layouts",
       [](auto* t) {
         WriteOptions fused;
         fused.fused_experts = true;
         std::vector<TensorBytes> more = RandomTensors(TinyConfig(), 1, fused);
         t->push_back(Named(&more, "model.layers.0.mlp.experts.gate_up_proj"));
         t->push_back(Named(&more, "model.layers.0.mlp.experts.down_proj"));
       },
       "stored in the other layout, too"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.sentence);
    const absl::Status status = OpenChanged(c.change);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr("model.safetensors: tensor"), HasSubstr(c.message)));
  }
}

TEST_F(CheckpointTest, RefusesADtypeThatCannotBecomeBf16) {
  const absl::Status status = OpenChanged([](auto* tensors) {
    TensorBytes& q = Named(tensors, "model.layers.0.self_attn.q_proj.weight");
    q.tensor.dtype = DType::kF8E4M3;
    q.data.resize(q.data.size() / 2);
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(status.message()), HasSubstr("q_proj.weight\" has dtype F8_E4M3"));
}

TEST_F(CheckpointTest, TensorsWithoutUseGiveOneWarning) {
  const absl::Status status = OpenChanged([](auto* tensors) {
    for (int i = 0; i < 7; ++i) {
      tensors->push_back({{absl::StrCat("extra.", i), DType::kI64, {1}}, std::string(8, '\0')});
    }
  });
  ASSERT_TRUE(status.ok()) << status;
  auto checkpoint = Checkpoint::Open(Dir());
  ASSERT_EQ((*checkpoint)->warnings().size(), 1U);
  EXPECT_THAT((*checkpoint)->warnings()[0],
              AllOf(HasSubstr("7 tensors are not used: \"extra.0\""), HasSubstr("...")));
}

TEST_F(CheckpointTest, RefusesAWeightMapThatLeavesTheFolder) {
  ASSERT_TRUE(WriteFile(Dir("outside.safetensors"), "secret").ok());
  const std::string norm = "model.norm.weight";
  for (const std::string& name :
       {std::string("../outside.safetensors"), Dir("outside.safetensors"),
        std::string("/etc/passwd"), std::string("./a/../../outside.safetensors"), std::string(".."),
        std::string(""), std::string("model.bin"), std::string("a\0.safetensors", 14)}) {
    SCOPED_TRACE(name);
    const absl::Status status =
        OpenWithIndex([&](Json* index) { (*index)["weight_map"][norm] = name; });
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  }
  const absl::Status status =
      OpenWithIndex([&](Json* index) { (*index)["weight_map"][norm] = "../outside.safetensors"; });
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("weight_map of tensor \"model.norm.weight\""),
                    HasSubstr("must name a .safetensors file in the folder")));
}

TEST_F(CheckpointTest, RefusesALinkThatLeavesTheFolder) {
  ASSERT_TRUE(WriteRandomCheckpoint(Dir("elsewhere"), TinyConfig(), 1).ok());
  ASSERT_TRUE(WriteRandomCheckpoint(Dir(), TinyConfig(), 1).ok());
  for (const char* name : {"model.safetensors", "config.json"}) {
    SCOPED_TRACE(name);
    const fs::path path = fs::path(Dir()) / name;
    fs::rename(path, path.string() + ".kept");
    fs::create_symlink(fs::path(Dir("elsewhere")) / name, path);
    const absl::Status status = Checkpoint::Open(Dir()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr(name), HasSubstr("outside the model folder")));
    // A link within the folder is fine.
    fs::remove(path);
    fs::create_symlink(std::string(name) + ".kept", path);
    EXPECT_TRUE(Checkpoint::Open(Dir()).ok());
  }
}

TEST_F(CheckpointTest, AcceptsTheLinksOfTheHuggingFaceCacheAndNoOthers) {
  const fs::path repository = fs::path(Dir("hub")) / "models--allenai--OLMoE-1B-7B";
  const fs::path snapshot = repository / "snapshots" / "0123abcd";
  fs::create_directories(repository / "blobs");
  fs::create_directories(snapshot);
  ASSERT_TRUE(WriteRandomCheckpoint(Dir("source"), TinyConfig(), 1).ok());
  for (const char* name : {"model.safetensors", "config.json"}) {
    fs::rename(fs::path(Dir("source")) / name,
               repository / "blobs" / (std::string("hash_") + name));
    fs::create_symlink(std::string("../../blobs/hash_") + name, snapshot / name);
  }
  auto checkpoint = Checkpoint::Open(snapshot.string());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ((*checkpoint)->name(), "OLMoE-1B-7B");

  // Another repository of the same cache.
  const fs::path other = fs::path(Dir("hub")) / "models--evil--model" / "blobs";
  fs::create_directories(other);
  fs::copy(repository / "blobs" / "hash_config.json", other / "hash");
  fs::remove(snapshot / "config.json");
  fs::create_symlink("../../../models--evil--model/blobs/hash", snapshot / "config.json");
  EXPECT_THAT(std::string(Checkpoint::Open(snapshot.string()).status().message()),
              HasSubstr("outside the model folder"));
}

TEST_F(CheckpointTest, ShardsMustAgreeWithTheIndexAndEachOther) {
  EXPECT_TRUE(OpenWithIndex([](Json*) {}).ok());

  absl::Status status = OpenWithIndex([](Json* index) {
    (*index)["weight_map"]["model.norm.weight"] = "model-00001-of-00003.safetensors";
  });
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("model-00001-of-00003.safetensors: tensor \"model.norm.weight\""),
                    HasSubstr("is missing, though weight_map places it here")));

  status = OpenWithIndex([](Json* index) {
    (*index)["weight_map"]["model.norm.weight"] = "model-00009-of-00003.safetensors";
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("model-00009-of-00003.safetensors"),
                    HasSubstr("weight_map places tensor \"model.norm.weight\" there")));

  for (const char* weight_map : {"null", "{}", "[]", "7", R"({"a": 1})", R"({"a": ["b"]})"}) {
    SCOPED_TRACE(weight_map);
    status = OpenWithIndex([&](Json* index) { (*index)["weight_map"] = Json::parse(weight_map); });
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("weight_map"));
  }

  // The same tensor in two shards.
  fs::copy(fs::path(Dir()) / "model-00001-of-00003.safetensors",
           fs::path(Dir()) / "twin.safetensors");
  status = OpenWithIndex([](Json* index) {
    (*index)["weight_map"]["model.embed_tokens.weight"] = "twin.safetensors";
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("twin.safetensors: tensor"), HasSubstr("is also in")));
}

TEST_F(CheckpointTest, SaysWhatIsWrongWithAFolder) {
  EXPECT_EQ(Checkpoint::Open(Dir("nowhere")).status().code(), absl::StatusCode::kNotFound);

  fs::create_directories(Dir());
  absl::Status status = Checkpoint::Open(Dir()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("config.json"));

  ASSERT_TRUE(WriteFile(Dir() + "/config.json", ConfigJson(TinyConfig())).ok());
  status = Checkpoint::Open(Dir()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("neither model.safetensors nor"));

  for (const char* pickle : {"pytorch_model.bin", "consolidated.00.pth", "model.pt"}) {
    ASSERT_TRUE(WriteFile(Dir() + "/" + pickle, "\x80\x02").ok());
    status = Checkpoint::Open(Dir()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr("only pickle files"), HasSubstr(pickle)));
    fs::remove(fs::path(Dir()) / pickle);
  }

  ASSERT_TRUE(WriteFile(Dir() + "/config.json", "{\"model_type\": \"mixtral\"}").ok());
  status = Checkpoint::Open(Dir()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(status.message()), HasSubstr(Dir() + "/config.json: model_type"));
}

TEST_F(CheckpointTest, RefusesWhatIsNotARegularFile) {
  ASSERT_TRUE(WriteRandomCheckpoint(Dir(), TinyConfig(), 1).ok());
  const std::string path = Dir() + "/model.safetensors";
  fs::remove(path);
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  EXPECT_THAT(std::string(Checkpoint::Open(Dir()).status().message()),
              HasSubstr("model.safetensors: not a regular file"));
  fs::remove(path);
  fs::create_directory(path);
  EXPECT_THAT(std::string(Checkpoint::Open(Dir()).status().message()),
              HasSubstr("model.safetensors: not a regular file"));
}

TEST_F(CheckpointTest, ACutFileIsRefusedAtOpening) {
  ASSERT_TRUE(WriteRandomCheckpoint(Dir(), TinyConfig(), 1).ok());
  const fs::path path = fs::path(Dir()) / "model.safetensors";
  for (const uintmax_t size :
       {fs::file_size(path) - 1, uintmax_t{9000}, uintmax_t{100}, uintmax_t{7}, uintmax_t{0}}) {
    SCOPED_TRACE(size);
    fs::resize_file(path, size);
    const absl::Status status = Checkpoint::Open(Dir()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("model.safetensors: "));
  }
}

TEST_F(CheckpointTest, TheDigestTellsModelsApart) {
  const auto digest = [&](uint64_t seed, const WriteOptions& options, const std::string& dir) {
    fs::remove_all(Dir(dir));
    EXPECT_TRUE(WriteRandomCheckpoint(Dir(dir), TinyConfig(), seed, options).ok());
    auto checkpoint = Checkpoint::Open(Dir(dir));
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    return (*checkpoint)->digest();
  };
  WriteOptions fp32;
  fp32.dtype = DType::kF32;
  const std::string first = digest(1, {}, "a");
  EXPECT_EQ(first.size(), 64U);
  EXPECT_EQ(digest(1, {}, "elsewhere"), first);
  const std::set<std::string> digests = {first, digest(2, {}, "a"), digest(1, fp32, "a"),
                                         digest(2, fp32, "a")};
  EXPECT_EQ(digests.size(), 4U);
}

TEST_F(CheckpointTest, ARankSelectsItsOwnExpertsAndNothingElse) {
  for (const bool fused : {false, true}) {
    SCOPED_TRACE(fused);
    WriteOptions options;
    options.fused_experts = fused;
    options.num_shards = 3;
    fs::remove_all(Dir());
    ASSERT_TRUE(WriteRandomCheckpoint(Dir(), TinyConfig(), 1, options).ok());
    auto checkpoint = Checkpoint::Open(Dir());
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    const uint64_t expert_bytes = uint64_t{2} * 3 * 24 * 32 * 2;  // layers, matrices, bf16

    const auto one = (*checkpoint)->SelectTensors({5}, false);
    ASSERT_TRUE(one.ok());
    EXPECT_EQ(one->num_bytes, expert_bytes);
    for (const TensorSet::Range& range : one->ranges) {
      EXPECT_THAT(range.tensor, HasSubstr(fused ? ".mlp.experts." : ".mlp.experts.5."));
    }
    const auto attention = (*checkpoint)->SelectTensors({}, true);
    ASSERT_TRUE(attention.ok());
    EXPECT_EQ(attention->num_bytes, (*checkpoint)->num_weight_bytes() - 8 * expert_bytes);

    // The ranks' ranges together are the model, each byte once.
    std::vector<std::pair<int, std::pair<uint64_t, uint64_t>>> all;
    for (int rank = 0; rank < 4; ++rank) {
      const auto set = (*checkpoint)->SelectTensors({rank, rank + 4}, rank == 0);
      ASSERT_TRUE(set.ok());
      for (const TensorSet::Range& range : set->ranges) {
        all.push_back({range.file_idx, {range.begin, range.end}});
      }
    }
    std::sort(all.begin(), all.end());
    uint64_t sum = 0;
    for (size_t i = 0; i < all.size(); ++i) {
      sum += all[i].second.second - all[i].second.first;
      if (i > 0 && all[i - 1].first == all[i].first) {
        EXPECT_LE(all[i - 1].second.second, all[i].second.first);
      }
    }
    EXPECT_EQ(sum, (*checkpoint)->num_weight_bytes());
  }
}

TEST_F(CheckpointTest, SelectingAnExpertThatIsNotThereOrTwiceFails) {
  ASSERT_TRUE(WriteRandomCheckpoint(Dir(), TinyConfig(), 1).ok());
  auto checkpoint = Checkpoint::Open(Dir());
  ASSERT_TRUE(checkpoint.ok());
  EXPECT_THAT(std::string((*checkpoint)->SelectTensors({8}, true).status().message()),
              HasSubstr("expert 8; model \"model\" has experts 0 to 7"));
  EXPECT_FALSE((*checkpoint)->SelectTensors({-1}, true).ok());
  EXPECT_THAT(std::string((*checkpoint)->SelectTensors({3, 3}, true).status().message()),
              HasSubstr("expert 3 is named twice"));
}

}  // namespace
}  // namespace moe::model
