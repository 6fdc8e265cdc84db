#include "worker/daemon/worker_metrics.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace moe::worker {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

MetricFamily Family(std::string name, std::string help, MetricType type) {
  MetricFamily family;
  family.name = std::move(name);
  family.help = std::move(help);
  family.type = type;
  return family;
}

void AddValue(double value, std::vector<ClientMetric::Label> labels, MetricFamily* family) {
  ClientMetric metric;
  metric.label = std::move(labels);
  if (family->type == MetricType::Counter) {
    metric.counter.value = value;
  } else {
    metric.gauge.value = value;
  }
  family->metric.push_back(std::move(metric));
}

MetricFamily Single(std::string name, std::string help, MetricType type, double value) {
  MetricFamily family = Family(std::move(name), std::move(help), type);
  AddValue(value, {}, &family);
  return family;
}

MetricFamily ExpertTokens(const model::ExpertCounts& experts) {
  MetricFamily family =
      Family("moe_expert_tokens_total",
             "Tokens that an expert of this worker ran, by layer; recomputed tokens count again.",
             MetricType::Counter);
  for (int layer = 0; layer < experts.num_layers(); ++layer) {
    for (size_t i = 0; i < experts.experts().size(); ++i) {
      AddValue(static_cast<double>(experts.num_tokens(layer, static_cast<int>(i))),
               {{"layer", absl::StrCat(layer)}, {"expert", absl::StrCat(experts.experts()[i])}},
               &family);
    }
  }
  return family;
}

exchange::ExchangeStats Sum(const exchange::ExchangeStats& a, const exchange::ExchangeStats& b) {
  return {.dispatch_seconds = a.dispatch_seconds + b.dispatch_seconds,
          .combine_wait_seconds = a.combine_wait_seconds + b.combine_wait_seconds,
          .serve_seconds = a.serve_seconds + b.serve_seconds,
          .dispatch_bytes = a.dispatch_bytes + b.dispatch_bytes,
          .combine_bytes = a.combine_bytes + b.combine_bytes};
}

}  // namespace

void WorkerMetrics::SetSlot(int slot) {
  absl::MutexLock lock(&mutex_);
  slot_ = slot;
}

void WorkerMetrics::SetExperts(const model::ExpertCounts* experts) {
  absl::MutexLock lock(&mutex_);
  experts_ = experts;
}

void WorkerMetrics::SetLoad(const LoadFigures& load) {
  absl::MutexLock lock(&mutex_);
  load_ = load;
}

void WorkerMetrics::SetEpoch(uint64_t epoch, std::shared_ptr<const GroupExchange> exchange) {
  absl::MutexLock lock(&mutex_);
  if (exchange_ != nullptr) ended_ = Sum(ended_, exchange_->stats());
  exchange_ = std::move(exchange);
  epoch_ = epoch;
  if (exchange_ != nullptr) ++num_epochs_;
}

exchange::ExchangeStats WorkerMetrics::TotalExchange() const {
  return exchange_ == nullptr ? ended_ : Sum(ended_, exchange_->stats());
}

double WorkerMetrics::BusySeconds() const {
  double seconds = experts_ == nullptr ? 0 : experts_->busy_seconds();
  for (int part = 0; part < model::StepTimes::kNumParts; ++part) {
    // The part "experts" also holds the wait for other ranks; experts_ has counted its work.
    if (part == model::StepTimes::kExperts) continue;
    seconds += step_times_.seconds(static_cast<model::StepTimes::Part>(part));
  }
  return seconds;
}

void WorkerMetrics::FillHeartbeat(coordinator::v1::Heartbeat* heartbeat) const {
  absl::MutexLock lock(&mutex_);
  heartbeat->set_busy_seconds(BusySeconds());
  if (experts_ == nullptr) return;
  for (int layer = 0; layer < experts_->num_layers(); ++layer) {
    for (size_t i = 0; i < experts_->experts().size(); ++i) {
      heartbeat->add_expert_tokens(experts_->num_tokens(layer, static_cast<int>(i)));
    }
  }
}

std::vector<MetricFamily> WorkerMetrics::Collect() const {
  absl::MutexLock lock(&mutex_);
  std::vector<MetricFamily> families;
  families.push_back(Single("moe_worker_slot",
                            "Rank of this worker in its group; -1 before it has one.",
                            MetricType::Gauge, slot_));
  families.push_back(Single("moe_epoch", "Epoch that this worker runs; 0 between epochs.",
                            MetricType::Gauge, static_cast<double>(epoch_)));
  families.push_back(Single("moe_worker_epochs_total",
                            "Epochs that this worker has been active in.", MetricType::Counter,
                            static_cast<double>(num_epochs_)));
  families.push_back(
      Single("moe_worker_busy_seconds_total",
             "Time in which this worker computed; its rate is the worker's utilization.",
             MetricType::Counter, BusySeconds()));
  families.push_back(Single("moe_load_bytes", "Bytes of the tensors that this worker uses.",
                            MetricType::Gauge, static_cast<double>(load_.num_bytes)));
  families.push_back(Single("moe_load_resident_bytes",
                            "Bytes of the mapped checkpoint in this worker's page tables.",
                            MetricType::Gauge, static_cast<double>(load_.resident_bytes)));
  families.push_back(
      Single("moe_load_seconds", "Time that loading took.", MetricType::Gauge, load_.seconds));
  families.push_back(Single("moe_kv_capacity_tokens", "Tokens that this worker's KV cache holds.",
                            MetricType::Gauge, static_cast<double>(load_.kv_capacity_tokens)));

  MetricFamily parts = Family("moe_step_seconds_total",
                              "Time of an attention rank's steps, by part; 'experts' includes "
                              "waiting for other ranks; 'device' is all of a GPU's.",
                              MetricType::Counter);
  for (int i = 0; i < model::StepTimes::kNumParts; ++i) {
    const auto part = static_cast<model::StepTimes::Part>(i);
    AddValue(step_times_.seconds(part), {{"part", std::string(model::StepTimes::PartName(part))}},
             &parts);
  }
  families.push_back(std::move(parts));

  const exchange::ExchangeStats exchange = TotalExchange();
  MetricFamily seconds =
      Family("moe_exchange_seconds_total", "Time in the exchange, by phase.", MetricType::Counter);
  AddValue(exchange.dispatch_seconds, {{"phase", "dispatch"}}, &seconds);
  AddValue(exchange.combine_wait_seconds, {{"phase", "combine_wait"}}, &seconds);
  AddValue(exchange.serve_seconds, {{"phase", "serve"}}, &seconds);
  families.push_back(std::move(seconds));
  MetricFamily bytes =
      Family("moe_exchange_bytes_total", "Bytes of rows to and from other ranks, by phase.",
             MetricType::Counter);
  AddValue(static_cast<double>(exchange.dispatch_bytes), {{"phase", "dispatch"}}, &bytes);
  AddValue(static_cast<double>(exchange.combine_bytes), {{"phase", "combine"}}, &bytes);
  families.push_back(std::move(bytes));

  if (experts_ != nullptr) families.push_back(ExpertTokens(*experts_));
  return families;
}

}  // namespace moe::worker
