// The holder of the Lease names itself PODNAME_IP, so that a standby can say where the leader is.
//
// Pure. Tested by tests/controller/operator/leader_identity_test.cc.
#ifndef MOE_CONTROLLER_OPERATOR_LEADER_IDENTITY_H_
#define MOE_CONTROLLER_OPERATOR_LEADER_IDENTITY_H_

#include <string>

namespace moe::controller {

std::string LeaderIdentity(const std::string& pod_name, const std::string& pod_ip);

// "10.0.0.7:7700", "[fd00::7]:7700"; empty for an identity of another form.
std::string LeaderAddress(const std::string& identity, int port);

}  // namespace moe::controller

#endif  // MOE_CONTROLLER_OPERATOR_LEADER_IDENTITY_H_
