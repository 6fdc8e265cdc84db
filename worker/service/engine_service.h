// The Engine service: the streams of gateways to the leader of this group.
//
// Every worker serves it, so that a gateway finds the leader by asking; only rank 0 has a leader
// set. gRPC's own threads carry the streams (the callback API), so a stream costs no thread here.
// A stream that ends takes its requests with it.
//
// Tested by tests/worker/service/engine_service_test.cc.
#ifndef MOE_WORKER_SERVICE_ENGINE_SERVICE_H_
#define MOE_WORKER_SERVICE_ENGINE_SERVICE_H_

#include <grpcpp/grpcpp.h>

#include <cstddef>
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

namespace moe::service {

struct EngineServiceOptions {
  std::string numerics_id;   // for Welcome
  std::string model_digest;  // for Welcome
  int max_streams = 16;
  // What a gateway may leave unread before its stream is closed.
  size_t max_queued_bytes = size_t{64} << 20;
  absl::Duration stats_interval = absl::Seconds(1);
  // A stream that says nothing at first is closed after this.
  absl::Duration greeting_deadline = absl::Seconds(10);
  // Stats stop when the engine thread made no call for so long: longer than the longest step.
  absl::Duration engine_silence = absl::Seconds(15);
};

// Thread-safe. Must outlive the grpc::Server that it is registered with; call Shutdown before that
// server's Shutdown, or streams hold it up.
class EngineService final : public engine::v1::Engine::CallbackService, public engine::EventSink {
 public:
  // Larger messages from a gateway are refused: about a million prompt tokens.
  static constexpr int kMaxReceivedBytes = 4 << 20;
  // A gateway must be ready for one event of this size (the prompt's log-probabilities).
  static constexpr int kMaxSentBytes = 64 << 20;

  explicit EngineService(EngineServiceOptions options);
  ~EngineService() override;
  EngineService(const EngineService&) = delete;
  EngineService& operator=(const EngineService&) = delete;

  // Adds the service and its limits on messages, metadata and streams.
  void Register(grpc::ServerBuilder* builder);

  // This rank leads: streams are taken from now on. `leader` is not owned; its sink must be this.
  // A leader that was set before is cleared first.
  void SetLeader(engine::Leader* leader);
  // This rank leads no more: ends all streams with UNAVAILABLE. When it returns, the leader is not
  // used any more.
  void ClearLeader();
  // As ClearLeader, and refuses new streams for ever. Idempotent.
  void Shutdown();

  int num_streams() const;

  // Called by the leader.
  void OnEvents(uint64_t client, engine::v1::StepEvents events) override;

 private:
  class Stream;

  // Called by gRPC.
  grpc::ServerBidiReactor<engine::v1::GatewayMessage, engine::v1::EngineMessage>* Generate(
      grpc::CallbackServerContext* context) override;

  void TickLoop();
  void EndStreams(absl::string_view why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether the engine thread called its leader lately.
  bool EngineIsAlive(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const EngineServiceOptions options_;

  // Guards the streams' state too. Taken before the leader's own lock.
  mutable absl::Mutex mutex_;
  engine::Leader* leader_ ABSL_GUARDED_BY(mutex_) = nullptr;
  bool shut_down_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t next_client_ ABSL_GUARDED_BY(mutex_) = 1;
  // Each lives until gRPC calls its OnDone.
  absl::flat_hash_map<uint64_t, Stream*> streams_ ABSL_GUARDED_BY(mutex_);
  uint64_t last_engine_calls_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Time last_engine_call_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  std::thread ticker_;
};

}  // namespace moe::service

#endif  // MOE_WORKER_SERVICE_ENGINE_SERVICE_H_
