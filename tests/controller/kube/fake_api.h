// Api over FakeObjects without HTTP, for tests of what stands above the client.
//
// Thread-safe. Tested by tests/controller/kube/lease_test.cc.
#ifndef MOE_TESTS_CONTROLLER_KUBE_FAKE_API_H_
#define MOE_TESTS_CONTROLLER_KUBE_FAKE_API_H_

#include <functional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "controller/kube/api.h"
#include "tests/controller/kube/fake_objects.h"

namespace moe::kube::testing {

class FakeApi : public Api {
 public:
  // Called with the verb and the type of each request. An error is the request's result.
  using Hook = std::function<absl::Status(const std::string& verb, const ResourceType& type)>;

  // `objects` outlives it; several may share one.
  explicit FakeApi(FakeObjects& objects) : objects_(objects) {}

  // Before a request is done: with an error it never is. The hook may block.
  void SetBefore(Hook hook);
  // After it was done: an error stands for a lost answer.
  void SetAfter(Hook hook);

  absl::StatusOr<Json> Get(const ResourceType& type, const ObjectKey& key) override;
  absl::StatusOr<Json> List(const ResourceType& type, const std::string& ns,
                            const std::string& selector) override;
  absl::StatusOr<Json> Create(const ResourceType& type, const std::string& ns, const Json& object,
                              bool dry_run = false) override;
  absl::StatusOr<Json> Update(const ResourceType& type, const Json& object) override;
  absl::StatusOr<Json> UpdateStatus(const ResourceType& type, const Json& object) override;
  absl::StatusOr<Json> Apply(const ResourceType& type, const Json& object) override;
  absl::StatusOr<Json> MergePatch(const ResourceType& type, const ObjectKey& key,
                                  const Json& patch) override;
  absl::Status Delete(const ResourceType& type, const ObjectKey& key,
                      const DeleteOptions& options) override;

 private:
  absl::StatusOr<Json> Do(const std::string& verb, const ResourceType& type, const ObjectKey& key,
                          const std::function<FakeAnswer()>& action);

  FakeObjects& objects_;
  absl::Mutex mutex_;
  Hook before_ ABSL_GUARDED_BY(mutex_);
  Hook after_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace moe::kube::testing

#endif  // MOE_TESTS_CONTROLLER_KUBE_FAKE_API_H_
