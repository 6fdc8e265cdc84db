// See group_status.h.
#include "gateway/http/group_status.h"

#include <cstdint>
#include <utility>

#include "nlohmann/json.hpp"

namespace moe::gateway {
namespace {

using Json = nlohmann::ordered_json;
using coordinator::v1::GroupState;

Json WorkerJson(const GroupState::Worker& worker) {
  Json experts = Json::array();
  for (const uint32_t expert : worker.experts()) {
    experts.push_back(expert);
  }
  return {{"slot", worker.slot()},
          {"worker_id", worker.worker_id()},
          {"pid", worker.pid()},
          {"host", worker.host()},
          {"metrics_address", worker.metrics_address()},
          {"experts", std::move(experts)},
          {"owns_sequences", worker.owns_sequences()},
          {"failures", worker.num_failures()},
          {"loaded_bytes", worker.loaded_bytes()},
          {"load_seconds", worker.load_seconds()},
          {"resident_bytes", worker.resident_bytes()},
          {"busy_seconds", worker.busy_seconds()}};
}

Json ExpertTokens(const GroupState& group) {
  Json layers = Json::array();
  const auto num_experts = static_cast<int64_t>(group.num_experts());
  const int64_t num_layers = group.num_layers();
  if (group.expert_tokens_size() != num_layers * num_experts) {
    return layers;
  }
  for (int64_t layer = 0; layer < num_layers; ++layer) {
    Json row = Json::array();
    for (int64_t expert = 0; expert < num_experts; ++expert) {
      row.push_back(group.expert_tokens(static_cast<int>(layer * num_experts + expert)));
    }
    layers.push_back(std::move(row));
  }
  return layers;
}

}  // namespace

std::string GroupStatusJson(const std::string& model, const EngineView& view) {
  const GroupState& group = view.group;
  Json workers = Json::array();
  for (const GroupState::Worker& worker : group.workers()) {
    workers.push_back(WorkerJson(worker));
  }
  const Json body = {{"model", model},
                     {"serving", view.serving},
                     {"reason", view.reason},
                     {"phase", GroupState::Phase_Name(group.phase())},
                     {"phase_reason", group.reason()},
                     {"term", group.term()},
                     {"epoch", group.epoch()},
                     {"layout", group.layout()},
                     {"numerics_id", group.numerics_id()},
                     {"num_layers", group.num_layers()},
                     {"num_experts", group.num_experts()},
                     {"kv_capacity_tokens", group.kv_capacity_tokens()},
                     {"load_bytes_done", group.load_bytes_done()},
                     {"load_bytes_total", group.load_bytes_total()},
                     {"failovers", view.num_failovers},
                     {"engine",
                      {{"step", view.stats.step()},
                       {"running", view.stats.num_running()},
                       {"waiting", view.stats.num_waiting()},
                       {"kv_usage", view.stats.kv_usage()},
                       {"preemptions", view.stats.num_preemptions()},
                       {"prompt_tokens", view.stats.num_prompt_tokens()},
                       {"generated_tokens", view.stats.num_generated_tokens()}}},
                     {"workers", std::move(workers)},
                     {"expert_tokens", ExpertTokens(group)}};
  return body.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace moe::gateway
