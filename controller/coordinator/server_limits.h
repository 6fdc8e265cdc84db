// What one connection may cost the coordinator's gRPC server.
#ifndef MOE_CONTROLLER_COORDINATOR_SERVER_LIMITS_H_
#define MOE_CONTROLLER_COORDINATOR_SERVER_LIMITS_H_

#include <grpcpp/server_builder.h>

#include "controller/coordinator/server.h"

namespace moe::coordinator {

// Bounds messages, metadata, streams and idle time, and finds peers that are gone.
void SetLimits(const ServerOptions& options, grpc::ServerBuilder* builder);

}  // namespace moe::coordinator

#endif  // MOE_CONTROLLER_COORDINATOR_SERVER_LIMITS_H_
