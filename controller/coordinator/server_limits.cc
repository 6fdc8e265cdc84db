#include "controller/coordinator/server_limits.h"

#include <grpc/grpc.h>

namespace moe::coordinator {
namespace {

constexpr int kMaxMetadataBytes = 8 << 10;
constexpr int kHandshakeTimeoutMilliseconds = 10000;
constexpr int kMaxIdleConnectionMilliseconds = 60000;
// A peer whose machine is gone is noticed, and peers may look after this one likewise.
constexpr int kKeepaliveMilliseconds = 10000;
constexpr int kKeepaliveTimeoutMilliseconds = 5000;
constexpr int kLeastPingIntervalMilliseconds = 1000;

}  // namespace

void SetLimits(const ServerOptions& options, grpc::ServerBuilder* builder) {
  builder->SetMaxReceiveMessageSize(options.max_message_bytes);
  builder->AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMaxMetadataBytes);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.max_streams_per_connection);
  builder->AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kHandshakeTimeoutMilliseconds);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, kMaxIdleConnectionMilliseconds);
  // SO_REUSEPORT would let a second controller listen beside this one unnoticed.
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMilliseconds);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMilliseconds);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                              kLeastPingIntervalMilliseconds);
}

}  // namespace moe::coordinator
