// The streams of gateways to the leader: what the Engine service does, without the server.
//
// gRPC's own threads carry the streams (its callback API), so a stream costs no thread here. A
// stream that ends takes its requests with it.
//
// Tested by tests/worker/service/engine_service_test.cc.
#ifndef MOE_WORKER_SERVICE_GATEWAY_STREAMS_H_
#define MOE_WORKER_SERVICE_GATEWAY_STREAMS_H_

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "proto/engine.grpc.pb.h"
#include "worker/engine/leader.h"
#include "worker/service/engine_service.h"

namespace moe::engine {

// Thread-safe. Must outlive the grpc::Server that it is registered with; call Shutdown before that
// server's, or streams hold it up.
class GatewayStreams final : public v1::Engine::CallbackService, public EventSink {
 public:
  explicit GatewayStreams(EngineServiceOptions options);
  ~GatewayStreams() override;
  GatewayStreams(const GatewayStreams&) = delete;
  GatewayStreams& operator=(const GatewayStreams&) = delete;

  // See EngineService.
  void SetLeader(Leader* leader, absl::string_view model_digest);
  void ClearLeader();
  void SetEpochRunning(bool running);
  // As ClearLeader, and refuses new streams for ever. Idempotent.
  void Shutdown();

  int num_streams() const;

  // Called by the leader.
  void OnEvents(uint64_t client, v1::StepEvents events) override;

 private:
  class Stream;

  // Called by gRPC.
  grpc::ServerBidiReactor<v1::GatewayMessage, v1::EngineMessage>* Generate(
      grpc::CallbackServerContext* context) override;

  // Whether the caller is a gateway that may come.
  grpc::Status Authorize(const grpc::CallbackServerContext& context) const;
  void TickLoop();
  void EndStreams(absl::string_view why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether the engine thread called its leader lately, or has no epoch to call it in.
  bool EngineIsAlive(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const EngineServiceOptions options_;

  // Guards the streams' state too. Taken before the leader's own lock.
  mutable absl::Mutex mutex_;
  Leader* leader_ ABSL_GUARDED_BY(mutex_) = nullptr;
  std::string model_digest_ ABSL_GUARDED_BY(mutex_);
  bool epoch_running_ ABSL_GUARDED_BY(mutex_) = false;
  bool shut_down_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t next_client_ ABSL_GUARDED_BY(mutex_) = 1;
  // Each lives until gRPC calls its OnDone.
  absl::flat_hash_map<uint64_t, Stream*> streams_ ABSL_GUARDED_BY(mutex_);
  uint64_t last_engine_calls_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Time last_engine_call_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  std::thread ticker_;
};

}  // namespace moe::engine

#endif  // MOE_WORKER_SERVICE_GATEWAY_STREAMS_H_
