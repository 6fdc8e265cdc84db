#include "cli/simulate/expert_counts.h"

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "worker/model/bounded_json.h"

namespace moe::cli {
namespace {

using Json = nlohmann::json;

// No expert of a real run has more; sums stay exact.
constexpr uint64_t kMaxTokens = uint64_t{1} << 53;

}  // namespace

absl::StatusOr<simulator::RouterSpec> ParseExpertCounts(std::string_view json,
                                                        const std::string& file) {
  const absl::StatusOr<Json> parsed = model::ParseJsonObject(json, file);
  if (!parsed.ok()) return parsed.status();
  const auto refuse = [&file](const std::string& why) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": ", why, "; write what `moe experts --json` prints"));
  };
  const auto layers = parsed->find("expert_tokens");
  if (layers == parsed->end() || !layers->is_array() || layers->empty()) {
    return refuse("expert_tokens is no list of layers");
  }
  simulator::RouterSpec spec{.kind = simulator::RouterSpec::Kind::kMeasured};
  size_t num_experts = 0;
  for (size_t layer = 0; layer < layers->size(); ++layer) {
    const Json& experts = (*layers)[layer];
    if (!experts.is_array() || experts.empty() || (layer > 0 && experts.size() != num_experts)) {
      return refuse(absl::StrCat(
          "layer ", layer, " of expert_tokens is no list of as many numbers ", "as the first"));
    }
    num_experts = experts.size();
    for (const Json& tokens : experts) {
      if (!tokens.is_number_unsigned() || tokens.get<uint64_t>() > kMaxTokens) {
        return refuse(absl::StrCat("layer ", layer, " of expert_tokens has what is no count"));
      }
      spec.expert_tokens.push_back(tokens.get<uint64_t>());
    }
  }
  return spec;
}

}  // namespace moe::cli
