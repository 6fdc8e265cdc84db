#include "planner/forward_time.h"

#include <algorithm>
#include <cmath>

#include "planner/balance.h"
#include "planner/exchange.h"
#include "planner/sharing.h"

namespace moe::planner {
namespace {

size_t Index(Limit limit) { return static_cast<size_t>(limit); }

// Adds up the parts of a pass.
class Clock {
 public:
  Clock(const Device& device, double bytes_per_weight, ForwardTime* time)
      : device_(device),
        bandwidth_(device.bandwidth()),
        peak_flops_(device.flops(bytes_per_weight)),
        time_(time) {}

  // Of a machine that ranks share: how many of its cores have work from here on.
  void UseCores(double cores) {
    if (!device_.shared_cores.has_value()) return;
    const double all = device_.shared_cores->num_cores;
    core_share_ = std::min(1.0, cores / all);
    bandwidth_ = std::min(device_.bandwidth(), cores * device_.shared_cores->core_bytes_per_second);
  }

  // Weights that `rows` rows go through, `repeats` times.
  double Weights(double params_bytes, double flops, double repeats) {
    return Roofline(params_bytes, flops / (peak_flops_ * core_share_), Limit::kWeightReads,
                    repeats);
  }
  double Kv(double bytes, double flops, double repeats) {
    const double peak = device_.attention_flops > 0 ? device_.attention_flops : device_.flops(2);
    return Roofline(bytes, flops / (peak * core_share_), Limit::kKvReads, repeats);
  }
  double Waiting(double seconds, Limit limit) {
    time_->by_limit[Index(limit)] += seconds;
    return seconds;
  }
  double Phase(const PhaseTime& phase, double repeats) {
    Waiting(phase.latency_seconds * repeats, Limit::kLatency);
    if (phase.node_seconds > phase.network_seconds) {
      Waiting(phase.node_seconds * repeats, Limit::kNodeLinkBytes);
    } else {
      Waiting(phase.network_seconds * repeats, Limit::kNetworkBytes);
    }
    return phase.seconds() * repeats;
  }

 private:
  double Roofline(double bytes, double compute_seconds, Limit bytes_limit, double repeats) {
    const double bytes_seconds = bytes / bandwidth_;
    const double seconds = std::max(bytes_seconds, compute_seconds) +
                           (1 - device_.read_overlap) * std::min(bytes_seconds, compute_seconds);
    return Waiting(seconds * repeats,
                   bytes_seconds >= compute_seconds ? bytes_limit : Limit::kCompute);
  }

  const Device& device_;
  double bandwidth_;
  const double peak_flops_;
  double core_share_ = 1;
  ForwardTime* const time_;
};

// What a rank's experts of one layer have to do.
struct ExpertWork {
  double bytes = 0;
  double flops = 0;
};

// With `load` times the mean rows. Weights are read once for each of `visits` parts of the rows.
ExpertWork WorkOfExperts(const ModelShape& model, const Layout& layout, const StepRows& rows,
                         double visits, double load) {
  const double per_rank =
      visits * static_cast<double>(model.num_experts) * layout.copies / layout.expert;
  const double distinct = rows.distinct_experts.value_or(
      ExpectedDistinctExperts(model.num_experts, model.top_k, rows.rows / visits / layout.copies));
  const double touched_mean = visits * distinct * layout.copies / layout.expert;
  // The busiest rank has at least one expert to read; none reads more than it holds.
  const double touched =
      load > 1 ? std::min(per_rank, std::max(touched_mean * load, 1.0)) : touched_mean;
  const double pairs = rows.rows * model.top_k / layout.expert * load;
  return {.bytes = touched * model.expert_bytes() / layout.tensor,
          .flops = 2.0 * pairs * static_cast<double>(model.expert_params()) / layout.tensor};
}

// Experts of ranks that share cores: the work of all of them on the cores of those that have some,
// or the busiest's on the one core that a rank without attention computes on.
double SharedExpertSeconds(const ModelShape& model, const Device& device, const Layout& layout,
                           const Sharing& sharing, const StepRows& rows, double visits, double load,
                           Clock* clock, double repeats) {
  const ExpertWork mean = WorkOfExperts(model, layout, rows, visits, 1);
  const double ranks = sharing.ranks;
  if (ranks <= 1) {
    clock->UseCores(sharing.expert_cores);
    return clock->Weights(mean.bytes, mean.flops, repeats);
  }
  const double reached_by_one =
      ExpectedDistinctRanks(model.num_experts, model.top_k, layout.expert) / layout.expert;
  const double busy =
      std::min(sharing.expert_cores, ranks * (1 - std::pow(1 - reached_by_one, rows.rows)));
  const ExpertWork busiest = WorkOfExperts(model, layout, rows, visits, load);
  const auto seconds = [&](const ExpertWork& work, double count, double num_cores, Clock* on) {
    on->UseCores(num_cores);
    return on->Weights(work.bytes * count, work.flops * count, repeats);
  };
  ForwardTime looked_at;
  Clock look(device, model.bytes_per_weight, &looked_at);
  if (seconds(busiest, 1, 1, &look) > seconds(mean, ranks, busy, &look)) {
    return seconds(busiest, 1, 1, clock);
  }
  return seconds(mean, ranks, busy, clock);
}

bool IsCaptured(const Layout& layout, const Network& network, const StepRows& rows) {
  if (rows.prefill) return false;
  const bool has_counts =
      layout.exchange == Exchange::kAllToAll || layout.exchange == Exchange::kGather;
  return !has_counts || network.library.started_by_device;
}

double HostSeconds(int num_layers, const Device& device, const Network& network,
                   const Assumptions& assumptions, const Layout& layout, const StepRows& rows,
                   const Sharing& sharing) {
  double step = assumptions.step_host_seconds;
  double layer = IsCaptured(layout, network, rows) ? assumptions.captured_layer_seconds
                                                   : assumptions.eager_layer_seconds;
  if (device.host.has_value()) {
    step = device.host->step_seconds;
    layer = device.host->layer_seconds;
  }
  // One core does this for an owner; owners beyond the cores wait for them.
  const double turns = device.shared_cores.has_value()
                           ? std::max(1.0, sharing.owners / device.shared_cores->num_cores)
                           : 1;
  return step + layer * num_layers * turns;
}

// Nothing hides.
ForwardTime TimeOfBatch(const ModelShape& model, const Device& device, const Network& network,
                        const Assumptions& assumptions, const Layout& layout,
                        const StepRows& rows) {
  ForwardTime time;
  Clock clock(device, model.bytes_per_weight, &time);
  const double layers = model.num_layers;
  const double moe_layers = model.num_moe_layers();
  const double bytes = model.bytes_per_weight / layout.tensor;
  const Sharing sharing = SharingOf(device, network, layout, rows);
  const double own = sharing.owner_rows;
  clock.UseCores(sharing.owner_cores);
  const auto dense = [&](double params, double num_rows, double repeats) {
    return clock.Weights(params * bytes, 2.0 * num_rows * params / layout.tensor,
                         repeats * sharing.owners);
  };
  time.attention_seconds = dense(static_cast<double>(model.attention_params), own, layers);
  time.kv_seconds = clock.Kv(
      rows.kv_reads / sharing.busiest * static_cast<double>(model.kv_values_per_token) *
          model.bytes_per_kv / std::min(layout.tensor, model.num_kv_heads),
      own * rows.context * model.attention_flops_per_kv / layout.tensor, layers * sharing.owners);
  // Every GPU of a rank routes for itself.
  time.router_seconds = clock.Weights(
      static_cast<double>(model.router_params()) * model.bytes_per_weight,
      2.0 * own * static_cast<double>(model.router_params()), moe_layers * sharing.owners);
  time.dense_seconds =
      dense(static_cast<double>(model.shared_params()), own, moe_layers) +
      dense(static_cast<double>(model.dense_params()), own, model.num_dense_layers);
  time.head_seconds =
      dense(static_cast<double>(model.vocab_params()), rows.logit_rows / sharing.busiest, 1);

  time.traffic_max_over_mean =
      rows.traffic_max_over_mean.has_value()
          ? *rows.traffic_max_over_mean
          : ExpectedTrafficMaxOverMean({.num_experts = model.num_experts,
                                        .top_k = model.top_k,
                                        .num_ranks = layout.expert,
                                        .copies = layout.copies,
                                        .router_max_over_mean = assumptions.router_max_over_mean},
                                       rows.rows);
  if (device.shared_cores.has_value()) {
    const double visits =
        network.library.owners_apart && !layout.replicated_attention ? rows.owners : 1;
    time.expert_seconds = SharedExpertSeconds(model, device, layout, sharing, rows, visits,
                                              time.traffic_max_over_mean, &clock, moe_layers);
    time.mean_expert_seconds = time.expert_seconds;
  } else {
    ForwardTime mean;  // what an average rank's experts take is no part of the pass
    Clock mean_clock(device, model.bytes_per_weight, &mean);
    const auto experts = [&](double load, Clock* on) {
      const ExpertWork work = WorkOfExperts(model, layout, rows, 1, load);
      return on->Weights(work.bytes, work.flops, moe_layers);
    };
    time.mean_expert_seconds = experts(1, &mean_clock);
    time.expert_seconds = experts(time.traffic_max_over_mean, &clock);
  }
  const double row_values = static_cast<double>(model.hidden) / layout.tensor;
  // Nothing is captured of prompts, nor on cores.
  const bool exact = rows.prefill || device.shared_cores.has_value();
  const Exchange exchange =
      exact && layout.exchange == Exchange::kSlots ? Exchange::kAllToAll : layout.exchange;
  const ExchangeTime moved =
      TimeOfExchange(exchange,
                     {.num_ranks = layout.expert,
                      .ranks_per_node = RanksPerNode(layout, network),
                      .attention_ranks = layout.num_owners(),
                      .num_experts = model.num_experts,
                      .top_k = model.top_k,
                      .copies = layout.copies,
                      .num_rows = rows.rows,
                      .rows_per_owner = own,
                      .dispatch_row_bytes = row_values * model.bytes_per_dispatched,
                      .combine_row_bytes = row_values * model.bytes_per_combined,
                      .owners_at_once = sharing.owners,
                      .core_share = device.shared_cores.has_value()
                                        ? sharing.expert_cores / device.shared_cores->num_cores
                                        : 1},
                     network, device.node_link_bytes_per_second);
  time.dispatch_seconds = clock.Phase(moved.dispatch, moe_layers);
  time.combine_seconds = clock.Phase(moved.combine, moe_layers);
  if (layout.tensor > 1) {
    // After attention and after the experts; the GPUs of a rank are in one node.
    PhaseTime reduce;
    reduce.latency_seconds = network.library.node_dispatch_latency_seconds;
    reduce.node_seconds =
        2.0 * (layout.tensor - 1) / layout.tensor * own * 2.0 * model.hidden /
        (device.node_link_bytes_per_second * network.library.node_link_efficiency);
    time.tensor_seconds = clock.Phase(reduce, 2 * layers);
  }
  if (layout.pipeline > 1) {
    PhaseTime handover;
    handover.latency_seconds = network.library.dispatch_latency_seconds;
    handover.network_seconds = own * 2.0 * model.hidden / layout.tensor /
                               (network.link_bytes_per_second * network.library.link_efficiency);
    time.pipeline_seconds = clock.Phase(handover, layout.pipeline - 1);
  }
  time.host_seconds = clock.Waiting(
      HostSeconds(model.num_layers, device, network, assumptions, layout, rows, sharing),
      Limit::kHost);
  const double owners_share = layout.replicated_attention || device.shared_cores.has_value()
                                  ? 1.0
                                  : static_cast<double>(layout.num_owners()) / layout.expert;
  time.busy_seconds = owners_share * (time.compute_seconds() - time.expert_seconds) +
                      std::min(time.mean_expert_seconds, time.expert_seconds);
  return time;
}

StepRows Half(const StepRows& rows) {
  StepRows half = rows;
  half.rows = std::ceil(rows.rows / 2);
  half.rows_per_owner = std::ceil(rows.rows_per_owner / 2);
  half.kv_reads = rows.kv_reads / rows.rows_per_owner * half.rows_per_owner;
  half.logit_rows = std::ceil(rows.logit_rows / 2);
  return half;
}

// Two passes, one after the other, but for what hides.
ForwardTime Twice(const ForwardTime& half) {
  ForwardTime time = half;
  for (double* part :
       {&time.attention_seconds, &time.kv_seconds, &time.router_seconds, &time.dense_seconds,
        &time.expert_seconds, &time.head_seconds, &time.dispatch_seconds, &time.combine_seconds,
        &time.tensor_seconds, &time.pipeline_seconds, &time.host_seconds, &time.mean_expert_seconds,
        &time.busy_seconds}) {
    *part *= 2;
  }
  for (double& limit : time.by_limit) limit *= 2;
  return time;
}

}  // namespace

std::string DescribeLimit(Limit limit) {
  switch (limit) {
    case Limit::kWeightReads:
      return "memory bandwidth: weights";
    case Limit::kKvReads:
      return "memory bandwidth: KV cache";
    case Limit::kCompute:
      return "compute";
    case Limit::kNodeLinkBytes:
      return "bytes on the links within a node";
    case Limit::kNetworkBytes:
      return "bytes on the network";
    case Limit::kLatency:
      return "latency of the exchange";
    case Limit::kHost:
      return "host";
  }
  return "";
}

Limit ForwardTime::main_limit() const {
  return static_cast<Limit>(std::max_element(by_limit.begin(), by_limit.end()) - by_limit.begin());
}

StepRows DecodeRows(const Layout& layout, double sequences, double context) {
  // Stages work on different sequences at the same time.
  const double rows = std::ceil(sequences / layout.pipeline);
  const double per_owner = std::ceil(rows / layout.num_owners());
  return {.rows = rows,
          .rows_per_owner = per_owner,
          .owners = std::min<double>(rows, layout.num_owners()),
          .context = context,
          .kv_reads = per_owner * context,
          .logit_rows = per_owner};
}

StepRows PrefillRows(const Layout& layout, double rows_per_owner, double input_tokens) {
  // A causal row attends to half of its prompt on average; keys and values are read once.
  return {.rows = rows_per_owner * layout.num_owners(),
          .rows_per_owner = rows_per_owner,
          .owners = static_cast<double>(layout.num_owners()),
          .context = input_tokens / 2,
          .kv_reads = rows_per_owner,
          .logit_rows = std::max(1.0, rows_per_owner / input_tokens),
          .prefill = true};
}

StepRows SinglePromptRows(const Layout& layout, double input_tokens) {
  StepRows rows = PrefillRows(layout, input_tokens, input_tokens);
  rows.rows = input_tokens;
  rows.owners = 1;
  return rows;
}

ForwardTime TimeOfForward(const ModelShape& model, const Device& device, const Network& network,
                          const Assumptions& assumptions, const Layout& layout,
                          const StepRows& rows) {
  ForwardTime whole = TimeOfBatch(model, device, network, assumptions, layout, rows);
  if (assumptions.overlap == Overlap::kNone || whole.exchange_seconds() == 0) return whole;
  const auto hide = [](ForwardTime* time) {
    time->hidden_seconds = std::min(time->exchange_seconds(), time->compute_seconds());
  };
  if (assumptions.overlap == Overlap::kFree) {
    hide(&whole);
    return whole;
  }
  ForwardTime halves = Twice(TimeOfBatch(model, device, network, assumptions, layout, Half(rows)));
  hide(&halves);
  return halves.total_seconds() < whole.total_seconds() ? halves : whole;
}

}  // namespace moe::planner
