// The end of a step on the GPU: logits of the rows that are asked for, draws, log-probabilities.
// Only rows that the host has to draw come to it as logits.
//
// Tested by tests/worker/cuda/decoder_test.cc.
#ifndef MOE_WORKER_CUDA_LOGIT_STAGE_H_
#define MOE_WORKER_CUDA_LOGIT_STAGE_H_

#include <cstddef>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "device/buffer.h"
#include "device/stream.h"
#include "kernels/cuda/gpu.h"
#include "worker/cuda/buffers.h"
#include "worker/cuda/weight_layout.h"
#include "worker/model/config.h"
#include "worker/model/decoder.h"

namespace moe::cuda {

// Not thread-safe.
class LogitStage {
 public:
  // What is pointed to is not owned and must outlive this. Work is enqueued in `stream`, which is
  // gpu.stream. Host memory: max_logit_rows rows of logits.
  static absl::StatusOr<std::unique_ptr<LogitStage>> Create(
      const model::ModelConfig& config, const RankSizes& sizes, const DeviceWeights* weights,
      const DecoderBuffers& buffers, const kernels::cuda::Gpu& gpu, const device::Stream* stream);

  // Enqueues the answers to requests from `first` on, as many as there is host memory for, and
  // returns the first that is left. The residual rows are `num_rows` of the step. The stream must
  // have finished what an earlier call enqueued. InvalidArgument for a row or token that is not
  // there.
  absl::StatusOr<size_t> Enqueue(absl::Span<const model::LogitRequest> requests, size_t first,
                                 int num_rows);
  // Delivers them, when the stream has finished.
  void Deliver(absl::Span<const model::LogitRequest> requests,
               model::Decoder::Deliver deliver) const;

 private:
  // Rows whose logits are there at once. The places [begin, end) of the batch are in this order:
  // draws, log-probabilities alone, logits for the host.
  struct Chunk {
    int begin = 0;
    int drawn_end = 0;
    int device_end = 0;
    int end = 0;
    int first_host_row = 0;  // in host_logits_
  };

  LogitStage(const model::ModelConfig& config, const RankSizes& sizes, const DeviceWeights* weights,
             const DecoderBuffers& buffers, const kernels::cuda::Gpu& gpu,
             const device::Stream* stream, device::PinnedBuffer<std::byte> requests,
             device::PinnedBuffer<std::byte> results, device::PinnedBuffer<float> host_logits);

  absl::Status PlanBatch(absl::Span<const model::LogitRequest> requests, size_t first,
                         int num_rows);
  absl::Status Upload(absl::Span<const model::LogitRequest> requests);
  absl::Status RunChunk(const Chunk& chunk);

  const model::ModelConfig& config_;
  const RankSizes sizes_;
  const DeviceWeights* const weights_;
  const DecoderBuffers buffers_;
  const kernels::cuda::Gpu gpu_;
  const device::Stream* const stream_;
  const device::PinnedBuffer<std::byte> requests_;  // as RequestView
  const device::PinnedBuffer<std::byte> results_;   // as ResultView
  const device::PinnedBuffer<float> host_logits_;   // [max_logit_rows, vocab_size]

  // Of the batch that is under way.
  size_t first_ = 0;
  std::vector<size_t> order_;  // the request of each place
  std::vector<Chunk> chunks_;
  int num_top_ = -1;  // most that a row wants; -1: no log-probabilities
  RequestView device_requests_;
  ResultView device_results_;
  ResultView host_results_;
};

}  // namespace moe::cuda

#endif  // MOE_WORKER_CUDA_LOGIT_STAGE_H_
