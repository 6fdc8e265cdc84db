// The worker's side of proto/coordinator.proto: one session with the controller for the whole life
// of the process, over as many connections as it takes.
//
// Losing the connection is not losing the epoch. Membership reconnects with backoff, says Hello
// again (naming the epoch that runs) and repeats what the controller may have missed: Loaded,
// Prepared, Joined, EpochFailed and Unable are kept until they are out of date. What the
// controller repeats is delivered once. So the handler sees, for each epoch, a prefix of
//     OnPrepare(e)  OnJoin(e)  OnActivate(e)
// in this order, ended by at most one OnAbort(e), before OnPrepare of a higher epoch. An epoch that
// was prepared is always aborted before another one is prepared.
//
// A message whose (term, epoch) is lower than the highest seen is refused and logged. A bootstrap
// is a bearer secret: it is never logged and forgotten when its epoch is active or over.
//
// Tested by tests/worker/membership/membership_test.cc and
// tests/controller/coordinator/server_test.cc.
#ifndef MOE_WORKER_MEMBERSHIP_MEMBERSHIP_H_
#define MOE_WORKER_MEMBERSHIP_MEMBERSHIP_H_

#include <grpcpp/security/credentials.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/coordinator.pb.h"

namespace moe::membership {

struct MembershipOptions {
  std::string coordinator_address;  // "unix:PATH" or "host:port"
  // Null: plaintext. With TLS the coordinator's certificate must be for the address's host, also
  // where that one has pointed to another address (`moe-leader`).
  std::shared_ptr<grpc::ChannelCredentials> credentials;
  std::string group;             // see Hello; empty in local mode
  std::string worker_id;         // pod UID, or the name that the local runtime gave
  uint64_t nonce = 0;            // 0: drawn from the system at Start
  int slot_hint = -1;            // the slot that the runtime started this process for; -1: none
  std::string numerics_id;       // see Hello
  std::string engine_address;    // where moe.engine.v1.Engine will listen if this rank leads
  std::string metrics_address;   // host:port of GET /metrics
  std::string exchange_address;  // host:port of the Tcp exchange; empty where it is not used
  std::string host;              // empty: the machine's name

  absl::Duration heartbeat_interval = absl::Seconds(1);
  // Pause before connecting again after a lost or failed connection; doubles up to the maximum.
  absl::Duration first_retry = absl::Milliseconds(50);
  absl::Duration max_retry = absl::Seconds(2);
  // LoadProgress messages that come faster than this are merged into one.
  absl::Duration progress_interval = absl::Milliseconds(200);
};

struct EpochMember {
  int slot = 0;
  std::string worker_id;
  uint64_t nonce = 0;
  std::string exchange_address;  // of its Tcp exchange; empty where that is not used
};

// What the worker does with the controller's messages. The On* methods are called on Membership's
// receiving thread, one at a time, and must not block for long (start work elsewhere); they may
// call every Send method of Membership, but not Stop or its destructor.
class MembershipHandler {
 public:
  virtual ~MembershipHandler() = default;

  // The work of this process, once in its life: load the weights of `slot`, then SendLoaded (or
  // SendUnable). A different assignment later can't be carried out; Membership answers it with
  // Unable.
  virtual void OnAssign(const coordinator::v1::GroupSpec& spec, int slot) = 0;

  // Get ready for `epoch` and answer SendPrepared; rank 0 with the bootstrap for the others.
  // `members` is sorted by slot and has one entry for each.
  virtual void OnPrepare(uint64_t epoch, const std::vector<EpochMember>& members) = 0;

  // Connect with the other members and answer SendJoined. `bootstrap` is what rank 0 sent; rank 0
  // gets it too. A bearer secret.
  virtual void OnJoin(uint64_t epoch, const std::string& bootstrap) = 0;

  // All members have joined: the epoch serves.
  virtual void OnActivate(uint64_t epoch) = 0;

  // The epoch is over, whatever its stage; also delivered to the rank that reported its failure.
  virtual void OnAbort(uint64_t epoch, const std::string& reason) = 0;

  // The controller has no use for this process: end it. Membership does not reconnect.
  virtual void OnDismiss(const std::string& reason) = 0;

  // Whether a session is open. Nothing has to be done; an epoch runs on without.
  virtual void OnConnectionState(bool connected) = 0;

  // The counters for the next heartbeat; Membership fills in `epoch`. Called on the sending thread,
  // concurrently with the On* methods, once for each heartbeat_interval while connected.
  virtual coordinator::v1::Heartbeat MakeHeartbeat() = 0;
};

// All methods are thread-safe. Send methods never block: they queue.
class Membership {
 public:
  // Starts two threads and returns; connecting happens behind. `handler` must outlive the result.
  // InvalidArgument for empty coordinator_address, worker_id or numerics_id.
  static absl::StatusOr<std::unique_ptr<Membership>> Start(const MembershipOptions& options,
                                                           MembershipHandler* handler);

  // Stop(absl::ZeroDuration()) if not yet stopped.
  ~Membership();
  Membership(const Membership&) = delete;
  Membership& operator=(const Membership&) = delete;

  // Sends what is queued, waits at most `grace` until the controller has received it, closes the
  // session and joins the threads. No callback runs after it returns. Not from a callback.
  void Stop(absl::Duration grace);

  void SendLoadProgress(uint64_t bytes_done, uint64_t bytes_total);
  void SendLoaded(const coordinator::v1::Loaded& loaded);
  // `bootstrap` is empty on every rank but 0.
  void SendPrepared(uint64_t epoch, std::string bootstrap);
  void SendJoined(uint64_t epoch);
  // `suspect_slot` is -1 when it is not known which rank is at fault. Answers for an epoch that is
  // over are dropped.
  void SendEpochFailed(uint64_t epoch, std::string_view reason, int suspect_slot);
  // What Assign asked for can't be done, ever. Follow with Stop(grace) and end the process.
  void SendUnable(std::string_view reason);

  bool connected() const;
  uint64_t nonce() const;  // as sent in Hello

 private:
  class Impl;
  explicit Membership(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace moe::membership

#endif  // MOE_WORKER_MEMBERSHIP_MEMBERSHIP_H_
