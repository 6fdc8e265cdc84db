// See group_status.h.
#include "gateway/http/group_status.h"

#include <cstdint>
#include <utility>

#include "gateway/journal/engine_view.h"
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

// The fields that describe one group.
Json GroupJson(const GroupState& group) {
  Json workers = Json::array();
  for (const GroupState::Worker& worker : group.workers()) {
    workers.push_back(WorkerJson(worker));
  }
  return {{"phase", GroupState::Phase_Name(group.phase())},
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
          {"workers", std::move(workers)},
          {"expert_tokens", ExpertTokens(group)}};
}

Json EngineJson(const engine::v1::EngineStats& stats) {
  return {{"step", stats.step()},
          {"running", stats.num_running()},
          {"waiting", stats.num_waiting()},
          {"kv_usage", stats.kv_usage()},
          {"preemptions", stats.num_preemptions()},
          {"prompt_tokens", stats.num_prompt_tokens()},
          {"generated_tokens", stats.num_generated_tokens()}};
}

// One group, with the load of all groups of its model and shape.
GroupState WithLoadOfAll(const EngineView& view) {
  GroupState sum = view.group;
  for (const GroupView& group : view.groups) {
    const GroupState& other = group.state;
    if (group.other_model || other.group() == sum.group() ||
        other.num_layers() != sum.num_layers() || other.num_experts() != sum.num_experts() ||
        other.expert_tokens_size() != sum.expert_tokens_size()) {
      continue;
    }
    for (int i = 0; i < sum.expert_tokens_size(); ++i) {
      sum.set_expert_tokens(i, sum.expert_tokens(i) + other.expert_tokens(i));
    }
  }
  return sum;
}

}  // namespace

std::string GroupStatusJson(const std::string& model, const EngineView& view) {
  Json body = {{"model", model}, {"serving", view.serving}, {"reason", view.reason}};
  body.update(GroupJson(WithLoadOfAll(view)));
  body["failovers"] = view.num_failovers;
  body["moved_sequences"] = view.num_moved;
  body["engine"] = EngineJson(view.stats);
  Json groups = Json::array();
  for (const GroupView& group : view.groups) {
    Json entry = {{"group", group.name},
                  {"index", GroupIndex(group.name)},
                  {"serving", group.serving},
                  {"reason", group.reason},
                  {"draining", group.state.draining()},
                  {"model_digest", group.state.model_digest().empty() ? group.welcome.model_digest()
                                                                      : group.state.model_digest()},
                  {"other_model", group.other_model},
                  {"sequences", group.num_sequences},
                  {"outstanding_tokens", group.outstanding_tokens},
                  {"engine", EngineJson(group.stats)}};
    entry.update(GroupJson(group.state));
    groups.push_back(std::move(entry));
  }
  body["groups"] = std::move(groups);
  body["ignored_groups"] = view.num_ignored_groups;
  return body.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace moe::gateway
