#include "tests/controller/kube/fake_api.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "controller/kube/answer.h"

namespace moe::kube::testing {

void FakeApi::SetBefore(Hook hook) {
  absl::MutexLock lock(&mutex_);
  before_ = std::move(hook);
}

void FakeApi::SetAfter(Hook hook) {
  absl::MutexLock lock(&mutex_);
  after_ = std::move(hook);
}

absl::StatusOr<Json> FakeApi::Do(const std::string& verb, const ResourceType& type,
                                 const ObjectKey& key, const std::function<FakeAnswer()>& action) {
  Hook before;
  Hook after;
  {
    absl::MutexLock lock(&mutex_);
    before = before_;
    after = after_;
  }
  if (before != nullptr) {
    if (absl::Status status = before(verb, type); !status.ok()) {
      return status;
    }
  }
  FakeAnswer answer = action();
  if (after != nullptr) {
    if (absl::Status status = after(verb, type); !status.ok()) {
      return status;
    }
  }
  if (!answer.ok()) {
    return ErrorOf(answer.code, answer.body.dump(), absl::StrCat(verb, " ", Describe(type, key)),
                   verb == "create");
  }
  return std::move(answer.body);
}

absl::StatusOr<Json> FakeApi::Get(const ResourceType& type, const ObjectKey& key) {
  return Do("get", type, key, [&] { return objects_.Get(type, key); });
}

absl::StatusOr<Json> FakeApi::List(const ResourceType& type, const std::string& ns,
                                   const std::string& selector) {
  return Do("list", type, {.ns = ns, .name = ""}, [&] {
    FakeAnswer answer = objects_.ListPage(type, ns, selector);
    for (Json& item : answer.body["items"]) {
      item["apiVersion"] = type.ApiVersion();
      item["kind"] = type.kind;
    }
    return answer;
  });
}

absl::StatusOr<Json> FakeApi::Create(const ResourceType& type, const std::string& ns,
                                     const Json& object, bool dry_run) {
  return Do("create", type, KeyOf(object),
            [&] { return objects_.Create(type, ns, object, dry_run); });
}

absl::StatusOr<Json> FakeApi::Update(const ResourceType& type, const Json& object) {
  return Do("update", type, KeyOf(object),
            [&] { return objects_.Replace(type, KeyOf(object), object, FakeObjects::Part::kAll); });
}

absl::StatusOr<Json> FakeApi::UpdateStatus(const ResourceType& type, const Json& object) {
  return Do("update", type, KeyOf(object), [&] {
    return objects_.Replace(type, KeyOf(object), object, FakeObjects::Part::kStatus);
  });
}

absl::StatusOr<Json> FakeApi::Apply(const ResourceType& type, const Json& object) {
  return Do("apply", type, KeyOf(object),
            [&] { return objects_.Apply(type, KeyOf(object), object, "moe-operator"); });
}

absl::StatusOr<Json> FakeApi::MergePatch(const ResourceType& type, const ObjectKey& key,
                                         const Json& patch) {
  return Do("patch", type, key,
            [&] { return objects_.MergePatch(type, key, patch, FakeObjects::Part::kAll); });
}

absl::Status FakeApi::Delete(const ResourceType& type, const ObjectKey& key,
                             const DeleteOptions& options) {
  Json body = {{"propagationPolicy", options.foreground ? "Foreground" : "Background"}};
  if (!options.uid.empty()) {
    body["preconditions"] = {{"uid", options.uid}};
  }
  if (options.grace.has_value()) {
    body["gracePeriodSeconds"] = absl::ToInt64Seconds(*options.grace);
  }
  return Do("delete", type, key, [&] { return objects_.Delete(type, key, body); }).status();
}

}  // namespace moe::kube::testing
