// The worker daemon: one process per GPU (or per local rank). It loads the experts that the
// controller assigns, joins one epoch after another and runs steps.
//
// Threads: Membership's calls only queue commands; one engine thread loads, connects and computes.
//
// Tested by tests/system/serve_test.py, and on GPUs that are emulated by
// tests/worker/daemon/nccl_worker_test.cc.
#ifndef MOE_WORKER_DAEMON_WORKER_H_
#define MOE_WORKER_DAEMON_WORKER_H_

#include <atomic>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "proto/coordinator.pb.h"
#include "worker/daemon/exchange_choice.h"
#include "worker/daemon/group_exchange.h"
#include "worker/daemon/worker_metrics.h"
#include "worker/engine/epoch_loop.h"
#include "worker/engine/kv_block_pool.h"
#include "worker/engine/leader.h"
#include "worker/engine/owner.h"
#include "worker/exchange/exchange.h"
#include "worker/exchange/tcp_listener.h"
#include "worker/membership/membership.h"
#include "worker/model/backend.h"
#include "worker/model/checkpoint.h"
#include "worker/service/engine_service.h"

namespace moe::worker {

struct WorkerOptions {
  std::string model_dir;
  std::string converted_weights_path;  // see model::Checkpoint::Options; may be empty
  model::Backend* backend = nullptr;   // what the rank computes on; not owned, outlives the worker
  // Where other ranks reach this one when the group's exchange is Tcp or over NCCL; its address()
  // goes into Hello. Not owned; must outlive the worker. Null where the process has no exchange
  // address: a group that needs one is then refused.
  exchange::TcpListener* exchange_listener = nullptr;
  // How ranks on GPUs exchange. Not owned; must outlive the worker. Null where `backend` is no GPU.
  DeviceGroups* device_groups = nullptr;
};

class Worker : public membership::MembershipHandler {
 public:
  // `service` serves the leader's gRPC when this rank leads; `metrics` is filled as things happen.
  // Neither is owned; both must outlive the worker.
  Worker(const WorkerOptions& options, engine::EngineService* service, WorkerMetrics* metrics);
  ~Worker() override;

  // Starts the engine thread. `membership` is not owned, and must be stopped before the worker
  // ends.
  void Start(membership::Membership* membership);

  // Waits until the process should end: OK after Shutdown or a dismissal, else why it can't go on.
  absl::Status Wait();
  // Makes Wait return OK. Any thread, not a signal handler.
  void Shutdown();
  // Makes Wait return OK once no epoch is running: others still count on this rank until then.
  void FinishEpoch();

  void OnAssign(const coordinator::v1::GroupSpec& spec, int slot) override;
  void OnPrepare(uint64_t epoch, const std::vector<membership::EpochMember>& members) override;
  void OnJoin(uint64_t epoch, const std::string& bootstrap) override;
  void OnActivate(uint64_t epoch) override;
  void OnAbort(uint64_t epoch, const std::string& reason) override;
  void OnDismiss(const std::string& reason) override;
  void OnConnectionState(bool connected) override;
  coordinator::v1::Heartbeat MakeHeartbeat() override;

 private:
  struct Assign {
    coordinator::v1::GroupSpec spec;
    int slot;
  };
  struct Prepare {
    uint64_t epoch;
    std::vector<membership::EpochMember> members;
  };
  struct Join {
    uint64_t epoch;
    std::string bootstrap;
  };
  struct Activate {
    uint64_t epoch;
  };
  using Command = std::variant<Assign, Prepare, Join, Activate>;

  // What Assign decided; fixed for the life of the process. Members are built in this order and
  // point to earlier ones.
  struct Loaded {
    coordinator::v1::GroupSpec spec;
    int slot = 0;
    exchange::GroupShape shape;
    std::unique_ptr<model::Checkpoint> checkpoint;
    std::unique_ptr<model::RankModel> model;
    std::unique_ptr<GroupExchangeMaker> exchanges;
    // Attention ranks only:
    std::unique_ptr<engine::KvBlockPool> kv_blocks;
    std::unique_ptr<engine::Owner> owner;
    // Slot 0 only:
    std::unique_ptr<engine::Leader> leader;

    bool replicated() const { return spec.replicated_attention(); }
    bool has_attention() const {
      return replicated() || slot < static_cast<int>(spec.num_attention_ranks());
    }
  };

  void Push(Command command);
  void RunEngineThread();
  absl::Status Load(const Assign& assign);
  absl::Status BuildOwner(Loaded* loaded, int max_context);
  absl::StatusOr<std::unique_ptr<engine::Leader>> MakeLeader(const Loaded& loaded, int max_context);
  // This rank's end of `epoch`. Rank 0 makes the bootstrap, the others are given it.
  absl::StatusOr<std::shared_ptr<GroupExchange>> MakeExchange(uint64_t epoch,
                                                              const std::string& bootstrap) const;
  void HandlePrepare(const Prepare& prepare);
  void HandleJoin(const Join& join);
  void HandleActivate(const Activate& activate);
  // The epoch's steps, until it ends; why it ended.
  absl::Status RunEpoch(uint64_t epoch, GroupExchange* group);
  // The epoch can't go on because of `status`: tells the controller, and ends the process where it
  // has lost its GPU.
  void EpochFailed(uint64_t epoch, const absl::Status& status, int suspect);
  void ForgetLostSequences(uint64_t epoch);
  // Makes `group` the one that OnAbort ends; false if its epoch is already over.
  bool AdoptGroup(uint64_t epoch, std::shared_ptr<GroupExchange> group);
  void DropGroup();
  void Fail(absl::Status status);

  const WorkerOptions options_;
  engine::EngineService* const service_;
  WorkerMetrics* const metrics_;
  const ExchangeMeans means_;
  membership::Membership* membership_ = nullptr;
  std::thread engine_thread_;

  absl::Mutex mutex_;
  std::deque<Command> commands_ ABSL_GUARDED_BY(mutex_);
  uint64_t aborted_epoch_ ABSL_GUARDED_BY(mutex_) = 0;  // this one and all lower ones are over
  std::shared_ptr<GroupExchange> group_ ABSL_GUARDED_BY(mutex_);
  uint64_t group_epoch_ ABSL_GUARDED_BY(mutex_) = 0;
  // Slot 0 only, once it is loaded; null before the leader is destroyed.
  engine::Leader* leader_ ABSL_GUARDED_BY(mutex_) = nullptr;
  std::optional<absl::Status> outcome_ ABSL_GUARDED_BY(mutex_);
  bool quit_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t running_epoch_ ABSL_GUARDED_BY(mutex_) = 0;  // 0: none
  bool leaving_ ABSL_GUARDED_BY(mutex_) = false;        // with the running epoch

  std::atomic<bool> epoch_over_{false};
  std::atomic<uint64_t> current_step_{0};

  // Engine thread only.
  std::unique_ptr<Loaded> loaded_;
  std::vector<membership::EpochMember> prepared_members_;
  std::vector<membership::EpochMember> last_active_members_;
};

}  // namespace moe::worker

#endif  // MOE_WORKER_DAEMON_WORKER_H_
