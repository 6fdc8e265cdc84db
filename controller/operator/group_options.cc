#include "controller/operator/group_options.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "controller/coordinator/placement.h"

namespace moe::controller {

absl::StatusOr<coordinator::GroupOptions> MakeGroupOptions(const api::RevisionStatus& revision,
                                                           uint32_t attention_threads) {
  absl::StatusOr<coordinator::Placement> placement =
      coordinator::PlaceInBlocks(revision.num_experts, revision.num_slots);
  if (!placement.ok()) return placement.status();
  if (revision.attention_ranks < 1 || revision.attention_ranks > revision.num_slots) {
    return absl::InvalidArgumentError(absl::StrCat("revision ", revision.name, ": ",
                                                   revision.attention_ranks, " attention ranks of ",
                                                   revision.num_slots));
  }
  coordinator::GroupOptions group;
  group.placement = *std::move(placement);
  group.num_layers = revision.num_layers;
  group.num_attention_ranks = revision.attention_ranks;
  group.replicated_attention = revision.replicated_attention;
  group.exchange = coordinator::v1::EXCHANGE_TCP;
  if (revision.backend == api::Backend::kCuda) coordinator::ExchangeBetweenGpus(&group);
  const api::EngineSpec& engine = revision.engine;
  const auto count = [](int value) { return static_cast<uint32_t>(std::max(value, 0)); };
  group.limits.set_max_sequences(count(engine.max_sequences));
  group.limits.set_max_step_tokens(count(engine.max_step_tokens));
  group.limits.set_max_queue(count(engine.max_queue));
  group.limits.set_max_context(count(engine.max_context));
  group.limits.set_kv_bytes(engine.kv_cache_bytes);
  group.limits.set_attention_threads(std::max<uint32_t>(attention_threads, 1));
  group.limits.set_step_deadline_seconds(engine.step_deadline_seconds);
  // A pod may connect before it is observed.
  group.retry_unknown_workers = true;
  // A process in a pod first gets a certificate, beside all others of its group.
  group.hello_deadline = absl::Minutes(3);
  return group;
}

}  // namespace moe::controller
