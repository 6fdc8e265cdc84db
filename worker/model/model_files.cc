#include "worker/model/model_files.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "worker/model/bounded_json.h"

namespace moe::model {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr char kSingleName[] = "model.safetensors";
constexpr char kIndexName[] = "model.safetensors.index.json";
constexpr size_t kMaxShards = 512;
const JsonLimits kJsonLimits;

// SHA-256 over strings, each preceded by its length so that no two lists of strings run together.
class Digest {
 public:
  Digest() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    ok_ = context_ != nullptr && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1;
  }

  void Add(std::string_view text) {
    const uint64_t size = text.size();
    std::array<unsigned char, 8> prefix{};
    for (size_t i = 0; i < prefix.size(); ++i) {
      prefix[i] = static_cast<unsigned char>(size >> (8 * i));
    }
    ok_ = ok_ && EVP_DigestUpdate(context_.get(), prefix.data(), prefix.size()) == 1 &&
          EVP_DigestUpdate(context_.get(), text.data(), text.size()) == 1;
  }

  absl::StatusOr<std::string> Hex() {
    std::array<unsigned char, EVP_MAX_MD_SIZE> bytes{};
    unsigned int size = 0;
    ok_ = ok_ && EVP_DigestFinal_ex(context_.get(), bytes.data(), &size) == 1;
    if (!ok_) return absl::InternalError("SHA-256 is not available in this OpenSSL");
    return absl::BytesToHexString(
        std::string(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(size)));
  }

 private:
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
  bool ok_ = false;
};

// Some bytes of the weights, so that two trainings of one architecture differ: hashing all would
// read the whole model.
absl::Status AddSample(const WeightFile& file, Digest* digest) {
  constexpr uint64_t kSampleBytes = 4096;
  const uint64_t begin = file.index.data_begin;
  const uint64_t end = file.file.num_bytes();
  const uint64_t count = std::min(kSampleBytes, end - begin);
  std::string sample(count, '\0');
  for (const uint64_t offset : {begin, begin + (end - begin - count) / 2, end - count}) {
    absl::Status status = file.file.ReadAt(offset, sample.data(), sample.size());
    if (!status.ok()) return status;
    digest->Add(sample);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> MakeDigest(const std::string& config_json,
                                       const std::vector<WeightFile>& files) {
  Digest digest;
  digest.Add("moe-model-1");
  digest.Add(config_json);
  for (const WeightFile& file : files) {
    digest.Add(file.header);
    digest.Add(absl::StrCat(file.file.num_bytes()));
    absl::Status status = AddSample(file, &digest);
    if (!status.ok()) return status;
  }
  return digest.Hex();
}

// A JSON file of the folder; empty if it is not there.
absl::StatusOr<std::string> ReadOptional(const std::string& dir, const std::string& name) {
  absl::StatusOr<File> file = File::OpenInDir(dir, name);
  if (absl::IsNotFound(file.status())) return std::string();
  if (!file.ok()) return file.status();
  return file->ReadAll(kJsonLimits.max_bytes);
}

// Nothing to load: says what is there instead.
absl::Status NoWeights(const std::string& dir) {
  constexpr std::array<std::string_view, 5> kPickles = {".bin", ".pt", ".pth", ".ckpt", ".pkl"};
  std::string pickle;
  std::error_code error;
  for (auto it = fs::directory_iterator(dir, error); !error && it != fs::directory_iterator();
       it.increment(error)) {
    const std::string extension = it->path().extension().string();
    if (std::find(kPickles.begin(), kPickles.end(), extension) != kPickles.end()) {
      pickle = it->path().filename().string();
    }
  }
  if (pickle.empty()) {
    return absl::NotFoundError(
        absl::StrCat(dir, ": neither ", kSingleName, " nor ", kIndexName, " is there"));
  }
  return absl::FailedPreconditionError(absl::StrCat(
      dir, ": has only pickle files (", QuoteForMessage(pickle),
      "), which can run code when they are read and are refused; save the model as safetensors"));
}

// Tensor name -> shard, from model.safetensors.index.json.
absl::StatusOr<std::map<std::string, std::string>> ReadWeightMap(const std::string& dir,
                                                                 const File& index) {
  absl::StatusOr<std::string> text = index.ReadAll(kJsonLimits.max_bytes);
  if (!text.ok()) return text.status();
  absl::StatusOr<Json> json = ParseJsonObject(*text, index.path(), kJsonLimits);
  if (!json.ok()) return json.status();
  const auto entries = json->find("weight_map");
  if (entries == json->end() || !entries->is_object() || entries->empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(index.path(), ": weight_map must be an object from tensor to file name"));
  }
  std::map<std::string, std::string> weight_map;
  for (const auto& [tensor, file] : entries->items()) {
    if (!file.is_string()) {
      return absl::InvalidArgumentError(absl::StrCat(
          index.path(), ": weight_map of tensor ", QuoteForMessage(tensor), " is not a file name"));
    }
    const auto& name = file.get_ref<const std::string&>();
    // File::OpenInDir checks again; here the message can name the tensor.
    if (name.find('/') != std::string::npos || !name.ends_with(".safetensors")) {
      return absl::InvalidArgumentError(absl::StrCat(
          index.path(), ": weight_map of tensor ", QuoteForMessage(tensor), " is ",
          QuoteForMessage(name), "; it must name a .safetensors file in the folder ", dir));
    }
    weight_map.emplace(tensor, name);
  }
  return weight_map;
}

absl::StatusOr<std::vector<WeightFile>> ReadShards(
    const std::string& dir, const std::string& index_path,
    const std::map<std::string, std::string>& weight_map) {
  struct Shard {
    std::string tensor;  // one that the index places there, for messages
    size_t idx = 0;
  };
  std::map<std::string, Shard> shards;  // ascending by name, so that the order is fixed
  for (const auto& [tensor, name] : weight_map) shards.emplace(name, Shard{tensor});
  if (shards.size() > kMaxShards) {
    return absl::InvalidArgumentError(absl::StrCat(index_path, ": names ", shards.size(),
                                                   " files; at most ", kMaxShards, " are read"));
  }
  std::vector<WeightFile> files;
  for (auto& [name, shard] : shards) {
    absl::StatusOr<File> file = File::OpenInDir(dir, name);
    if (!file.ok()) {
      return absl::Status(file.status().code(),
                          absl::StrCat(file.status().message(), " (weight_map places tensor ",
                                       QuoteForMessage(shard.tensor), " there)"));
    }
    absl::StatusOr<WeightFile> weights = ReadWeightFile(*std::move(file));
    if (!weights.ok()) return weights.status();
    shard.idx = files.size();
    files.push_back(*std::move(weights));
  }
  for (const auto& [tensor, name] : weight_map) {
    const WeightFile& file = files[shards.at(name).idx];
    if (!file.index.tensors.contains(tensor)) {
      return absl::InvalidArgumentError(
          absl::StrCat(file.file.path(), ": tensor ", QuoteForMessage(tensor),
                       " is missing, though weight_map places it here"));
    }
  }
  return files;
}

absl::StatusOr<std::vector<WeightFile>> ReadWeightFiles(const std::string& dir) {
  // As transformers does, one whole file goes before shards.
  absl::StatusOr<File> single = File::OpenInDir(dir, kSingleName);
  if (single.ok()) {
    absl::StatusOr<WeightFile> file = ReadWeightFile(*std::move(single));
    if (!file.ok()) return file.status();
    std::vector<WeightFile> files;
    files.push_back(*std::move(file));
    return files;
  }
  if (!absl::IsNotFound(single.status())) return single.status();
  absl::StatusOr<File> index = File::OpenInDir(dir, kIndexName);
  if (absl::IsNotFound(index.status())) return NoWeights(dir);
  if (!index.ok()) return index.status();
  absl::StatusOr<std::map<std::string, std::string>> weight_map = ReadWeightMap(dir, *index);
  if (!weight_map.ok()) return weight_map.status();
  return ReadShards(dir, index->path(), *weight_map);
}

absl::StatusOr<StoredTensors> MergeTensors(const std::vector<WeightFile>& files) {
  StoredTensors stored;
  for (size_t i = 0; i < files.size(); ++i) {
    for (const auto& [name, info] : files[i].index.tensors) {
      const auto [it, is_new] = stored.emplace(name, StoredTensor{&info, static_cast<int>(i)});
      if (is_new) continue;
      return absl::InvalidArgumentError(
          absl::StrCat(files[i].file.path(), ": tensor ", QuoteForMessage(name), " is also in ",
                       files[static_cast<size_t>(it->second.file_idx)].file.path()));
    }
  }
  return stored;
}

}  // namespace

bool ModelFiles::NeedsConversion() const {
  return std::any_of(tensors.begin(), tensors.end(),
                     [](const ModelTensor& tensor) { return tensor.NeedsConversion(); });
}

absl::StatusOr<WeightFile> ReadWeightFile(File file) {
  std::string head(std::min(kSafetensorsPrefixBytes, file.num_bytes()), '\0');
  absl::Status status = file.ReadAt(0, head.data(), head.size());
  if (!status.ok()) return status;
  absl::StatusOr<uint64_t> end = SafetensorsHeaderEnd(head, file.num_bytes(), file.path());
  if (!end.ok()) return end.status();
  head.resize(*end);
  status = file.ReadAt(0, head.data(), head.size());
  if (!status.ok()) return status;
  absl::StatusOr<SafetensorsIndex> index =
      ParseSafetensorsHeader(head, file.num_bytes(), file.path());
  if (!index.ok()) return index.status();
  return WeightFile{std::move(file), std::move(head), *std::move(index)};
}

absl::StatusOr<ModelFiles> ReadModelFiles(const std::string& dir) {
  absl::StatusOr<File> config_file = File::OpenInDir(dir, "config.json");
  if (!config_file.ok()) return config_file.status();
  absl::StatusOr<std::string> config_json = config_file->ReadAll(kJsonLimits.max_bytes);
  if (!config_json.ok()) return config_json.status();
  absl::StatusOr<std::string> generation_json = ReadOptional(dir, "generation_config.json");
  if (!generation_json.ok()) return generation_json.status();
  absl::StatusOr<ModelConfig> config = ParseModelConfig(*config_json, *generation_json);
  if (!config.ok()) {
    return absl::Status(config.status().code(), absl::StrCat(dir, "/", config.status().message()));
  }
  absl::StatusOr<std::vector<WeightFile>> files = ReadWeightFiles(dir);
  if (!files.ok()) return files.status();
  absl::StatusOr<StoredTensors> stored = MergeTensors(*files);
  if (!stored.ok()) return stored.status();
  std::vector<std::string> paths;
  for (const WeightFile& file : *files) paths.push_back(file.file.path());
  absl::StatusOr<TensorLayout> layout = MatchTensors(*config, *stored, paths);
  if (!layout.ok()) return layout.status();
  absl::StatusOr<std::string> digest = MakeDigest(*config_json, *files);
  if (!digest.ok()) return digest.status();

  ModelFiles model;
  model.name = ModelNameOfDir(dir);
  model.digest = *std::move(digest);
  model.config = *std::move(config);
  model.files = *std::move(files);
  model.tensors = std::move(layout->tensors);
  model.warnings = model.config.warnings;
  model.warnings.insert(model.warnings.end(), layout->warnings.begin(), layout->warnings.end());
  return model;
}

}  // namespace moe::model
