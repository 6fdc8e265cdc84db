#include "planner/catalog/hardware_files.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "worker/model/bounded_json.h"

namespace moe::planner {
namespace {

using Json = nlohmann::json;

constexpr model::JsonLimits kLimits = {.max_bytes = size_t{1} << 20, .max_depth = 8};
constexpr double kMaxSeconds = 10;

// The first error is kept and later reads do nothing.
class Reader {
 public:
  Reader(std::string_view json, const std::string& file) : file_(file) {
    absl::StatusOr<Json> parsed = model::ParseJsonObject(json, file, kLimits);
    status_ = parsed.status();
    if (parsed.ok()) json_ = *std::move(parsed);
  }

  void Number(const char* field, double min, double max, double* out) {
    known_.insert(field);
    const auto it = json_.find(field);
    if (!status_.ok()) return;
    if (it == json_.end()) return Refuse(field, "is missing");
    if (!it->is_object() || !it->contains("value") || !(*it)["value"].is_number()) {
      return Refuse(field, "must be {\"value\": a number, \"source\": \"where it is from\"}");
    }
    if (!HasSource(*it)) return Refuse(field, "has no source: write where the number is from");
    const double value = (*it)["value"].get<double>();
    if (!(value >= min && value <= max)) {
      return Refuse(field, absl::StrCat("is ", value, "; it must be from ", min, " to ", max));
    }
    *out = value;
  }
  void Texts(const char* field, std::vector<std::string>* out) {
    known_.insert(field);
    const auto it = json_.find(field);
    if (!status_.ok()) return;
    if (it == json_.end()) return Refuse(field, "is missing");
    const auto is_text = [](const Json& text) {
      return text.is_string() && !text.get_ref<const std::string&>().empty();
    };
    if (!it->is_object() || !it->contains("value") || !(*it)["value"].is_array() ||
        !std::all_of((*it)["value"].begin(), (*it)["value"].end(), is_text)) {
      return Refuse(field, "must be {\"value\": [texts], \"source\": \"where they are from\"}");
    }
    if (!HasSource(*it)) return Refuse(field, "has no source: write where the texts are from");
    *out = (*it)["value"].get<std::vector<std::string>>();
  }
  bool Has(const char* field) {
    known_.insert(field);
    return json_.contains(field);
  }
  // Whether one of two fields is there that mean nothing without each other.
  bool HasBoth(const char* first, const char* second) {
    const bool has_second = Has(second);
    return Has(first) || has_second;
  }
  void Title(std::string* out) {
    known_.insert("title");
    const auto it = json_.find("title");
    if (!status_.ok()) return;
    if (it == json_.end() || !it->is_string()) return Refuse("title", "must be a text");
    *out = it->get<std::string>();
  }
  void Boolean(const char* field, bool* out) {
    known_.insert(field);
    const auto it = json_.find(field);
    if (!status_.ok()) return;
    if (it == json_.end() || !it->is_boolean()) return Refuse(field, "must be true or false");
    *out = it->get<bool>();
  }

  // After all reads: a field that nobody asked for is a mistake.
  absl::Status Finish() {
    if (!status_.ok()) return status_;
    for (const auto& [field, value] : json_.items()) {
      if (known_.count(field) == 0) {
        return absl::InvalidArgumentError(absl::StrCat(file_, ": ", model::QuoteForMessage(field),
                                                       " is unknown here; known are ",
                                                       absl::StrJoin(known_, ", ")));
      }
    }
    return absl::OkStatus();
  }

 private:
  static bool HasSource(const Json& field) {
    const auto source = field.find("source");
    return source != field.end() && source->is_string() &&
           !source->get_ref<const std::string&>().empty();
  }
  void Refuse(const char* field, const std::string& why) {
    status_ = absl::InvalidArgumentError(absl::StrCat(file_, ": ", field, " ", why));
  }

  const std::string file_;
  absl::Status status_;
  Json json_ = Json::object();
  std::set<std::string> known_;
};

}  // namespace

absl::StatusOr<Device> ParseDevice(std::string_view json, const std::string& name,
                                   const std::string& file) {
  Device device{.name = name};
  Reader reader(json, file);
  reader.Title(&device.title);
  if (reader.Has("products")) reader.Texts("products", &device.products);
  reader.Number("memory_bytes", 1e9, 1e15, &device.memory_bytes);
  reader.Number("memory_bytes_per_second", 1e6, 1e16, &device.memory_bytes_per_second);
  reader.Number("bf16_flops", 1e6, 1e19, &device.bf16_flops);
  if (reader.Has("fp8_flops")) reader.Number("fp8_flops", 1e9, 1e19, &device.fp8_flops);
  reader.Number("node_link_bytes_per_second", 1e6, 1e15, &device.node_link_bytes_per_second);
  reader.Number("memory_efficiency", 0.01, 1, &device.memory_efficiency);
  reader.Number("compute_efficiency", 0.01, 1, &device.compute_efficiency);
  if (reader.Has("read_overlap")) reader.Number("read_overlap", 0, 1, &device.read_overlap);
  if (reader.Has("attention_flops")) {
    reader.Number("attention_flops", 1e6, 1e19, &device.attention_flops);
  }
  if (reader.HasBoth("num_cores", "core_bytes_per_second")) {
    SharedCores cores;
    double num_cores = 1;
    reader.Number("num_cores", 1, 4096, &num_cores);
    reader.Number("core_bytes_per_second", 1e6, 1e16, &cores.core_bytes_per_second);
    cores.num_cores = static_cast<int>(num_cores);
    device.shared_cores = cores;
  }
  if (reader.HasBoth("step_host_seconds", "layer_host_seconds")) {
    HostTimes host;
    reader.Number("step_host_seconds", 0, kMaxSeconds, &host.step_seconds);
    reader.Number("layer_host_seconds", 0, kMaxSeconds, &host.layer_seconds);
    device.host = host;
  }
  if (absl::Status status = reader.Finish(); !status.ok()) return status;
  return device;
}

absl::StatusOr<double> ParseLink(std::string_view json, const std::string& file) {
  Reader reader(json, file);
  std::string title;
  double bytes_per_second = 0;
  reader.Title(&title);
  reader.Number("bytes_per_second", 1e6, 1e15, &bytes_per_second);
  if (absl::Status status = reader.Finish(); !status.ok()) return status;
  return bytes_per_second;
}

absl::StatusOr<ExchangeLibrary> ParseExchangeLibrary(std::string_view json, const std::string& name,
                                                     const std::string& file) {
  ExchangeLibrary library{.name = name};
  Reader reader(json, file);
  reader.Title(&library.title);
  reader.Boolean("started_by_device", &library.started_by_device);
  const bool over_network = reader.HasBoth("dispatch_latency_seconds", "combine_latency_seconds");
  library.within_node_only = !reader.Has("link_efficiency") && !over_network;
  if (!library.within_node_only) {
    reader.Number("dispatch_latency_seconds", 0, kMaxSeconds, &library.dispatch_latency_seconds);
    reader.Number("combine_latency_seconds", 0, kMaxSeconds, &library.combine_latency_seconds);
    reader.Number("link_efficiency", 0.01, 1, &library.link_efficiency);
  }
  reader.Number("node_dispatch_latency_seconds", 0, kMaxSeconds,
                &library.node_dispatch_latency_seconds);
  reader.Number("node_combine_latency_seconds", 0, kMaxSeconds,
                &library.node_combine_latency_seconds);
  reader.Number("node_link_efficiency", 0.01, 1, &library.node_link_efficiency);
  if (reader.Has("node_message_seconds")) {
    reader.Number("node_message_seconds", 0, kMaxSeconds, &library.node_message_seconds);
  }
  if (reader.Has("owners_apart")) reader.Boolean("owners_apart", &library.owners_apart);
  if (absl::Status status = reader.Finish(); !status.ok()) return status;
  return library;
}

absl::StatusOr<std::string> PartOfFile(std::string_view json, const std::string& part,
                                       const std::string& file) {
  const absl::StatusOr<Json> parsed = model::ParseJsonObject(json, file, kLimits);
  if (!parsed.ok()) return parsed.status();
  const auto is_part = [&](const std::string& name) {
    const auto it = parsed->find(name);
    return it != parsed->end() && it->is_object() && it->contains("title");
  };
  if (is_part(part)) return (*parsed)[part].dump();
  if (is_part("device") || is_part("link") || is_part("exchange")) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": describes a machine, and has no part \"", part, "\""));
  }
  return std::string(json);
}

std::vector<std::pair<std::string, std::string>> Sources(std::string_view json) {
  std::vector<std::pair<std::string, std::string>> sources;
  const absl::StatusOr<Json> parsed = model::ParseJsonObject(json, "", kLimits);
  if (!parsed.ok()) return sources;
  for (const auto& [field, value] : parsed->items()) {
    if (value.is_object() && value.contains("source") && value["source"].is_string()) {
      sources.emplace_back(field, value["source"].get<std::string>());
    }
  }
  return sources;
}

absl::StatusOr<double> ParseLinkSpeed(absl::string_view text) {
  struct Unit {
    absl::string_view suffix;
    double scale;
  };
  for (const Unit& unit : {Unit{"Gb/s", 1e9 / 8}, Unit{"GB/s", 1e9}}) {
    absl::string_view number = text;
    double value = 0;
    if (absl::ConsumeSuffix(&number, unit.suffix) && absl::SimpleAtod(number, &value) &&
        value >= 0.1 && value <= 1e5) {
      return value * unit.scale;
    }
  }
  return absl::InvalidArgumentError(absl::StrCat("link '", absl::CHexEscape(text.substr(0, 80)),
                                                 "' is no speed such as 400Gb/s or 50GB/s"));
}

}  // namespace moe::planner
