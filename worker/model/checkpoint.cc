#include "worker/model/checkpoint.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "worker/model/bounded_json.h"
#include "worker/model/convert.h"
#include "worker/model/file.h"
#include "worker/model/mapped_file.h"
#include "worker/model/model_files.h"

namespace moe::model {
namespace {

using kernels::BFloat16;

// Points the tensors that need conversion to the image, which must hold all of them in bf16.
// `image_idx` is the file index that the image will have.
absl::Status UseImage(const WeightFile& image, int image_idx, ModelFiles* model) {
  const std::string& path = image.file.path();
  const auto source = image.index.metadata.find(kConvertedSourceKey);
  if (source == image.index.metadata.end() || source->second != model->digest) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, ": not a converted image of model ", QuoteForMessage(model->name)));
  }
  for (ModelTensor& tensor : model->tensors) {
    if (!tensor.NeedsConversion()) continue;
    const auto it = image.index.tensors.find(tensor.name);
    if (it == image.index.tensors.end() || it->second.shape != tensor.info.shape ||
        it->second.dtype != DType::kBF16) {
      return absl::FailedPreconditionError(absl::StrCat(
          path, ": tensor ", QuoteForMessage(tensor.name), " is missing or not as converted"));
    }
    tensor.info = it->second;
    tensor.file_idx = image_idx;
    if (tensor.NeedsConversion()) {
      return absl::FailedPreconditionError(
          absl::StrCat(path, ": tensor ", QuoteForMessage(tensor.name), " begins at an odd byte"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<WeightFile> OpenImage(const std::string& path) {
  absl::StatusOr<File> file = File::Open(path);
  if (!file.ok()) return file.status();
  return ReadWeightFile(*std::move(file));
}

// The image that Options name, or one made now. Adds it to the model's files.
absl::Status AddImage(const std::string& given_path, ModelFiles* model) {
  std::string path = given_path;
  std::optional<ConvertedWeights> converted;  // must live until its path is opened
  if (path.empty()) {
    absl::StatusOr<ConvertedWeights> made = ConvertTensors(*model);
    if (!made.ok()) return made.status();
    model->warnings.push_back(
        absl::StrCat("weights are not stored as bf16 and were converted for this process alone (",
                     made->num_bytes(), " bytes)"));
    converted = *std::move(made);
    path = converted->path();
  }
  absl::StatusOr<WeightFile> image = OpenImage(path);
  if (!image.ok()) return image.status();
  absl::Status status = UseImage(*image, static_cast<int>(model->files.size()), model);
  if (!status.ok()) return status;
  model->files.push_back(*std::move(image));
  return absl::OkStatus();
}

// Where a tensor's pointer goes; null for the tensors of experts.
const BFloat16** Target(const ModelTensor& tensor, ModelWeights* weights) {
  if (tensor.layer < 0) {
    switch (tensor.role) {
      case TensorRole::kEmbed:
        return &weights->embed;
      case TensorRole::kFinalNorm:
        return &weights->final_norm;
      default:
        return &weights->lm_head;
    }
  }
  LayerWeights& layer = weights->layers[static_cast<size_t>(tensor.layer)];
  switch (tensor.role) {
    case TensorRole::kInputNorm:
      return &layer.input_norm;
    case TensorRole::kPostAttentionNorm:
      return &layer.post_attention_norm;
    case TensorRole::kQ:
      return &layer.q;
    case TensorRole::kK:
      return &layer.k;
    case TensorRole::kV:
      return &layer.v;
    case TensorRole::kO:
      return &layer.o;
    case TensorRole::kQNorm:
      return &layer.q_norm;
    case TensorRole::kKNorm:
      return &layer.k_norm;
    case TensorRole::kRouter:
      return &layer.gate;
    case TensorRole::kExpertGate:
      return &layer.experts[static_cast<size_t>(tensor.expert)].gate;
    case TensorRole::kExpertUp:
      return &layer.experts[static_cast<size_t>(tensor.expert)].up;
    case TensorRole::kExpertDown:
      return &layer.experts[static_cast<size_t>(tensor.expert)].down;
    default:
      return nullptr;
  }
}

// Splits a fused tensor: each expert's share goes to `layer`.
void BindFused(const ModelTensor& tensor, const BFloat16* data, const ModelConfig& config,
               LayerWeights* layer) {
  const int64_t matrix = int64_t{config.intermediate} * config.hidden;
  const bool is_gate_up = tensor.role == TensorRole::kFusedGateUp;
  for (int64_t e = 0; e < config.num_experts; ++e) {
    kernels::ExpertWeights& expert = layer->experts[static_cast<size_t>(e)];
    if (is_gate_up) {
      expert.gate = data + 2 * e * matrix;
      expert.up = expert.gate + matrix;
    } else {
      expert.down = data + e * matrix;
    }
  }
}

}  // namespace

Checkpoint::Checkpoint() = default;
Checkpoint::~Checkpoint() = default;

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::string& dir) {
  return Open(dir, Options());
}

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::string& dir,
                                                             const Options& options) {
  absl::StatusOr<ModelFiles> model = ReadModelFiles(dir);
  if (!model.ok()) return model.status();
  if (model->NeedsConversion()) {
    absl::Status status = AddImage(options.converted_weights_path, &*model);
    if (!status.ok()) return status;
  }

  auto checkpoint = absl::WrapUnique(new Checkpoint());
  // Only files that are used: after a conversion the originals may not be.
  std::map<int, int> mapped_idx;
  for (const ModelTensor& tensor : model->tensors) mapped_idx.emplace(tensor.file_idx, -1);
  for (auto& [file_idx, idx] : mapped_idx) {
    absl::StatusOr<std::unique_ptr<MappedFile>> mapped =
        MappedFile::Map(std::move(model->files[static_cast<size_t>(file_idx)]));
    if (!mapped.ok()) return mapped.status();
    idx = static_cast<int>(checkpoint->files_.size());
    checkpoint->files_.push_back(*std::move(mapped));
  }
  for (ModelTensor& tensor : model->tensors) tensor.file_idx = mapped_idx.at(tensor.file_idx);

  checkpoint->config_ = std::move(model->config);
  checkpoint->name_ = std::move(model->name);
  checkpoint->digest_ = std::move(model->digest);
  checkpoint->warnings_ = std::move(model->warnings);
  checkpoint->Bind(model->tensors);
  return checkpoint;
}

void Checkpoint::Bind(const std::vector<ModelTensor>& tensors) {
  weights_.layers.resize(static_cast<size_t>(config_.num_layers));
  for (LayerWeights& layer : weights_.layers) {
    layer.experts.resize(static_cast<size_t>(config_.num_experts));
  }
  for (const ModelTensor& tensor : tensors) {
    const std::byte* base = files_[static_cast<size_t>(tensor.file_idx)]->data();
    const auto* data = reinterpret_cast<const BFloat16*>(base + tensor.info.begin);
    num_weight_bytes_ += tensor.info.end - tensor.info.begin;
    if (const BFloat16** target = Target(tensor, &weights_); target != nullptr) {
      *target = data;
      parts_.push_back(
          {tensor.name, tensor.file_idx, tensor.info.begin, tensor.info.end, tensor.expert});
      continue;
    }
    BindFused(tensor, data, config_, &weights_.layers[static_cast<size_t>(tensor.layer)]);
    const uint64_t share =
        (tensor.info.end - tensor.info.begin) / static_cast<uint64_t>(config_.num_experts);
    for (int e = 0; e < config_.num_experts; ++e) {
      const uint64_t begin = tensor.info.begin + static_cast<uint64_t>(e) * share;
      parts_.push_back({tensor.name, tensor.file_idx, begin, begin + share, e});
    }
  }
  if (weights_.lm_head == nullptr) weights_.lm_head = weights_.embed;  // tied
  std::sort(parts_.begin(), parts_.end(), [](const Part& a, const Part& b) {
    return std::pair(a.file_idx, a.begin) < std::pair(b.file_idx, b.begin);
  });
}

absl::StatusOr<TensorSet> Checkpoint::SelectTensors(absl::Span<const int> experts,
                                                    bool attention) const {
  std::vector<bool> selected(static_cast<size_t>(config_.num_experts), false);
  for (const int expert : experts) {
    if (expert < 0 || expert >= config_.num_experts) {
      return absl::InvalidArgumentError(absl::StrCat("expert ", expert, "; model ",
                                                     QuoteForMessage(name_), " has experts 0 to ",
                                                     config_.num_experts - 1));
    }
    if (selected[static_cast<size_t>(expert)]) {
      return absl::InvalidArgumentError(absl::StrCat("expert ", expert, " is named twice"));
    }
    selected[static_cast<size_t>(expert)] = true;
  }
  TensorSet set;
  for (const Part& part : parts_) {
    if (part.expert < 0 ? !attention : !selected[static_cast<size_t>(part.expert)]) continue;
    set.ranges.push_back({part.tensor, part.file_idx, part.begin, part.end});
    set.num_bytes += part.end - part.begin;
  }
  return set;
}

}  // namespace moe::model
