// TLS credentials for gRPC from the files of an identity, which gRPC reads again when they change:
// a renewed certificate counts from the next connection on, without a restart.
//
// Tested by tests/identity/credentials_test.cc.
#ifndef MOE_IDENTITY_CREDENTIALS_H_
#define MOE_IDENTITY_CREDENTIALS_H_

#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <memory>
#include <string>

#include "identity/identity_files.h"

namespace moe::identity {

enum class PeerCertificate {
  kOptional,  // one that is shown must be good: PeerOf tells who it is
  kRequired,
};

// For a server. The files must exist.
std::shared_ptr<grpc::ServerCredentials> MakeServerCredentials(const IdentityFiles& files,
                                                               PeerCertificate client);

// For a client that has a certificate. The server must show one of the same authority for the
// channel's target name, see SetTargetName.
std::shared_ptr<grpc::ChannelCredentials> MakeChannelCredentials(const IdentityFiles& files);

// As above, and the server must be a worker of `deployment` ("namespace/name"): a gateway must not
// tell its prompts to a stranger that was given a late worker's IP address.
std::shared_ptr<grpc::ChannelCredentials> MakeEngineChannelCredentials(const IdentityFiles& files,
                                                                       std::string deployment);

// For a client without a certificate, which knows the authority: Certify.
std::shared_ptr<grpc::ChannelCredentials> MakeAnonymousChannelCredentials(
    const std::string& authority_file);

// Names are resolved by the system from here on, and not by the c-ares that gRPC has inside: up to
// version 1.57 that one may shut down a socket after it has closed it, when its number belongs to
// another connection already (grpc/grpc#33871). An environment that names a resolver is obeyed.
// Called first in main, before any thread.
void UseSystemResolver();

// The name that the server's certificate must have, where it is not the target's host. Empty: the
// target's host.
void SetTargetName(const std::string& name, grpc::ChannelArguments* arguments);

}  // namespace moe::identity

#endif  // MOE_IDENTITY_CREDENTIALS_H_
