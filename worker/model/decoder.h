// What an owner needs of a forward pass, whatever computes it: a CPU (forward.h) or a GPU
// (worker/cuda).
//
// A step is Decoder::Begin, LayerLoop::Run, Decoder::Finish, in this order. A GPU's step is
// enqueued by the first two and waited for in the third, so what goes wrong on a GPU is told there
// at the latest.
#ifndef MOE_WORKER_MODEL_DECODER_H_
#define MOE_WORKER_MODEL_DECODER_H_

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/attention.h"
#include "worker/model/config.h"

namespace moe::model {

// What is wanted of the logits of one row.
struct LogitRequest {
  enum class Want {
    kLogits,    // themselves
    kDraw,      // a token drawn from all of the vocabulary
    kLogprobs,  // log-probabilities alone
  };

  int row = 0;  // of the step
  Want want = Want::kLogits;
  // Of kDraw: the first id at which the sum of exp((logit - largest) / temperature) passes
  // uniform times the sum of all; temperature 0 takes the largest logit.
  double uniform = 0;  // in [0, 1)
  float temperature = 0;
  // Of kLogprobs: the token whose log-probability is wanted.
  int32_t token = -1;
  // Of kDraw and kLogprobs: how many of the likeliest tokens are wanted with it; -1: no
  // log-probabilities at all.
  int num_top = -1;
};

// What came of a request: its logits, or the rest.
struct LogitResult {
  absl::Span<float> logits;  // [vocab_size]; may be changed; valid while it is delivered
  bool finite = true;        // false: the logits hold NaN or +infinity, and nothing below counts
  int32_t token = -1;        // drawn, or asked for
  float logprob = 0;         // its log-probability, if wanted
  std::vector<std::pair<int32_t, float>> top;  // likeliest first, ties by lowest id
};

// The largest step that a decoder has room for.
struct StepLimits {
  int max_rows = 0;
  int max_positions = 0;  // of a sequence
};

// Whether slices and tokens are a step, as Decoder::Begin says.
absl::Status CheckStep(const ModelConfig& config, const StepLimits& limits,
                       absl::Span<const kernels::AttentionSlice> slices,
                       absl::Span<const int32_t> tokens);

// One rank's forward pass but for its experts. Not thread-safe: one engine thread.
class Decoder {
 public:
  virtual ~Decoder() = default;

  virtual const ModelConfig& config() const = 0;

  // Starts a step. Both may be empty: a rank without rows that takes part all the same.
  //   slices  first_row and count cover [0, tokens.size()) without gaps
  //   tokens  [num_rows], each in [0, vocab_size)
  // InvalidArgument for anything else.
  virtual absl::Status Begin(absl::Span<const kernels::AttentionSlice> slices,
                             absl::Span<const int32_t> tokens) = 0;

  // Called with the index of a request and its result.
  using Deliver = absl::FunctionRef<void(size_t, const LogitResult&)>;

  // Ends the step: answers the requests in ascending order. A decoder may answer any request with
  // logits; one that asks for logits is answered so by all. An error is the whole rank's.
  // REQUIRES: each row is one of the step.
  virtual absl::Status Finish(absl::Span<const LogitRequest> requests, Deliver deliver) = 0;
};

// What every rank can tell of a step from its plan. Whatever all ranks have to decide alike follows
// from this.
struct StepOutline {
  uint64_t step = 0;
  std::vector<int> num_rows = {};      // [num_ranks]
  std::vector<int64_t> num_keys = {};  // [num_ranks]: positions that its rows attend up to, summed
  int longest = 0;                     // the highest number of positions that a row attends to
  bool is_decode = true;               // every sequence has one row
};

// The layers of a rank in one epoch, over the epoch's exchange. Not thread-safe: the engine thread.
class LayerLoop {
 public:
  virtual ~LayerLoop() = default;

  // Whether every rank runs every step, with rows or without. Else a rank without rows only serves
  // its experts, inside its control channel.
  virtual bool collective() const = 0;

  // Whether Run returns before the step is computed, which Decoder::Finish then waits for.
  virtual bool asynchronous() const = 0;

  // Runs all layers of the step that this rank's decoder has begun, or this rank's experts alone.
  // Internal for an outline that is not the begun step's; Aborted or DeadlineExceeded from the
  // exchange.
  virtual absl::Status Run(const StepOutline& outline) = 0;
};

}  // namespace moe::model

#endif  // MOE_WORKER_MODEL_DECODER_H_
