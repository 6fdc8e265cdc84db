// See gateway_metrics.h.
#include "gateway/metrics/gateway_metrics.h"

#include <algorithm>
#include <set>
#include <vector>

#include "gateway/journal/engine_view.h"
#include "prometheus/text_serializer.h"

namespace moe::gateway {
namespace {

using Buckets = prometheus::Histogram::BucketBoundaries;

// 1, 2, 5, 10, 20, 50 ... up to max_value, as vLLM has them.
Buckets OneTwoFive(int64_t max_value) {
  Buckets buckets;
  for (int64_t power = 1;; power *= 10) {
    for (const int64_t mantissa : {1, 2, 5}) {
      if (mantissa * power > max_value) {
        return buckets;
      }
      buckets.push_back(static_cast<double>(mantissa * power));
    }
  }
}

const Buckets& FirstTokenBuckets() {
  static const auto* const buckets =
      new Buckets{0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,  0.25,  0.5,   0.75,
                  1.0,   2.5,   5.0,  7.5,  10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0};
  return *buckets;
}

const Buckets& InterTokenBuckets() {
  static const auto* const buckets =
      new Buckets{0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2,  0.3,  0.4, 0.5,
                  0.75, 1.0,   2.5,  5.0,   7.5, 10.0, 20.0, 40.0, 80.0};
  return *buckets;
}

const Buckets& LatencyBuckets() {
  static const auto* const buckets =
      new Buckets{0.3,  0.5,  0.8,  1.0,  1.5,   2.0,   2.5,   5.0,   10.0,   15.0,  20.0,
                  30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0};
  return *buckets;
}

const char* NameOf(FinishedReason reason) {
  switch (reason) {
    case FinishedReason::kStop:
      return "stop";
    case FinishedReason::kLength:
      return "length";
    case FinishedReason::kAbort:
      return "abort";
    case FinishedReason::kError:
      break;
  }
  return "error";
}

const char* NameOf(RejectedReason reason) {
  switch (reason) {
    case RejectedReason::kMalformed:
      return "malformed";
    case RejectedReason::kUnauthorized:
      return "unauthorized";
    case RejectedReason::kTooLarge:
      return "too_large";
    case RejectedReason::kQueueFull:
      return "queue_full";
    case RejectedReason::kOverload:
      return "overload";
    case RejectedReason::kUnavailable:
      break;
  }
  return "unavailable";
}

void RaiseTo(prometheus::Counter& counter, double value) {
  if (value > counter.Value()) {
    counter.Increment(value - counter.Value());
  }
}

}  // namespace

prometheus::Gauge& GatewayMetrics::Gauge(const std::string& name, const std::string& help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry_).Add(labels_);
}

prometheus::Counter& GatewayMetrics::Counter(const std::string& name, const std::string& help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry_).Add(labels_);
}

prometheus::Histogram& GatewayMetrics::Histogram(const std::string& name, const std::string& help,
                                                 const Buckets& buckets) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(registry_).Add(labels_,
                                                                                    buckets);
}

prometheus::Family<prometheus::Gauge>& GatewayMetrics::GaugeFamily(const std::string& name,
                                                                   const std::string& help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry_);
}

GatewayMetrics::GatewayMetrics(const std::string& served_model, int64_t max_context)
    : labels_({{"model_name", served_model}}),
      running_(Gauge("vllm:num_requests_running", "Sequences that the engine computes.")),
      waiting_(Gauge("vllm:num_requests_waiting", "Sequences in the engine's queue.")),
      kv_usage_(Gauge("vllm:kv_cache_usage_perc", "Share of the KV cache in use, 0 to 1.")),
      epoch_(Gauge("moe_epoch",
                   "The epoch of the last leader; of several groups, see moe_group_epoch.")),
      serving_(Gauge("moe_engine_serving", "1 while a group serves, else 0.")),
      other_model_groups_(
          Gauge("moe_other_model_groups",
                "Groups that serve another model than this gateway, which sends them nothing.")),
      preemptions_(Counter("vllm:num_preemptions_total",
                           "Sequences that lost their KV cache and were computed again.")),
      prompt_tokens_(
          Counter("vllm:prompt_tokens_total", "Prompt tokens of sequences that began to answer.")),
      generation_tokens_(Counter("vllm:generation_tokens_total", "Tokens generated.")),
      failovers_(Counter("moe_failovers_total", "Times that requests went on with a new leader.")),
      moved_(Counter("moe_moved_sequences_total",
                     "Sequences that went on in another group than they began in.")),
      dropped_events_(Counter("moe_dropped_token_events_total",
                              "Token events dropped: an old epoch, or a position already known.")),
      time_to_first_token_(Histogram("vllm:time_to_first_token_seconds",
                                     "From the arrival of a request to its first token.",
                                     FirstTokenBuckets())),
      inter_token_(Histogram("vllm:inter_token_latency_seconds",
                             "Between two tokens of a sequence.", InterTokenBuckets())),
      per_output_token_(Histogram("vllm:request_time_per_output_token_seconds",
                                  "Mean time between the tokens of a sequence.",
                                  InterTokenBuckets())),
      end_to_end_(Histogram("vllm:e2e_request_latency_seconds",
                            "From the arrival of a request to its last token.", LatencyBuckets())),
      queue_time_(Histogram("vllm:request_queue_time_seconds", "Time in the engine's queue.",
                            LatencyBuckets())),
      inference_time_(Histogram("vllm:request_inference_time_seconds",
                                "Prefill and decode together.", LatencyBuckets())),
      prefill_time_(Histogram("vllm:request_prefill_time_seconds",
                              "From the first computed prompt token to the first token.",
                              LatencyBuckets())),
      decode_time_(Histogram("vllm:request_decode_time_seconds",
                             "From the first token to the last.", LatencyBuckets())),
      request_prompt_tokens_(Histogram("vllm:request_prompt_tokens", "Prompt tokens of a sequence.",
                                       OneTwoFive(max_context))),
      request_generation_tokens_(Histogram("vllm:request_generation_tokens",
                                           "Tokens generated for a sequence.",
                                           OneTwoFive(max_context))),
      success_(prometheus::BuildCounter()
                   .Name("vllm:request_success_total")
                   .Help("Sequences that ended, by reason.")
                   .Register(registry_)),
      http_requests_(prometheus::BuildCounter()
                         .Name("moe_http_requests_total")
                         .Help("HTTP answers, by route and status code.")
                         .Register(registry_)),
      rejected_(prometheus::BuildCounter()
                    .Name("moe_rejected_requests_total")
                    .Help("Requests refused, by reason.")
                    .Register(registry_)),
      group_gauges_(
          {&GaugeFamily("moe_group_serving", "1 while this group serves, else 0."),
           &GaugeFamily("moe_group_draining", "1 while this group takes nothing new, else 0."),
           &GaugeFamily("moe_group_epoch", "The epoch of this group."),
           &GaugeFamily("moe_group_sequences", "Sequences of this gateway in this group."),
           &GaugeFamily("moe_group_outstanding_tokens",
                        "Tokens that sequences of this gateway in this group still need at most."),
           &GaugeFamily("moe_group_kv_cache_usage",
                        "Share of this group's KV cache in use, 0 to 1.")}) {
  // Every series exists from the start, so that rates are right from the first event on.
  for (const FinishedReason reason : {FinishedReason::kStop, FinishedReason::kLength,
                                      FinishedReason::kAbort, FinishedReason::kError}) {
    success_.Add({{"model_name", served_model}, {"finished_reason", NameOf(reason)}});
  }
  for (const RejectedReason reason :
       {RejectedReason::kMalformed, RejectedReason::kUnauthorized, RejectedReason::kTooLarge,
        RejectedReason::kQueueFull, RejectedReason::kOverload, RejectedReason::kUnavailable}) {
    rejected_.Add({{"model_name", served_model}, {"reason", NameOf(reason)}});
  }
}

void GatewayMetrics::OnFirstToken(absl::Duration since_arrival, int64_t num_prompt_tokens) {
  time_to_first_token_.Observe(absl::ToDoubleSeconds(since_arrival));
  prompt_tokens_.Increment(static_cast<double>(num_prompt_tokens));
}

void GatewayMetrics::OnToken() { generation_tokens_.Increment(); }

void GatewayMetrics::OnInterToken(absl::Duration since_last) {
  inter_token_.Observe(absl::ToDoubleSeconds(since_last));
}

void GatewayMetrics::OnFinished(const FinishedChoice& choice) {
  std::map<std::string, std::string> labels = labels_;
  labels["finished_reason"] = NameOf(choice.reason);
  success_.Add(labels).Increment();
  end_to_end_.Observe(absl::ToDoubleSeconds(choice.end_to_end));
  request_prompt_tokens_.Observe(static_cast<double>(choice.num_prompt_tokens));
  request_generation_tokens_.Observe(static_cast<double>(choice.num_generated_tokens));
  if (choice.has_first_token) {
    const double decode_seconds = absl::ToDoubleSeconds(choice.decode);
    queue_time_.Observe(choice.queue_seconds);
    prefill_time_.Observe(choice.prefill_seconds);
    decode_time_.Observe(decode_seconds);
    inference_time_.Observe(choice.prefill_seconds + decode_seconds);
    if (choice.num_generated_tokens > 1) {
      per_output_token_.Observe(decode_seconds /
                                static_cast<double>(choice.num_generated_tokens - 1));
    }
  }
}

void GatewayMetrics::OnHttp(const std::string& route, int code) {
  std::map<std::string, std::string> labels = labels_;
  labels["route"] = route;
  labels["code"] = std::to_string(code);
  http_requests_.Add(labels).Increment();
}

void GatewayMetrics::OnRejected(RejectedReason reason) {
  std::map<std::string, std::string> labels = labels_;
  labels["reason"] = NameOf(reason);
  rejected_.Add(labels).Increment();
}

void GatewayMetrics::UpdateGroups(const EngineView& view) {
  std::set<int> present;
  for (const GroupView& group : view.groups) {
    const int index = GroupIndex(group.name);
    present.insert(index);
    GroupSeries& series = groups_[index];
    if (series.gauges.empty()) {
      std::map<std::string, std::string> labels = labels_;
      labels["group"] = std::to_string(index);
      for (prometheus::Family<prometheus::Gauge>* family : group_gauges_) {
        series.gauges.emplace_back(family, &family->Add(labels));
      }
    }
    const double values[] = {group.serving ? 1.0 : 0.0,
                             group.state.draining() ? 1.0 : 0.0,
                             static_cast<double>(group.state.epoch()),
                             static_cast<double>(group.num_sequences),
                             static_cast<double>(group.outstanding_tokens),
                             group.stats.kv_usage()};
    for (size_t i = 0; i < series.gauges.size(); ++i) {
      series.gauges[i].second->Set(values[i]);
    }
    const uint64_t now = group.stats.num_preemptions();
    const uint64_t last = series.last_preemptions;
    preemptions_.Increment(static_cast<double>(now >= last ? now - last : now));
    series.last_preemptions = now;
  }
  for (auto it = groups_.begin(); it != groups_.end();) {
    if (present.count(it->first) != 0) {
      ++it;
      continue;
    }
    for (const auto& [family, gauge] : it->second.gauges) {
      family->Remove(gauge);
    }
    it = groups_.erase(it);
  }
}

std::string GatewayMetrics::Serialize(const EngineView& view) {
  running_.Set(view.stats.num_running());
  waiting_.Set(view.stats.num_waiting());
  kv_usage_.Set(view.stats.kv_usage());
  epoch_.Set(static_cast<double>(
      std::max(view.welcome.epoch(), std::max(view.stats.epoch(), view.group.epoch()))));
  serving_.Set(view.serving ? 1 : 0);
  other_model_groups_.Set(
      static_cast<double>(std::count_if(view.groups.begin(), view.groups.end(),
                                        [](const GroupView& group) { return group.other_model; })));
  {
    absl::MutexLock lock(&mutex_);
    UpdateGroups(view);
    RaiseTo(failovers_, static_cast<double>(view.num_failovers));
    RaiseTo(moved_, static_cast<double>(view.num_moved));
    RaiseTo(dropped_events_, static_cast<double>(view.num_dropped_events));
  }
  return prometheus::TextSerializer().Serialize(registry_.Collect());
}

int64_t GatewayMetrics::num_prompt_tokens() const {
  return static_cast<int64_t>(prompt_tokens_.Value());
}

int64_t GatewayMetrics::num_generated_tokens() const {
  return static_cast<int64_t>(generation_tokens_.Value());
}

}  // namespace moe::gateway
