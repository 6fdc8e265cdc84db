// The gateway's Prometheus metrics.
//
// Names and buckets are vLLM's (vllm/v1/metrics/loggers.py) where the meaning is the same, so that
// its dashboards work; ours begin with moe_. No label takes a client's text: model_name is the
// served name, routes and reasons come from fixed sets, and `group` is the index of a group that
// exists now: the series of one that is gone go with it.
//
// Tested by tests/gateway/metrics/gateway_metrics_test.cc.
#ifndef MOE_GATEWAY_METRICS_GATEWAY_METRICS_H_
#define MOE_GATEWAY_METRICS_GATEWAY_METRICS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "gateway/journal/generation.h"
#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"

namespace moe::gateway {

enum class FinishedReason { kStop, kLength, kAbort, kError };

enum class RejectedReason {
  kMalformed,  // HTTP or JSON that can't be read, parameters out of bounds
  kUnauthorized,
  kTooLarge,
  kQueueFull,    // the engine's queue
  kOverload,     // connections, threads or memory of this gateway
  kUnavailable,  // no engine, or draining
};

// What is known of a choice when it ends.
struct FinishedChoice {
  FinishedReason reason = FinishedReason::kStop;
  int64_t num_prompt_tokens = 0;
  int64_t num_generated_tokens = 0;
  absl::Duration end_to_end;  // from the arrival of the request
  bool has_first_token = false;
  double queue_seconds = 0;
  double prefill_seconds = 0;
  absl::Duration decode;  // from the first token to the last
};

// Thread-safe.
class GatewayMetrics {
 public:
  // `max_context` bounds the buckets of token counts.
  GatewayMetrics(const std::string& served_model, int64_t max_context);
  GatewayMetrics(const GatewayMetrics&) = delete;
  GatewayMetrics& operator=(const GatewayMetrics&) = delete;

  void OnFirstToken(absl::Duration since_arrival, int64_t num_prompt_tokens);
  void OnToken();
  void OnInterToken(absl::Duration since_last);
  void OnFinished(const FinishedChoice& choice);
  // `route` is one of the server's own, or "other".
  void OnHttp(const std::string& route, int code);
  void OnRejected(RejectedReason reason);

  // Prometheus text format 0.0.4.
  std::string Serialize(const EngineView& view);

  // Since the start; for the statistics line.
  int64_t num_prompt_tokens() const;
  int64_t num_generated_tokens() const;

 private:
  // The series of one group.
  struct GroupSeries {
    std::vector<std::pair<prometheus::Family<prometheus::Gauge>*, prometheus::Gauge*>> gauges;
    uint64_t last_preemptions = 0;  // the engine's counter starts anew with each leader
  };

  prometheus::Gauge& Gauge(const std::string& name, const std::string& help);
  prometheus::Counter& Counter(const std::string& name, const std::string& help);
  prometheus::Family<prometheus::Gauge>& GaugeFamily(const std::string& name,
                                                     const std::string& help);
  void UpdateGroups(const EngineView& view) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  prometheus::Histogram& Histogram(const std::string& name, const std::string& help,
                                   const prometheus::Histogram::BucketBoundaries& buckets);

  const std::map<std::string, std::string> labels_;
  prometheus::Registry registry_;

  prometheus::Gauge& running_;
  prometheus::Gauge& waiting_;
  prometheus::Gauge& kv_usage_;
  prometheus::Gauge& epoch_;
  prometheus::Gauge& serving_;
  prometheus::Gauge& other_model_groups_;
  prometheus::Counter& preemptions_;
  prometheus::Counter& prompt_tokens_;
  prometheus::Counter& generation_tokens_;
  prometheus::Counter& failovers_;
  prometheus::Counter& moved_;
  prometheus::Counter& dropped_events_;
  prometheus::Histogram& time_to_first_token_;
  prometheus::Histogram& inter_token_;
  prometheus::Histogram& per_output_token_;
  prometheus::Histogram& end_to_end_;
  prometheus::Histogram& queue_time_;
  prometheus::Histogram& inference_time_;
  prometheus::Histogram& prefill_time_;
  prometheus::Histogram& decode_time_;
  prometheus::Histogram& request_prompt_tokens_;
  prometheus::Histogram& request_generation_tokens_;
  prometheus::Family<prometheus::Counter>& success_;
  prometheus::Family<prometheus::Counter>& http_requests_;
  prometheus::Family<prometheus::Counter>& rejected_;

  // With a label for the group, in the order of GroupSeries::gauges.
  std::vector<prometheus::Family<prometheus::Gauge>*> group_gauges_;

  absl::Mutex mutex_;
  std::map<int, GroupSeries> groups_ ABSL_GUARDED_BY(mutex_);  // by index
};

}  // namespace moe::gateway

#endif  // MOE_GATEWAY_METRICS_GATEWAY_METRICS_H_
