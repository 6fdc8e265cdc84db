// The coordinator: one gRPC server for the workers and gateways of many groups.
//
// A worker's session belongs to the group that its Hello names; from then on the group's own thread
// (group_loop.h) acts on what it says. The server routes, keeps strangers out and bounds what
// anybody can make it hold.
//
// Without an Authenticator everybody who can connect is trusted: for a unix socket in a private
// folder. With one, a process first gets a certificate for its token (Certify); a session needs a
// worker's certificate, whose pod is that of Hello.worker_id (identity/worker_id.h) and whose
// deployment is that of Hello.group,
// and a watcher a certificate of the deployment that it watches.
//
// A coordinator that does not lead answers every call with UNAVAILABLE and tells, in the trailing
// metadata `moe-leader`, who does.
//
// Tested by tests/controller/coordinator/server_{test,groups_test}.cc and secure_server_test.cc.
#ifndef MOE_CONTROLLER_COORDINATOR_SERVER_H_
#define MOE_CONTROLLER_COORDINATOR_SERVER_H_

#include <grpcpp/security/server_credentials.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "controller/coordinator/authenticator.h"
#include "controller/coordinator/certifier.h"
#include "controller/coordinator/epoch_store.h"
#include "controller/coordinator/group.h"
#include "proto/coordinator.pb.h"
#include "runtime/runtime.h"

namespace moe::coordinator {

struct ServerOptions {
  // "unix:PATH", in a folder that only this user can enter, or "host:port"; port 0 draws one.
  std::string listen_address;
  // Null: plaintext.
  std::shared_ptr<grpc::ServerCredentials> credentials;
  // Answers Certify and, by being there, asks every other call for a certificate. Null: local mode.
  // Must outlive the server.
  Certifier* certifier = nullptr;
  // Whether it leads from the start, see SetLeading.
  bool leading = true;
  std::string leader_address;

  absl::Duration tick = absl::Milliseconds(100);
  // Changes of counters and of loading progress are shown this often.
  absl::Duration publish_interval = absl::Milliseconds(200);

  // A session that says no Hello for so long ends.
  absl::Duration hello_deadline = absl::Seconds(10);
  size_t max_greeting_sessions = 1024;  // that have said no Hello yet
  size_t max_sessions = 20000;
  size_t max_watchers = 1000;
  // What a worker may leave unread before its session is ended.
  size_t max_unread_messages = 64;
  // A heartbeat with its counters is the largest message of a worker.
  int max_message_bytes = 1 << 20;
  int max_streams_per_connection = 64;
};

// Methods are thread-safe.
class CoordinatorServer {
 public:
  // Listens. Unavailable if the address can't be bound.
  static absl::StatusOr<std::unique_ptr<CoordinatorServer>> Start(ServerOptions options);

  // Shutdown() if not yet done.
  ~CoordinatorServer();
  CoordinatorServer(const CoordinatorServer&) = delete;
  CoordinatorServer& operator=(const CoordinatorServer&) = delete;

  // Called on the group's thread with each published state; must not block nor call the server.
  using StateCallback = std::function<void(const v1::GroupState&)>;

  // Leads the group `name` ("namespace/deployment/index", or "" where there is one) from now on.
  // `options`' term and last_epoch are taken from `store`, its name from `name`. Workers that the
  // runtime reports at once are found again with the epoch that they run; the others are started.
  // `runtime` must outlive the group, that is the return of RemoveGroup or Shutdown.
  // InvalidArgument for a placement with holes or doubles, AlreadyExists for a name that is led
  // (what is led stays as it is), FailedPrecondition if this coordinator does not lead.
  absl::Status AddGroup(const std::string& name, GroupOptions options,
                        std::unique_ptr<EpochStore> store, runtime::Runtime* runtime,
                        StateCallback on_state);

  // The group takes no new requests: gateways see `draining`. Nothing for an unknown name.
  void SetDraining(const std::string& name);

  // Tells the workers that the group ends (phase STOPPING) and stops them through the runtime. The
  // group stays, to be looked at. After a failure (phase FAILED) it only stops the workers.
  void StopGroup(const std::string& name, absl::Duration grace);

  // Leads the group no more: its sessions end with UNAVAILABLE. The workers and the epoch that they
  // run are not touched. Nothing for an unknown name.
  void RemoveGroup(const std::string& name);

  // Watchers of `deployment` ("namespace/deployment", or "") wait until this says that all of its
  // groups were added: a group that is not shown counts as gone.
  void ShowDeployment(const std::string& deployment);
  // Ends its watchers, and makes new ones wait. Its groups stay.
  void HideDeployment(const std::string& deployment);

  // Workers of `deployment` that have nobody to serve any more, by the uid of their pod: each is
  // dismissed as soon as it says Hello. Replaces the set that was given before; an empty one
  // forgets it.
  void SetDismissed(const std::string& deployment, std::set<std::string> pod_uids);

  // Not leading: removes all groups, hides all deployments, ends all calls and refuses new ones,
  // naming `leader_address` (host:port) if it is not empty.
  void SetLeading(bool leading, const std::string& leader_address);

  // The last published state; null for an unknown name.
  std::shared_ptr<const v1::GroupState> State(std::string_view name) const;

  // Ends the service, and every group as RemoveGroup does; their last states stay.
  void Shutdown();

  // "unix:PATH", or host:port with the port that was drawn.
  const std::string& address() const;

 private:
  class Impl;
  explicit CoordinatorServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// "namespace/deployment" of "namespace/deployment/index"; "" of "".
std::string_view DeploymentOfGroup(std::string_view group);

}  // namespace moe::coordinator

#endif  // MOE_CONTROLLER_COORDINATOR_SERVER_H_
