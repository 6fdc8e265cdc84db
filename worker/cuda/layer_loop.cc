#include "worker/cuda/layer_loop.h"

#include <algorithm>
#include <cstddef>

#include "absl/strings/str_format.h"
#include "worker/cuda/graph_shape.h"

namespace moe::cuda {

CudaLayerLoop::CudaLayerLoop(const model::ModelConfig& config, CudaDecoder* decoder,
                             RankDeviceExperts* experts, exchange::DeviceExchange* exchange,
                             const device::Stream* stream, const Options& options)
    : config_(config),
      decoder_(decoder),
      experts_(experts),
      exchange_(exchange),
      stream_(stream),
      options_(options) {}

CudaLayerLoop::~CudaLayerLoop() {
  if (decoder_ != nullptr && decoder_->exchange() == exchange_) decoder_->set_exchange(nullptr);
}

absl::Status CudaLayerLoop::Enqueue() {
  absl::Status status;
  if (decoder_ != nullptr) status = decoder_->LookUp();
  for (int layer = 0; status.ok() && layer < config_.num_layers; ++layer) {
    if (decoder_ != nullptr) {
      status = decoder_->Attention(layer);
      if (!status.ok()) return status;
      status = decoder_->Route(layer, exchange_->rows(), exchange_->expert_ids());
      if (!status.ok()) return status;
    }
    const auto outputs = exchange_->RunLayer(layer);
    if (!outputs.ok()) return outputs.status();
    if (*outputs != nullptr && decoder_ != nullptr) status = decoder_->Combine(*outputs);
  }
  return status;
}

int CudaLayerLoop::num_graphs() const {
  return static_cast<int>(std::count_if(
      graphs_.begin(), graphs_.end(), [](const auto& entry) { return entry.second.has_value(); }));
}

absl::Status CudaLayerLoop::RunGraph(const StepShape& shape) {
  const auto entry = std::find_if(graphs_.begin(), graphs_.end(),
                                  [&shape](const auto& known) { return known.first == shape; });
  if (entry == graphs_.end()) {
    // What goes was launched in an earlier step, which has been waited for.
    if (graphs_.size() >= static_cast<size_t>(options_.max_graphs)) graphs_.pop_back();
    graphs_.emplace_front(shape, std::nullopt);
    return Enqueue();
  }
  if (!entry->second.has_value()) {
    auto captured = device::Graph::Capture(*stream_, [this] { return Enqueue(); });
    if (!captured.ok()) return captured.status();
    entry->second.emplace(*std::move(captured));
  }
  graphs_.splice(graphs_.begin(), graphs_, entry);
  return entry->second->Launch(*stream_);
}

absl::Status CudaLayerLoop::Run(const model::StepOutline& outline) {
  if (static_cast<size_t>(options_.rank) >= outline.num_rows.size() ||
      outline.num_keys.size() != outline.num_rows.size()) {
    return absl::InternalError(absl::StrFormat("step %d has %d ranks, and this one is rank %d",
                                               outline.step, outline.num_rows.size(),
                                               options_.rank));
  }
  std::optional<StepShape> shape;
  if (options_.graphs) shape = GraphShape(outline, config_, options_.sizes);
  if (shape.has_value() && !exchange_->TakesBucket(shape->num_rows)) shape = std::nullopt;
  absl::Status status;
  if (decoder_ != nullptr) {
    // Here, since the loop of an earlier epoch may have ended after this one was made.
    decoder_->set_exchange(exchange_);
    status = decoder_->Upload(shape);
    if (!status.ok()) return status;
  }
  status =
      exchange_->BeginStep(outline.step, outline.num_rows, shape.has_value() ? shape->num_rows : 0);
  if (!status.ok()) return status;
  status = shape.has_value() ? RunGraph(*shape) : Enqueue();
  if (!status.ok() || decoder_ != nullptr) return status;
  // No tokens to wait for, but the step's end all the same: errors are told to their step.
  status = experts_->EnqueueCounts();
  if (!status.ok()) return status;
  status = exchange_->FinishStep();
  if (!status.ok()) return status;
  experts_->TakeCounts();
  return absl::OkStatus();
}

}  // namespace moe::cuda
