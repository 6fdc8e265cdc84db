// A coordinator and leaders in this process, on unix sockets, that speak the real protocols with
// scripted tokens. Leaders can be killed, can lie, and can be full; groups come and go.
#ifndef MOE_TESTS_GATEWAY_TESTING_FAKE_ENGINE_H_
#define MOE_TESTS_GATEWAY_TESTING_FAKE_ENGINE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "grpcpp/grpcpp.h"
#include "proto/coordinator.grpc.pb.h"
#include "proto/engine.grpc.pb.h"

namespace moe::gateway::testing {

struct FakeLeaderOptions {
  std::string address;  // a unix socket; or "127.0.0.1:0", any free port
  std::shared_ptr<grpc::ServerCredentials> credentials;  // null: plaintext
  uint64_t epoch = 1;
  std::string numerics_id = "cpu-test-1";
  std::string model_digest = "digest";
  std::vector<int32_t> answer;
  absl::Duration token_interval = absl::Milliseconds(2);
  // Changes what is about to be sent for one token: drop it, send it twice, change its position.
  std::function<std::vector<engine::v1::TokenEvent>(const engine::v1::TokenEvent&)> distort;
  int die_after = -1;          // so many tokens of one stream; then every stream ends
  int refuse_submissions = 0;  // so many first ones with QUEUE_FULL
};

// One rank that leads. The destructor ends its streams.
class FakeLeader : public engine::v1::Engine::Service {
 public:
  explicit FakeLeader(FakeLeaderOptions options);
  ~FakeLeader() override;

  const std::string& address() const { return address_; }
  // Ends all streams and stops to answer, as a killed process does.
  void Kill();
  std::vector<engine::v1::Submit> submissions() const;
  int num_cancels() const;
  int num_streams() const;  // that were opened

 private:
  struct Stream;
  grpc::Status Generate(grpc::ServerContext* context,
                        grpc::ServerReaderWriter<engine::v1::EngineMessage,
                                                 engine::v1::GatewayMessage>* stream) override;
  void Send(Stream& stream);

  const FakeLeaderOptions options_;
  mutable absl::Mutex mutex_;
  bool dead_ ABSL_GUARDED_BY(mutex_) = false;
  int num_refused_ ABSL_GUARDED_BY(mutex_) = 0;
  int num_cancels_ ABSL_GUARDED_BY(mutex_) = 0;
  int num_streams_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<engine::v1::Submit> submissions_ ABSL_GUARDED_BY(mutex_);
  std::string address_;
  std::unique_ptr<grpc::Server> server_;
};

// ACTIVE with this leader, and two workers. `name` is "" or "namespace/deployment/index".
coordinator::v1::GroupState ActiveGroup(const std::string& name, const std::string& leader,
                                        uint64_t epoch);

class FakeCoordinator : public coordinator::v1::Coordinator::Service {
 public:
  // On a unix socket, or on any free port for "127.0.0.1:0".
  explicit FakeCoordinator(const std::string& address,
                           std::shared_ptr<grpc::ServerCredentials> credentials = nullptr);
  ~FakeCoordinator() override;

  const std::string& address() const { return address_; }

  // Adds or replaces the group of this name.
  void Set(const coordinator::v1::GroupState& state);
  // The group without a name, as in local mode, is ACTIVE with this leader.
  void SetLeader(const std::string& address, uint64_t epoch) {
    Set(ActiveGroup("", address, epoch));
  }
  // From now on it says so, also of a list that is empty. Before, it says nothing.
  void SetAll(const std::vector<coordinator::v1::GroupState>& groups);
  void Remove(const std::string& name);
  // From now on it does not lead and names this other one; empty names none.
  void PointTo(const std::string& leader);
  void Lead();
  // Of the last WatchGroups.
  std::string asked_deployment() const;
  int num_watches() const;

 private:
  grpc::Status WatchGroups(grpc::ServerContext* context,
                           const coordinator::v1::WatchGroupsRequest* request,
                           grpc::ServerWriter<coordinator::v1::GroupStates>* writer) override;

  mutable absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool leads_ ABSL_GUARDED_BY(mutex_) = true;
  std::string leader_ ABSL_GUARDED_BY(mutex_);
  std::string asked_deployment_ ABSL_GUARDED_BY(mutex_);
  int num_watches_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t version_ ABSL_GUARDED_BY(mutex_) = 0;  // 0: nothing to say yet
  std::map<std::string, coordinator::v1::GroupState> groups_ ABSL_GUARDED_BY(mutex_);
  std::string address_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace moe::gateway::testing

#endif  // MOE_TESTS_GATEWAY_TESTING_FAKE_ENGINE_H_
