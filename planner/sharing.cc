#include "planner/sharing.h"

#include <algorithm>
#include <cmath>

#include "planner/forward_time.h"
#include "planner/memory.h"

namespace moe::planner {

namespace {

// Attention ranks are the first of a group, so the first node has as many as it has room for.
double OwnersOnNode(const Layout& layout, double ranks) {
  return layout.replicated_attention ? ranks : std::min<double>(layout.attention_ranks, ranks);
}

}  // namespace

int RanksPerNode(const Layout& layout, const Network& network) {
  return std::max(1, std::min(layout.expert, network.gpus_per_node / layout.tensor));
}

Sharing SharingOf(const Device& device, const Network& network, const Layout& layout,
                  const StepRows& rows) {
  if (!device.shared_cores.has_value()) return {.owner_rows = rows.rows_per_owner};
  Sharing sharing;
  sharing.ranks = RanksPerNode(layout, network);
  if (layout.replicated_attention) {
    sharing.owners = sharing.ranks;
    sharing.owner_rows = rows.rows;
  } else {
    sharing.owners = std::min(rows.owners, sharing.ranks);
    sharing.owner_rows = rows.rows / rows.owners;
    sharing.busiest = rows.rows_per_owner / sharing.owner_rows;
  }
  // An attention rank gets its share of the cores, one at least (cli/layout.cc).
  const double cores = device.shared_cores->num_cores;
  const double threads = std::max(1.0, std::floor(cores / OwnersOnNode(layout, sharing.ranks)));
  sharing.owner_cores = std::min(cores, sharing.owners * threads);
  // Where ranks outnumber cores each owner has its experts run on its share of them alone
  // (worker/exchange/turns.h), whatever the other owners do.
  const bool in_turns = sharing.ranks > cores && !layout.replicated_attention;
  sharing.expert_cores = in_turns ? sharing.owner_cores : cores;
  return sharing;
}

double MemoryOfOwner(const ModelShape& model, const Device& device, const Network& network,
                     const Assumptions& assumptions, const Layout& layout) {
  if (!device.shared_cores.has_value()) return device.memory_bytes;
  const double ranks = RanksPerNode(layout, network);
  const double owners = OwnersOnNode(layout, ranks);
  // What is reserved is the machine's, not each rank's.
  const double others = (ranks - owners) * MemoryOf(model, layout, assumptions, 0, 1).expert_bytes +
                        assumptions.reserved_bytes;
  return (device.memory_bytes - others) / owners + assumptions.reserved_bytes;
}

}  // namespace moe::planner
