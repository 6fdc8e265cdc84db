#include "worker/cuda/layer_loop.h"

#include <algorithm>

#include "absl/strings/str_format.h"

namespace moe::cuda {

CudaLayerLoop::CudaLayerLoop(CudaDecoder* decoder, RankDeviceExperts* experts,
                             exchange::DeviceExchange* exchange, const device::Stream* stream,
                             const Options& options)
    : decoder_(decoder),
      experts_(experts),
      exchange_(exchange),
      stream_(stream),
      options_(options) {
  if (decoder_ == nullptr) return;
  decoder_->set_pads_decode(options.graphs);
  decoder_->set_exchange(exchange);
}

CudaLayerLoop::~CudaLayerLoop() {
  if (decoder_ != nullptr && decoder_->exchange() == exchange_) decoder_->set_exchange(nullptr);
}

absl::Status CudaLayerLoop::Enqueue() {
  absl::Status status;
  if (decoder_ != nullptr) status = decoder_->LookUp();
  for (int layer = 0; status.ok() && layer < options_.num_layers; ++layer) {
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

absl::Status CudaLayerLoop::RunGraph() {
  const auto entry = std::find_if(graphs_.begin(), graphs_.end(), [this](const auto& known) {
    return known.first == decoder_->shape();
  });
  if (entry == graphs_.end()) {
    // What goes was launched in an earlier step, which has been waited for.
    if (graphs_.size() >= static_cast<size_t>(options_.max_graphs)) graphs_.pop_back();
    graphs_.emplace_front(decoder_->shape(), std::nullopt);
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

absl::Status CudaLayerLoop::Run(uint64_t step, absl::Span<const int> num_rows) {
  num_rows_.assign(num_rows.begin(), num_rows.end());
  if (static_cast<size_t>(options_.rank) >= num_rows_.size()) {
    return absl::InternalError(absl::StrFormat("step %d has %d ranks, and this one is rank %d",
                                               step, num_rows_.size(), options_.rank));
  }
  if (decoder_ != nullptr) num_rows_[options_.rank] = decoder_->shape().num_rows;
  absl::Status status = exchange_->BeginStep(step, num_rows_);
  if (!status.ok()) return status;
  if (decoder_ != nullptr && decoder_->is_padded()) return RunGraph();
  status = Enqueue();
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
