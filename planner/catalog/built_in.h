// The GPUs, links and exchange libraries that are built in (planner/devices, links, exchanges), as
// values. Internal says that a file which was built in can't be read: a mistake in this repository.
//
// Tested by tests/planner/catalog/built_in_test.cc.
#ifndef MOE_PLANNER_CATALOG_BUILT_IN_H_
#define MOE_PLANNER_CATALOG_BUILT_IN_H_

#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "planner/hardware.h"

namespace moe::planner {

// Sorted by name.
absl::StatusOr<std::vector<Device>> BuiltInDevices();
absl::StatusOr<std::vector<ExchangeLibrary>> BuiltInLibraries();

// What GPUs of a cluster are joined by where nobody says otherwise: link ndr400, library nccl, and
// one GPU for each node.
absl::StatusOr<Network> DefaultNetwork();

// The device of which a node's label nvidia.com/gpu.product has this value; nullptr: none of them.
// Nothing is guessed from parts of a name: a slice of a GPU (…-MIG-1g.10gb) or a shared one
// (…-SHARED) is none. Points into `devices`.
const Device* FindProduct(const std::vector<Device>& devices, absl::string_view product);

}  // namespace moe::planner

#endif  // MOE_PLANNER_CATALOG_BUILT_IN_H_
