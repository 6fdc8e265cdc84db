#include "cli/simulate/step_times_file.h"

#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/str_cat.h"
#include "worker/model/bounded_json.h"

namespace moe::cli {
namespace {

using Json = nlohmann::json;

bool ParseCurve(const Json& json, const char* field,
                std::vector<simulator::StepTimes::Point>* curve) {
  const auto points = json.find(field);
  if (points == json.end() || !points->is_array()) return false;
  for (const Json& point : *points) {
    if (!point.is_array() || point.size() != 2 || !point[0].is_number() || !point[1].is_number()) {
      return false;
    }
    curve->push_back({.rows = point[0].get<double>(), .seconds = point[1].get<double>()});
  }
  return true;
}

}  // namespace

absl::StatusOr<simulator::StepTimes> ParseStepTimes(std::string_view json,
                                                    const std::string& file) {
  const absl::StatusOr<Json> parsed = model::ParseJsonObject(json, file);
  if (!parsed.ok()) return parsed.status();
  const auto source = parsed->find("source");
  if (source == parsed->end() || !source->is_string() ||
      source->get_ref<const std::string&>().empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": source is missing: write where the times are from"));
  }
  simulator::StepTimes times;
  for (const auto& [field, curve] :
       {std::pair("decode", &times.decode), std::pair("prefill", &times.prefill)}) {
    if (!ParseCurve(*parsed, field, curve)) {
      return absl::InvalidArgumentError(
          absl::StrCat(file, ": ", field, " must be a list of [rows, seconds]"));
    }
  }
  if (absl::Status status = CheckStepTimes(times); !status.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": ", status.message()));
  }
  return times;
}

}  // namespace moe::cli
