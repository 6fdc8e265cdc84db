#include "controller/operator/status_epoch_store.h"

#include <algorithm>
#include <utility>

#include "absl/random/random.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "controller/kube/answer.h"
#include "controller/kube/resource_types.h"

namespace moe::controller {
namespace {

using kube::Json;

uint64_t CountAt(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_number_unsigned() ? found->get<uint64_t>() : 0;
}

Json* FindGroup(Json* status, int index) {
  const auto groups = status->find("groups");
  if (groups == status->end() || !groups->is_array()) return nullptr;
  for (Json& group : *groups) {
    if (!group.is_object()) continue;
    const auto found = group.find("index");
    if (found != group.end() && found->is_number_integer() && found->get<int64_t>() == index) {
      return &group;
    }
  }
  return nullptr;
}

}  // namespace

StatusEpochStore::StatusEpochStore(kube::Api* api, StatusEpochStoreOptions options)
    : api_(api), options_(std::move(options)), last_epoch_(options_.last_epoch) {}

absl::Status StatusEpochStore::Claim(uint64_t epoch) {
  if (epoch <= last_epoch_) {
    return absl::InvalidArgumentError(absl::StrCat("epoch ", epoch, " is not above ", last_epoch_));
  }
  // Even if writing fails, the number may have been stored and must not be claimed again.
  last_epoch_ = epoch;
  absl::BitGen random;
  absl::Duration delay = options_.retry_delay;
  absl::Status status;
  bool may_be_ours = false;
  for (int attempt = 0; attempt < options_.max_attempts; ++attempt) {
    if (attempt > 0) {
      absl::SleepFor(delay * absl::Uniform(random, 0.5, 1.0));
      delay = std::min(2 * delay, absl::Seconds(1));
    }
    status = ClaimOnce(epoch, may_be_ours);
    if (status.ok()) return status;
    // An answer that was lost says nothing of the write.
    if (absl::IsUnavailable(status)) may_be_ours = true;
    if (!absl::IsUnavailable(status) && !absl::IsAborted(status)) return status;
  }
  return status;
}

absl::Status StatusEpochStore::ClaimOnce(uint64_t epoch, bool may_be_ours) {
  absl::StatusOr<Json> object = api_->Get(kube::kMoeDeployments, options_.deployment);
  if (absl::IsNotFound(object.status())) {
    return absl::FailedPreconditionError("the MoEDeployment is gone");
  }
  if (!object.ok()) return object.status();
  if (kube::MetadataString(*object, "uid") != options_.uid) {
    return absl::FailedPreconditionError("the MoEDeployment was replaced by another one");
  }
  const auto status = object->find("status");
  if (status == object->end() || !status->is_object() ||
      CountAt(*status, "term") != options_.term) {
    return absl::FailedPreconditionError("another controller leads this MoEDeployment");
  }
  Json* group = FindGroup(&*status, options_.group);
  if (group == nullptr) return absl::FailedPreconditionError("the status has no such group");
  const uint64_t present = CountAt(*group, "epoch");
  if (present == epoch && may_be_ours) return absl::OkStatus();
  if (present >= epoch) {
    last_epoch_ = std::max(last_epoch_, present);
    return absl::AlreadyExistsError(absl::StrCat("epoch ", present, " is claimed already"));
  }
  (*group)["epoch"] = epoch;
  absl::StatusOr<Json> written = api_->UpdateStatus(kube::kMoeDeployments, *object);
  if (!written.ok()) return written.status();
  if (options_.on_written) options_.on_written(*std::move(written));
  return absl::OkStatus();
}

}  // namespace moe::controller
