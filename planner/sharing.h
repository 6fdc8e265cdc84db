// Which ranks of a group compute on the same cores in a step. A GPU serves one rank and a pass
// waits for the busiest; the ranks of one machine take turns on its cores and share its memory's
// bandwidth, so a pass waits for all their work, done by as many cores as have some.
//
// Tested by tests/planner/sharing_test.cc.
#ifndef MOE_PLANNER_SHARING_H_
#define MOE_PLANNER_SHARING_H_

#include "planner/hardware.h"
#include "planner/layout.h"
#include "planner/model_shape.h"

namespace moe::planner {

struct StepRows;

struct Sharing {
  double ranks = 1;       // expert ranks on the device; 1 where each has its own
  double owners = 1;      // attention ranks on it that have rows in this step
  double owner_rows = 0;  // of each of them: of the busiest, or of all on average if they share
  double busiest = 1;     // rows of the busiest owner beside owner_rows
  // Without a meaning for a GPU: cores that these owners compute on at once, and that experts do.
  double owner_cores = 1;
  double expert_cores = 1;
};

// REQUIRES: rows.owners >= 1.
Sharing SharingOf(const Device& device, const Network& network, const Layout& layout,
                  const StepRows& rows);

// Ranks of one group that a node has room for.
int RanksPerNode(const Layout& layout, const Network& network);

// Bytes that weights, cache and buffers of one attention rank may fill: the device's memory, or of
// a machine that ranks share an equal part of what the other ranks' experts leave. What the
// attention ranks of a machine could map together is counted for each of them.
double MemoryOfOwner(const ModelShape& model, const Device& device, const Network& network,
                     const Assumptions& assumptions, const Layout& layout);

}  // namespace moe::planner

#endif  // MOE_PLANNER_SHARING_H_
