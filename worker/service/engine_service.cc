#include "worker/service/engine_service.h"

#include <grpcpp/grpcpp.h>

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "worker/service/gateway_streams.h"

namespace moe::engine {
namespace {

// Larger messages from a gateway are refused: about a million prompt tokens.
constexpr int kMaxReceivedBytes = 4 << 20;
constexpr int kMaxMetadataBytes = 8 << 10;
// A gateway whose machine is gone is noticed, and gateways may look after this one likewise.
constexpr int kKeepaliveMilliseconds = 10000;
constexpr int kKeepaliveTimeoutMilliseconds = 5000;
constexpr int kLeastPingIntervalMilliseconds = 1000;

}  // namespace

struct EngineService::Server {
  explicit Server(const EngineServiceOptions& options) : streams(options) {}

  GatewayStreams streams;
  std::unique_ptr<grpc::Server> server;
};

absl::StatusOr<std::unique_ptr<EngineService>> EngineService::Start(
    const EngineServiceOptions& options) {
  auto server = std::make_unique<Server>(options);
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(
      options.address,
      options.credentials != nullptr ? options.credentials : grpc::InsecureServerCredentials(),
      &port);
  builder.RegisterService(&server->streams);
  builder.SetMaxReceiveMessageSize(kMaxReceivedBytes);
  builder.SetMaxSendMessageSize(kMaxSentBytes);
  // Of one connection. Twice the limit, so that the service itself can say what is wrong.
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, 2 * options.max_streams);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMaxMetadataBytes);
  // A second server on the address must not share it in silence.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMilliseconds);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMilliseconds);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                             kLeastPingIntervalMilliseconds);
  server->server = builder.BuildAndStart();
  if (server->server == nullptr || port == 0) {
    return absl::UnavailableError(absl::StrCat("can't listen on ", options.address));
  }
  return std::unique_ptr<EngineService>(new EngineService(std::move(server)));
}

EngineService::EngineService(std::unique_ptr<Server> server) : server_(std::move(server)) {}

EngineService::~EngineService() {
  server_->streams.Shutdown();
  server_->server->Shutdown();
  server_->server->Wait();
}

EventSink* EngineService::sink() { return &server_->streams; }

void EngineService::SetLeader(Leader* leader, absl::string_view model_digest) {
  server_->streams.SetLeader(leader, model_digest);
}

void EngineService::ClearLeader() { server_->streams.ClearLeader(); }

void EngineService::SetEpochRunning(bool running) { server_->streams.SetEpochRunning(running); }

int EngineService::num_streams() const { return server_->streams.num_streams(); }

}  // namespace moe::engine
