#include "planner/catalog/built_in.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "planner/catalog/hardware_files.h"
#include "planner/descriptions.h"

namespace moe::planner {
namespace {

constexpr char kDefaultLink[] = "ndr400";
constexpr char kDefaultLibrary[] = "nccl";

std::string FileName(const Description& description) {
  return absl::StrCat(description.kind, "/", description.name, ".json");
}

// All of one kind, each read with `parse`.
template <typename Value, typename Parse>
absl::StatusOr<std::vector<Value>> ReadAll(absl::string_view kind, Parse parse) {
  std::vector<Value> values;
  for (const Description& description : Descriptions()) {
    if (description.kind != kind) continue;
    absl::StatusOr<Value> value = parse(description.json, description.name, FileName(description));
    if (!value.ok()) return absl::InternalError(value.status().message());
    values.push_back(*std::move(value));
  }
  return values;
}

}  // namespace

absl::StatusOr<std::vector<Device>> BuiltInDevices() {
  return ReadAll<Device>("devices", ParseDevice);
}

absl::StatusOr<std::vector<ExchangeLibrary>> BuiltInLibraries() {
  return ReadAll<ExchangeLibrary>("exchanges", ParseExchangeLibrary);
}

absl::StatusOr<Network> DefaultNetwork() {
  Network network{.link_name = kDefaultLink, .gpus_per_node = 1};
  for (const Description& description : Descriptions()) {
    if (description.kind != "links" || description.name != kDefaultLink) continue;
    const absl::StatusOr<double> speed = ParseLink(description.json, FileName(description));
    if (!speed.ok()) return absl::InternalError(speed.status().message());
    network.link_bytes_per_second = *speed;
  }
  absl::StatusOr<std::vector<ExchangeLibrary>> libraries = BuiltInLibraries();
  if (!libraries.ok()) return libraries.status();
  for (ExchangeLibrary& library : *libraries) {
    if (library.name == kDefaultLibrary) network.library = std::move(library);
  }
  if (network.link_bytes_per_second == 0 || network.library.name.empty()) {
    return absl::InternalError(
        absl::StrCat("link ", kDefaultLink, " or library ", kDefaultLibrary, " is not built in"));
  }
  return network;
}

const Device* FindProduct(const std::vector<Device>& devices, absl::string_view product) {
  for (const Device& device : devices) {
    if (std::any_of(device.products.begin(), device.products.end(),
                    [&](const std::string& known) { return known == product; })) {
      return &device;
    }
  }
  return nullptr;
}

}  // namespace moe::planner
