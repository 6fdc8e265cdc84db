#include "worker/cuda/logit_stage.h"

#include <algorithm>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_format.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/log_softmax.h"
#include "kernels/cuda/rms_norm.h"

namespace moe::cuda {
namespace {

using kernels::cuda::TokenLogprob;
using model::LogitRequest;
using Want = LogitRequest::Want;

// What is done with a row: the order of the parts of a chunk.
enum class Part { kDrawn, kGiven, kHost };
Part PartOf(const LogitRequest& request) {
  if (request.want == Want::kLogits || request.num_top > kMaxDeviceTop) return Part::kHost;
  return request.want == Want::kDraw ? Part::kDrawn : Part::kGiven;
}

}  // namespace

absl::StatusOr<std::unique_ptr<LogitStage>> LogitStage::Create(
    const model::ModelConfig& config, const RankSizes& sizes, const DeviceWeights* weights,
    const DecoderBuffers& buffers, const kernels::cuda::Gpu& gpu, const device::Stream* stream) {
  Bump requests;
  LayOutRequests(sizes.max_rows, &requests);
  auto pinned_requests =
      device::PinnedBuffer<std::byte>::Create(static_cast<int64_t>(requests.num_bytes()));
  if (!pinned_requests.ok()) return pinned_requests.status();
  Bump results;
  LayOutResults(sizes.max_rows, kMaxDeviceTop, &results);
  auto pinned_results =
      device::PinnedBuffer<std::byte>::Create(static_cast<int64_t>(results.num_bytes()));
  if (!pinned_results.ok()) return pinned_results.status();
  auto host_logits =
      device::PinnedBuffer<float>::Create(int64_t{sizes.max_logit_rows} * config.vocab_size);
  if (!host_logits.ok()) return host_logits.status();
  return absl::WrapUnique(new LogitStage(config, sizes, weights, buffers, gpu, stream,
                                         *std::move(pinned_requests), *std::move(pinned_results),
                                         *std::move(host_logits)));
}

LogitStage::LogitStage(const model::ModelConfig& config, const RankSizes& sizes,
                       const DeviceWeights* weights, const DecoderBuffers& buffers,
                       const kernels::cuda::Gpu& gpu, const device::Stream* stream,
                       device::PinnedBuffer<std::byte> requests,
                       device::PinnedBuffer<std::byte> results,
                       device::PinnedBuffer<float> host_logits)
    : config_(config),
      sizes_(sizes),
      weights_(weights),
      buffers_(buffers),
      gpu_(gpu),
      stream_(stream),
      requests_(std::move(requests)),
      results_(std::move(results)),
      host_logits_(std::move(host_logits)) {}

absl::Status LogitStage::PlanBatch(absl::Span<const LogitRequest> requests, size_t first,
                                   int num_rows) {
  first_ = first;
  order_.clear();
  chunks_.clear();
  num_top_ = -1;
  int num_host_rows = 0;
  const size_t most = first + static_cast<size_t>(sizes_.max_rows);
  while (first < std::min(requests.size(), most)) {
    const size_t end = std::min({requests.size(), most, first + sizes_.max_logit_rows});
    for (size_t i = first; i < end; ++i) {
      const LogitRequest& request = requests[i];
      const bool token_missing = request.want == Want::kLogprobs &&
                                 (request.token < 0 || request.token >= config_.vocab_size);
      if (request.row < 0 || request.row >= num_rows || token_missing) {
        return absl::InvalidArgumentError(absl::StrFormat("logits of row %d of %d, token %d of %d",
                                                          request.row, num_rows, request.token,
                                                          config_.vocab_size));
      }
    }
    const auto host_rows = static_cast<int>(
        std::count_if(requests.begin() + first, requests.begin() + end,
                      [](const LogitRequest& r) { return PartOf(r) == Part::kHost; }));
    if (num_host_rows + host_rows > sizes_.max_logit_rows) break;
    Chunk chunk;
    chunk.begin = static_cast<int>(order_.size());
    chunk.first_host_row = num_host_rows;
    for (const Part part : {Part::kDrawn, Part::kGiven, Part::kHost}) {
      for (size_t i = first; i < end; ++i) {
        if (PartOf(requests[i]) != part) continue;
        order_.push_back(i);
        if (part != Part::kHost) num_top_ = std::max(num_top_, requests[i].num_top);
      }
      const auto at = static_cast<int>(order_.size());
      if (part == Part::kDrawn) chunk.drawn_end = at;
      if (part == Part::kGiven) chunk.device_end = at;
    }
    chunk.end = static_cast<int>(order_.size());
    num_host_rows += host_rows;
    chunks_.push_back(chunk);
    first = end;
  }
  return absl::OkStatus();
}

absl::Status LogitStage::Upload(absl::Span<const LogitRequest> requests) {
  const auto size = static_cast<int>(order_.size());
  Bump host(requests_.data());
  const RequestView view = LayOutRequests(size, &host);
  Bump on_device(buffers_.requests);
  device_requests_ = LayOutRequests(size, &on_device);
  Bump results(buffers_.results);
  device_results_ = LayOutResults(size, std::max(num_top_, 0), &results);
  Bump host_results(results_.data());
  host_results_ = LayOutResults(size, std::max(num_top_, 0), &host_results);
  bool has_given = false;
  for (int place = 0; place < size; ++place) {
    const LogitRequest& request = requests[order_[place]];
    view.rows[place] = request.row;
    view.draws[place] = {request.uniform, request.temperature};
    host_results_.tokens[place] = request.token;
    has_given = has_given || PartOf(request) == Part::kGiven;
  }
  absl::Status status = device::CopyToDevice<std::byte>(
      {requests_.data(), static_cast<size_t>(host.num_bytes())}, buffers_.requests, *stream_);
  if (!status.ok() || !has_given) return status;
  return device::CopyToDevice<int32_t>({host_results_.tokens, static_cast<size_t>(size)},
                                       device_results_.tokens, *stream_);
}

absl::Status LogitStage::RunChunk(const Chunk& chunk) {
  const int num_rows = chunk.end - chunk.begin;
  const int num_on_device = chunk.device_end - chunk.begin;
  const int vocab_size = config_.vocab_size;
  absl::Status status = kernels::cuda::RmsNorm(
      gpu_, buffers_.residual, device_requests_.rows + chunk.begin, weights_->final_norm,
      config_.rms_norm_epsilon, num_rows, config_.hidden, buffers_.normed, config_.hidden);
  if (!status.ok()) return status;
  status = kernels::cuda::Linear(gpu_, buffers_.normed, config_.hidden, num_rows, weights_->lm_head,
                                 buffers_.logits, vocab_size);
  if (!status.ok()) return status;
  if (num_on_device > 0) {
    status = kernels::cuda::ComputeLogitStats(gpu_, buffers_.logits, num_on_device, vocab_size,
                                              device_results_.stats + chunk.begin);
    if (!status.ok()) return status;
    status = kernels::cuda::DrawTokens(gpu_, buffers_.logits, chunk.drawn_end - chunk.begin,
                                       vocab_size, device_results_.stats + chunk.begin,
                                       device_requests_.draws + chunk.begin,
                                       device_results_.tokens + chunk.begin);
    if (!status.ok()) return status;
    if (num_top_ >= 0) {
      status = kernels::cuda::ComputeLogprobs(
          gpu_, buffers_.logits, num_on_device, vocab_size, device_results_.stats + chunk.begin,
          device_results_.tokens + chunk.begin, num_top_, device_results_.chosen + chunk.begin,
          device_results_.top + int64_t{chunk.begin} * num_top_);
      if (!status.ok()) return status;
    }
  }
  const auto num_host_values = int64_t{chunk.end - chunk.device_end} * vocab_size;
  return device::CopyToHost<float>(
      buffers_.logits + int64_t{num_on_device} * vocab_size,
      {host_logits_.data() + int64_t{chunk.first_host_row} * vocab_size,
       static_cast<size_t>(num_host_values)},
      *stream_);
}

absl::StatusOr<size_t> LogitStage::Enqueue(absl::Span<const LogitRequest> requests, size_t first,
                                           int num_rows) {
  absl::Status status = PlanBatch(requests, first, num_rows);
  if (!status.ok()) return status;
  if (order_.empty()) return first;
  status = Upload(requests);
  if (!status.ok()) return status;
  for (const Chunk& chunk : chunks_) {
    status = RunChunk(chunk);
    if (!status.ok()) return status;
  }
  Bump results;
  LayOutResults(static_cast<int>(order_.size()), std::max(num_top_, 0), &results);
  status = device::CopyToHost<std::byte>(
      buffers_.results, {results_.data(), static_cast<size_t>(results.num_bytes())}, *stream_);
  if (!status.ok()) return status;
  return first + order_.size();
}

void LogitStage::Deliver(absl::Span<const LogitRequest> requests,
                         model::Decoder::Deliver deliver) const {
  const size_t vocab_size = static_cast<size_t>(config_.vocab_size);
  std::vector<model::LogitResult> answers(order_.size());
  for (const Chunk& chunk : chunks_) {
    for (int place = chunk.begin; place < chunk.end; ++place) {
      const LogitRequest& request = requests[order_[place]];
      model::LogitResult& answer = answers[order_[place] - first_];
      if (place >= chunk.device_end) {
        const auto row = static_cast<size_t>(chunk.first_host_row + place - chunk.device_end);
        answer.logits = {host_logits_.data() + row * vocab_size, vocab_size};
        continue;
      }
      answer.finite = host_results_.stats[place].finite != 0;
      answer.token = host_results_.tokens[place];
      if (request.num_top < 0) continue;
      answer.logprob = host_results_.chosen[place].logprob;
      const TokenLogprob* const top = host_results_.top + int64_t{place} * num_top_;
      for (int k = 0; k < request.num_top && top[k].token >= 0; ++k) {
        answer.top.emplace_back(top[k].token, top[k].logprob);
      }
    }
  }
  for (size_t i = 0; i < answers.size(); ++i) deliver(first_ + i, answers[i]);
}

}  // namespace moe::cuda
