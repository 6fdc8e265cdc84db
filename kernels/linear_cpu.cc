// See linear_cpu.h. Tested by tests/kernels/linear_test.cc.
#include "kernels/linear_cpu.h"

#include "kernels/dot_tile.h"

namespace moe::kernels::MOE_KERNEL_LEVEL {

void DotTiles(const DotTilesArgs& args) { DotAllTiles(args); }

}  // namespace moe::kernels::MOE_KERNEL_LEVEL
