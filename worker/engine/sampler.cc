#include "worker/engine/sampler.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <limits>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "kernels/log_softmax.h"
#include "kernels/numerics.h"
#include "worker/engine/philox.h"

namespace moe::engine {
namespace {

// Below this, sampling is greedy: the quotient by such a temperature says nothing more.
constexpr float kMinTemperature = 1e-5f;
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

struct Candidate {
  float value;
  int32_t token;
};

// Likeliest first, ties by lowest id.
bool Precedes(const Candidate& a, const Candidate& b) {
  return a.value > b.value || (a.value == b.value && a.token < b.token);
}

// The num_top first of `values` in the order of Precedes. Minus infinities are left out.
std::vector<Candidate> TopCandidates(absl::Span<const float> values, size_t num_top) {
  std::vector<Candidate> top;
  num_top = std::min(num_top, values.size());
  if (num_top == 0) return top;
  // A heap beats a selection over a copy as long as few values get into it.
  constexpr size_t kMaxHeap = 2048;
  if (num_top <= kMaxHeap) {
    top.reserve(num_top);
    float least = kMinusInfinity;  // a value has to be larger: of equal ones the first came first
    for (size_t i = 0; i < values.size(); ++i) {
      if (!(values[i] > least)) continue;
      const Candidate candidate = {.value = values[i], .token = static_cast<int32_t>(i)};
      if (top.size() == num_top) {
        std::pop_heap(top.begin(), top.end(), Precedes);
        top.back() = candidate;
      } else {
        top.push_back(candidate);
      }
      std::push_heap(top.begin(), top.end(), Precedes);
      if (top.size() == num_top) least = top.front().value;
    }
  } else {
    for (size_t i = 0; i < values.size(); ++i) {
      if (values[i] > kMinusInfinity) {
        top.push_back({.value = values[i], .token = static_cast<int32_t>(i)});
      }
    }
    if (num_top < top.size()) {
      std::nth_element(top.begin(), top.begin() + static_cast<std::ptrdiff_t>(num_top), top.end(),
                       Precedes);
      top.resize(num_top);
    }
  }
  std::sort(top.begin(), top.end(), Precedes);
  return top;
}

Logprobs LogprobsOf(absl::Span<const float> logits, const kernels::LogSumExp& stats, int32_t token,
                    int num_top) {
  const auto logprob = [&](float logit) {
    return static_cast<float>(static_cast<double>(logit) - stats.log_sum_exp);
  };
  Logprobs logprobs;
  logprobs.chosen = logprob(logits[token]);
  for (const Candidate& candidate : TopCandidates(logits, static_cast<size_t>(num_top))) {
    logprobs.top.emplace_back(candidate.token, logprob(candidate.value));
  }
  return logprobs;
}

absl::Status OutsideVocabulary(int32_t token, size_t vocab_size) {
  return absl::InvalidArgumentError(
      absl::StrFormat("token %d is outside the vocabulary of %d", token, vocab_size));
}

bool IsToken(int32_t token, size_t vocab_size) {
  return token >= 0 && static_cast<size_t>(token) < vocab_size;
}

// Repetition, frequency and presence penalty.
absl::Status ApplyPenalties(const v1::SamplingParams& params, absl::Span<const int32_t> prompt,
                            absl::Span<const int32_t> generated, absl::Span<float> logits) {
  struct Seen {
    int num_generated = 0;
  };
  const bool repetition = params.repetition_penalty() != 1;
  absl::flat_hash_map<int32_t, Seen> seen;
  if (repetition) {
    for (const int32_t token : prompt) seen.try_emplace(token);
  }
  for (const int32_t token : generated) ++seen[token].num_generated;
  for (const auto& [token, count] : seen) {
    if (!IsToken(token, logits.size())) return OutsideVocabulary(token, logits.size());
    float& logit = logits[token];
    if (repetition) {
      logit = logit > 0 ? logit / params.repetition_penalty() : logit * params.repetition_penalty();
    }
    if (count.num_generated > 0) {
      logit -= params.frequency_penalty() * static_cast<float>(count.num_generated);
      logit -= params.presence_penalty();
    }
  }
  return absl::OkStatus();
}

bool HasPenalties(const v1::SamplingParams& params) {
  return params.repetition_penalty() != 1 || params.frequency_penalty() != 0 ||
         params.presence_penalty() != 0;
}

bool HasAdjustments(const v1::SamplingParams& params, size_t num_generated) {
  return !params.logit_bias().empty() || HasPenalties(params) ||
         num_generated < params.min_tokens();
}

// Everything that changes single logits.
absl::Status AdjustLogits(const v1::SamplingParams& params, absl::Span<const int32_t> prompt,
                          absl::Span<const int32_t> generated, absl::Span<float> logits) {
  for (const auto& [token, bias] : params.logit_bias()) {
    if (!IsToken(token, logits.size())) return OutsideVocabulary(token, logits.size());
    logits[token] += bias;
  }
  if (HasPenalties(params)) {
    absl::Status status = ApplyPenalties(params, prompt, generated, logits);
    if (!status.ok()) return status;
  }
  if (generated.size() < params.min_tokens()) {
    for (const int32_t token : params.stop_token_ids()) {
      if (IsToken(token, logits.size())) logits[token] = kMinusInfinity;
    }
  }
  return absl::OkStatus();
}

// The largest value and its lowest id. InvalidArgument when there is none.
absl::StatusOr<Candidate> Largest(absl::Span<const float> logits) {
  // Lanes let the compiler compare several values at once.
  constexpr size_t kLanes = 16;
  std::array<float, kLanes> lanes;
  lanes.fill(kMinusInfinity);
  std::array<int32_t, kLanes> num_nan = {};
  const auto take = [&](size_t lane, float value) {
    lanes[lane] = lanes[lane] < value ? value : lanes[lane];
    num_nan[lane] += value == value ? 0 : 1;
  };
  size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) take(lane, logits[i + lane]);
  }
  for (; i < logits.size(); ++i) take(0, logits[i]);
  const float largest = *std::max_element(lanes.begin(), lanes.end());
  const bool has_nan = std::any_of(num_nan.begin(), num_nan.end(), [](int32_t n) { return n > 0; });
  if (has_nan || largest == std::numeric_limits<float>::infinity()) {
    return absl::InvalidArgumentError("logits are not finite");
  }
  if (largest == kMinusInfinity) return absl::InvalidArgumentError("no token can be drawn");
  const auto it = std::find(logits.begin(), logits.end(), largest);
  return Candidate{.value = largest, .token = static_cast<int32_t>(it - logits.begin())};
}

constexpr size_t kBlock = 512;

// Sum of weights in one fixed order.
double BlockSum(absl::Span<const float> weights) {
  std::array<double, 8> lanes = {};
  size_t i = 0;
  for (; i + lanes.size() <= weights.size(); i += lanes.size()) {
    for (size_t lane = 0; lane < lanes.size(); ++lane) {
      lanes[lane] += static_cast<double>(weights[i + lane]);
    }
  }
  for (; i < weights.size(); ++i) lanes[0] += static_cast<double>(weights[i]);
  double sum = 0;
  for (const double lane : lanes) sum += lane;
  return sum;
}

// The sum of each kBlock weights.
std::vector<double> BlockSums(absl::Span<const float> weights) {
  std::vector<double> sums;
  sums.reserve(weights.size() / kBlock + 1);
  for (size_t i = 0; i < weights.size(); i += kBlock) {
    sums.push_back(BlockSum(weights.subspan(i, kBlock)));
  }
  return sums;
}

// Draws among all tokens in order of their ids. REQUIRES: a weight is positive.
int32_t DrawFromAll(absl::Span<const float> weights, double uniform) {
  const std::vector<double> sums = BlockSums(weights);
  double total = 0;
  for (const double sum : sums) total += sum;
  const double target = uniform * total;
  double before = 0;
  size_t block = 0;
  while (block + 1 < sums.size() && before + sums[block] <= target) before += sums[block++];
  int32_t last = -1;
  for (size_t i = block * kBlock; i < weights.size(); ++i) {
    if (weights[i] <= 0) continue;
    before += static_cast<double>(weights[i]);
    last = static_cast<int32_t>(i);
    if (before > target) return last;
  }
  // Rounding left the target at the very end.
  if (last >= 0) return last;
  for (size_t i = weights.size(); i-- > 0;) {
    if (weights[i] > 0) return static_cast<int32_t>(i);
  }
  return 0;
}

// Draws among `candidates` in their order. REQUIRES: a weight is positive.
int32_t DrawFrom(absl::Span<const Candidate> candidates, double uniform) {
  double total = 0;
  for (const Candidate& candidate : candidates) total += static_cast<double>(candidate.value);
  const double target = uniform * total;
  double sum = 0;
  int32_t last = candidates.front().token;
  for (const Candidate& candidate : candidates) {
    if (candidate.value <= 0) continue;
    sum += static_cast<double>(candidate.value);
    last = candidate.token;
    if (sum > target) return last;
  }
  return last;
}

// What top-k, top-p and min-p draw from: weights exp((logit - largest) / temperature).
class Nucleus {
 public:
  Nucleus(const kernels::Context& context, const v1::SamplingParams& params,
          absl::Span<float> logits, float largest)
      : context_(context), params_(params), logits_(logits), largest_(largest) {}

  // Changes the logits.
  int32_t Draw(double uniform) {
    const size_t vocab_size = logits_.size();
    const bool top_k = params_.top_k() > 0 && static_cast<size_t>(params_.top_k()) < vocab_size;
    const bool top_p = params_.top_p() < 1;
    if (!top_k) {
      if (top_p) {
        WeighTopP();
      } else {
        WeighAll(logits_);
      }
      if (params_.min_p() > 0) {
        for (float& weight : logits_) weight = weight < params_.min_p() ? 0.0f : weight;
      }
      return DrawFromAll(logits_, uniform);
    }
    std::vector<Candidate> candidates =
        TopCandidates(logits_, static_cast<size_t>(params_.top_k()));
    Weigh(candidates);
    if (top_p) CutTopP(&candidates);
    while (candidates.size() > 1 && candidates.back().value < params_.min_p()) {
      candidates.pop_back();
    }
    return DrawFrom(candidates, uniform);
  }

 private:
  // Never positive; the quotient may be minus infinity, and its weight is then 0.
  float Exponent(float logit) const { return (logit - largest_) / params_.temperature(); }

  // Logits to weights, in place.
  void WeighAll(absl::Span<float> values) const {
    for (float& value : values) value = Exponent(value);
    kernels::ExpMinusMax(context_, values.data(), 0.0f, static_cast<int>(values.size()),
                         values.data());
  }
  void Weigh(std::vector<Candidate>& candidates) const {
    std::vector<float> values(candidates.size());
    for (size_t i = 0; i < values.size(); ++i) values[i] = candidates[i].value;
    WeighAll(absl::MakeSpan(values));
    for (size_t i = 0; i < values.size(); ++i) candidates[i].value = values[i];
  }

  // Keeps the shortest prefix whose weight reaches top_p of the total.
  void CutTopP(std::vector<Candidate>* candidates) const {
    double total = 0;
    for (const Candidate& candidate : *candidates) total += static_cast<double>(candidate.value);
    const double wanted = static_cast<double>(params_.top_p()) * total;
    double sum = 0;
    for (size_t i = 0; i < candidates->size(); ++i) {
      sum += static_cast<double>((*candidates)[i].value);
      if (sum >= wanted) {
        candidates->resize(i + 1);
        return;
      }
    }
  }

  // Weights are sorted into buckets by exponent and the first three bits of the fraction.
  static constexpr size_t kNumBuckets = (std::bit_cast<uint32_t>(1.0f) >> 20) + 1;
  static size_t BucketOf(float weight) {
    return std::min<size_t>(std::bit_cast<uint32_t>(weight) >> 20, kNumBuckets - 1);
  }

  // Top-p over the whole vocabulary: logits become weights, 0 where they are cut off. Only the
  // bucket in which the sum reaches top_p has to be put in order.
  void WeighTopP() {
    std::vector<float> weights(logits_.begin(), logits_.end());
    WeighAll(absl::MakeSpan(weights));
    std::vector<double> sums(kNumBuckets, 0.0);
    for (const float weight : weights) sums[BucketOf(weight)] += static_cast<double>(weight);
    double total = 0;
    for (size_t bucket = kNumBuckets; bucket-- > 0;) total += sums[bucket];
    const double wanted = static_cast<double>(params_.top_p()) * total;
    size_t cut = kNumBuckets - 1;
    double sum = 0;  // of the buckets above
    while (cut > 0 && sum + sums[cut] < wanted) sum += sums[cut--];

    // By logits and not by weights: different logits may have equal weights.
    std::vector<Candidate> candidates;
    for (size_t i = 0; i < weights.size(); ++i) {
      const size_t bucket = BucketOf(weights[i]);
      if (bucket == cut) {
        candidates.push_back({.value = logits_[i], .token = static_cast<int32_t>(i)});
      }
      if (bucket <= cut) logits_[i] = 0;
      if (bucket > cut) logits_[i] = weights[i];
    }
    std::sort(candidates.begin(), candidates.end(), Precedes);
    for (const Candidate& candidate : candidates) {
      logits_[candidate.token] = weights[candidate.token];
      sum += static_cast<double>(weights[candidate.token]);
      if (sum >= wanted) return;
    }
  }

  const kernels::Context& context_;
  const v1::SamplingParams& params_;
  const absl::Span<float> logits_;
  const float largest_;
};

}  // namespace

double UniformDraw(uint64_t seed, uint32_t choice, uint32_t position) {
  const std::array<uint32_t, 4> bits = Philox4x32(
      {position, choice, 0, 0}, {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  const uint64_t high_53 = ((uint64_t{bits[0]} << 32) | bits[1]) >> 11;
  return static_cast<double>(high_53) * 0x1p-53;
}

std::optional<PlainDraw> AsPlainDraw(const v1::SamplingParams& params, size_t num_generated,
                                     int vocab_size) {
  if (HasAdjustments(params, num_generated)) return std::nullopt;
  if (params.temperature() < kMinTemperature) return PlainDraw();
  const bool top_k = params.top_k() > 0 && params.top_k() < vocab_size;
  if (top_k || params.top_p() < 1 || params.min_p() > 0) return std::nullopt;
  return PlainDraw{
      .uniform = UniformDraw(params.seed(), params.choice(), static_cast<uint32_t>(num_generated)),
      .temperature = params.temperature()};
}

absl::StatusOr<Logprobs> ComputeLogprobs(const kernels::Context& context,
                                         absl::Span<const float> logits, int32_t token,
                                         int num_top) {
  if (!IsToken(token, logits.size())) return OutsideVocabulary(token, logits.size());
  const kernels::LogSumExp stats =
      kernels::ComputeLogSumExp(context, logits.data(), static_cast<int>(logits.size()));
  if (!stats.finite) return absl::InvalidArgumentError("logits are not finite");
  return LogprobsOf(logits, stats, token, std::max(0, num_top));
}

absl::StatusOr<Sample> SampleToken(const kernels::Context& context, absl::Span<float> logits,
                                   const v1::SamplingParams& params,
                                   absl::Span<const int32_t> prompt,
                                   absl::Span<const int32_t> generated) {
  if (logits.empty()) return absl::InvalidArgumentError("there are no logits");
  // The same bits whatever thread calls.
  const kernels::ScopedFlushDenormals flush_denormals;
  const bool wants_logprobs = params.num_logprobs() >= 0;
  kernels::LogSumExp stats = {};
  std::vector<float> raw;
  if (wants_logprobs) {
    stats = kernels::ComputeLogSumExp(context, logits.data(), static_cast<int>(logits.size()));
    if (!stats.finite) return absl::InvalidArgumentError("logits are not finite");
    raw.assign(logits.begin(), logits.end());
  }
  absl::StatusOr<Candidate> largest = Largest(logits);
  if (!largest.ok()) return largest.status();
  if (HasAdjustments(params, generated.size())) {
    absl::Status status = AdjustLogits(params, prompt, generated, logits);
    if (!status.ok()) return status;
    largest = Largest(logits);
    if (!largest.ok()) return largest.status();
  }

  Sample sample;
  if (params.temperature() < kMinTemperature) {
    sample.token = largest->token;
  } else {
    const double uniform =
        UniformDraw(params.seed(), params.choice(), static_cast<uint32_t>(generated.size()));
    sample.token = Nucleus(context, params, logits, largest->value).Draw(uniform);
  }
  if (wants_logprobs) {
    sample.logprobs = LogprobsOf(raw, stats, sample.token, params.num_logprobs());
  }
  return sample;
}

}  // namespace moe::engine
