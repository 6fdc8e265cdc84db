// Descriptions of GPUs, links and exchange libraries, from JSON. Pure.
//
// A number is {"value": N, "source": "where it is from"}; a number without a source is refused, so
// that nothing in a plan is anybody's guess. A device may list "products", names that Kubernetes
// nodes with it carry, in the same form.
//
// Tested by tests/planner/catalog/hardware_files_test.cc, fuzzed by
// tests/fuzz/hardware_file_fuzz.cc.
#ifndef MOE_PLANNER_CATALOG_HARDWARE_FILES_H_
#define MOE_PLANNER_CATALOG_HARDWARE_FILES_H_

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "planner/hardware.h"

namespace moe::planner {

// `file` is the name for messages. InvalidArgument names file and field.
absl::StatusOr<Device> ParseDevice(std::string_view json, const std::string& name,
                                   const std::string& file);
// Bytes per second of one GPU's link, one way.
absl::StatusOr<double> ParseLink(std::string_view json, const std::string& file);
absl::StatusOr<ExchangeLibrary> ParseExchangeLibrary(std::string_view json, const std::string& name,
                                                     const std::string& file);

// What describes one of `part` ("device", "link", "exchange") in a file: all of it, or that part of
// a file that describes a whole machine. InvalidArgument if the machine's file has no such part.
absl::StatusOr<std::string> PartOfFile(std::string_view json, const std::string& part,
                                       const std::string& file);

// The numbers of a description with their sources: {"memory_bytes", "NVIDIA ... data sheet"}.
std::vector<std::pair<std::string, std::string>> Sources(std::string_view json);

// "400Gb/s", "50GB/s": bytes per second. InvalidArgument says what can be written.
absl::StatusOr<double> ParseLinkSpeed(absl::string_view text);

}  // namespace moe::planner

#endif  // MOE_PLANNER_CATALOG_HARDWARE_FILES_H_
