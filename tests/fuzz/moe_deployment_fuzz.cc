// Fuzzes controller/api/parse.h and status_json.h: any JSON gives a deployment within its limits or
// an error of a bounded size, and a status that was read is written and read again as the same.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "controller/api/parse.h"
#include "controller/api/status_json.h"

namespace {

void Check(bool ok) {
  if (!ok) {
    std::abort();
  }
}

void CheckError(const absl::Status& error) {
  Check(error.code() == absl::StatusCode::kInvalidArgument && !error.message().empty() &&
        error.message().size() < 6000);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto json = nlohmann::json::parse(data, data + size, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) {
    return 0;
  }
  const auto parsed = moe::api::ParseMoEDeployment(json);
  if (!parsed.ok()) {
    CheckError(parsed.status());
    return 0;
  }
  const moe::api::MoEDeploymentStatus& status = parsed->deployment.status;
  const nlohmann::json written = moe::api::StatusToJson(status);
  Check(written.dump().size() <= moe::api::kMaxStatusBytes);
  const auto read = moe::api::StatusFromJson(written);
  Check(read.ok() && moe::api::SameStatus(*read, status));
  if (!parsed->spec_status.ok()) {
    CheckError(parsed->spec_status);
    return 0;
  }
  const moe::api::MoEDeploymentSpec& spec = parsed->deployment.spec;
  Check(spec.replicas >= 0 && spec.replicas <= moe::api::kMaxReplicas);
  Check(spec.parallelism.automatic || spec.parallelism.expert >= 1);
  Check(int64_t{spec.parallelism.expert} * spec.replicas <= moe::api::kMaxWorkers);
  Check(moe::api::ParseModelUri(spec.model.uri).ok());
  Check(spec.engine.kv_cache_bytes > 0 && spec.worker.gang_timeout > absl::ZeroDuration());
  return 0;
}
