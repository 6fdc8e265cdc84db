// `moe-controller kubernetes`: the operator of a cluster; see operator/operator.h.
#ifndef MOE_CONTROLLER_KUBERNETES_H_
#define MOE_CONTROLLER_KUBERNETES_H_

#include <string>
#include <vector>

#include "CLI/CLI.hpp"

namespace moe::controller {

struct KubernetesFlags {
  std::string ns;
  std::string pod_name;
  std::string pod_ip;
  std::string service_name = "moe-operator-coordinator";
  std::string worker_image;
  std::string cuda_worker_image;
  std::string gateway_image;
  std::vector<std::string> watch_namespaces;
  bool ignore_nodes = false;
  int coordinator_port = 7700;
  int metrics_port = 7701;
  std::string identity_dir;
  double kube_api_qps = 500;
  int reconcile_threads = 4;
  std::string kube_server;
  std::string kube_ca;
  std::string kube_cert;
  std::string kube_key;
  std::string kube_token_file;
  bool verbose = false;
};

// Adds the subcommand; `flags` must outlive the parsing.
CLI::App* AddKubernetes(CLI::App* parent, KubernetesFlags* flags);

// Runs until a signal is readable from `signal_fd`. The exit code.
int RunKubernetes(const KubernetesFlags& flags, int signal_fd);

}  // namespace moe::controller

#endif  // MOE_CONTROLLER_KUBERNETES_H_
