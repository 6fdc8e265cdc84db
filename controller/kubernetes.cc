#include "controller/kubernetes.h"

#include <signal.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "controller/kube/credentials.h"
#include "controller/operator/operator.h"
#include "spdlog/sinks/stdout_sinks.h"
#include "spdlog/spdlog.h"

namespace moe::controller {
namespace {

constexpr int kExitFailure = 1;

int Complain(const absl::Status& status) {
  spdlog::error("{}", std::string(status.message()));
  return kExitFailure;
}

absl::StatusOr<kube::ClientOptions> MakeClientOptions(const KubernetesFlags& flags) {
  kube::ClientOptions options;
  if (flags.kube_server.empty()) {
    auto in_cluster = kube::InClusterOptions();
    if (!in_cluster.ok()) {
      return absl::FailedPreconditionError(
          absl::StrCat(in_cluster.status().message(),
                       "; outside of a cluster give --kube-server, with --kube-ca and --kube-cert, "
                       "--kube-key or --kube-token-file"));
    }
    options = *std::move(in_cluster);
  } else {
    options.server = flags.kube_server;
    options.ca_file = flags.kube_ca;
    options.client_cert_file = flags.kube_cert;
    options.client_key_file = flags.kube_key;
    options.token_file = flags.kube_token_file;
  }
  options.qps = flags.kube_api_qps;
  options.burst = 2 * flags.kube_api_qps;
  return options;
}

// The folder of the coordinator's key: the one that is given, or a new one that is removed at the
// end.
class IdentityDir {
 public:
  static absl::StatusOr<IdentityDir> Make(const std::string& given) {
    IdentityDir dir;
    dir.path_ = given;
    if (given.empty()) {
      dir.path_ = "/tmp/moe-controller-XXXXXX";
      dir.temporary_ = true;
      if (mkdtemp(dir.path_.data()) == nullptr) {
        return absl::ErrnoToStatus(errno, "cannot make a folder in /tmp; give --identity-dir");
      }
    } else if (mkdir(given.c_str(), 0700) != 0 && errno != EEXIST) {
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot make ", given));
    }
    return dir;
  }
  IdentityDir(IdentityDir&& other) noexcept { *this = std::move(other); }
  IdentityDir& operator=(IdentityDir&& other) noexcept {
    path_ = std::move(other.path_);
    temporary_ = std::exchange(other.temporary_, false);
    return *this;
  }
  ~IdentityDir() {
    std::error_code ignored;
    if (temporary_) std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  IdentityDir() = default;

  std::string path_;
  bool temporary_ = false;
};

}  // namespace

CLI::App* AddKubernetes(CLI::App* parent, KubernetesFlags* flags) {
  CLI::App* app = parent->add_subcommand(
      "kubernetes",
      "Run as the operator of a cluster: makes and leads what MoEDeployments ask for");
  app->footer(
      "In a cluster the Helm chart gives all that is needed. Several controllers may run: the one "
      "that\nholds the Lease moe-operator acts, the others stand by. SIGTERM releases the Lease; "
      "workers and\ngateways keep serving without any controller.\n\n"
      "Outside of a cluster, for development:\n"
      "  moe-controller kubernetes --namespace moe-system --pod-name me --pod-ip 10.0.0.1 \\\n"
      "    --worker-image moe-worker:dev --cuda-worker-image moe-worker-cuda:dev \\\n"
      "    --gateway-image moe-gateway:dev \\\n"
      "    --kube-server https://10.0.0.2:6443 --kube-ca ca.crt --kube-cert me.crt --kube-key "
      "me.key");

  auto* self = app->add_option_group("This controller");
  self->add_option("--namespace", flags->ns,
                   "Its namespace: the Lease and the certificate authority's Secret live there")
      ->envname("POD_NAMESPACE")
      ->required();
  self->add_option("--pod-name", flags->pod_name, "Its name, unique among the controllers")
      ->envname("POD_NAME")
      ->required();
  self->add_option(
          "--pod-ip", flags->pod_ip,
          "Where workers and gateways reach it; the other controllers send them here while "
          "this one leads")
      ->envname("POD_IP")
      ->required();
  self->add_option("--service-name", flags->service_name,
                   "The Service in front of all controllers, in their namespace: what workers and "
                   "gateways connect to, and the name in the coordinator's certificate")
      ->capture_default_str();
  self->add_option("--coordinator-port", flags->coordinator_port,
                   "gRPC for workers and gateways (TLS); the same for all controllers")
      ->check(CLI::Range(1, 65535))
      ->capture_default_str();
  self->add_option("--metrics-port", flags->metrics_port, "HTTP: /healthz, /readyz and /metrics")
      ->check(CLI::Range(1, 65535))
      ->capture_default_str();
  self->add_option("--identity-dir", flags->identity_dir,
                   "Private folder, best in memory, for the coordinator's key and certificate [a "
                   "new one in /tmp]");
  self->add_option("--reconcile-threads", flags->reconcile_threads,
                   "MoEDeployments that are worked on at once")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  self->add_flag("--verbose", flags->verbose, "Log more");

  auto* made = app->add_option_group("What it makes");
  made->add_option(
          "--worker-image", flags->worker_image,
          "Image of the workers of new MoEDeployments. A MoEDeployment keeps the one that it "
          "began with until its spec changes, so a new operator rolls no worker")
      ->envname("MOE_WORKER_IMAGE")
      ->required();
  made->add_option("--cuda-worker-image", flags->cuda_worker_image,
                   "The same, of those with backend: CUDA")
      ->envname("MOE_CUDA_WORKER_IMAGE")
      ->required();
  made->add_option("--gateway-image", flags->gateway_image, "Image of their gateways")
      ->envname("MOE_GATEWAY_IMAGE")
      ->required();
  made->add_option("--watch-namespaces", flags->watch_namespaces,
                   "Look at MoEDeployments of these namespaces only, for example a,b [all]")
      ->delimiter(',');
  made->add_flag("--ignore-nodes", flags->ignore_nodes,
                 "Do not read the cluster's nodes; parallelism.mode: Auto then can't decide for "
                 "backend CUDA");

  auto* api = app->add_option_group("API server");
  api->add_option("--kube-api-qps", flags->kube_api_qps,
                  "Requests each second on average; bursts may be twice as many")
      ->check(CLI::Range(1.0, 100000.0))
      ->capture_default_str();
  api->add_option("--kube-server", flags->kube_server,
                  "Its URL, for a controller outside of the cluster [the pod's service account]");
  api->add_option("--kube-ca", flags->kube_ca, "PEM file of the authority of its certificate")
      ->check(CLI::ExistingFile);
  auto* cert = api->add_option("--kube-cert", flags->kube_cert, "PEM file of a client certificate")
                   ->check(CLI::ExistingFile);
  auto* key = api->add_option("--kube-key", flags->kube_key, "PEM file of its key")
                  ->check(CLI::ExistingFile);
  cert->needs(key);
  key->needs(cert);
  api->add_option("--kube-token-file", flags->kube_token_file,
                  "File with a bearer token; it is read again when it changes")
      ->check(CLI::ExistingFile);
  return app;
}

int RunKubernetes(const KubernetesFlags& flags, int signal_fd) {
  spdlog::set_default_logger(spdlog::stderr_logger_mt("controller"));
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%e %l %v");
  spdlog::set_level(flags.verbose ? spdlog::level::debug : spdlog::level::info);

  absl::StatusOr<kube::ClientOptions> client = MakeClientOptions(flags);
  if (!client.ok()) return Complain(client.status());
  absl::StatusOr<IdentityDir> identity_dir = IdentityDir::Make(flags.identity_dir);
  if (!identity_dir.ok()) return Complain(identity_dir.status());

  std::atomic<bool> failed = false;
  OperatorOptions options;
  options.client = *std::move(client);
  options.ns = flags.ns;
  options.pod_name = flags.pod_name;
  options.pod_ip = flags.pod_ip;
  options.service_name = flags.service_name;
  options.worker_image = flags.worker_image;
  options.cuda_worker_image = flags.cuda_worker_image;
  options.gateway_image = flags.gateway_image;
  options.watch_namespaces = flags.watch_namespaces;
  options.read_nodes = !flags.ignore_nodes;
  options.coordinator_port = flags.coordinator_port;
  options.metrics_port = flags.metrics_port;
  options.identity_dir = identity_dir->path();
  options.reconcile_threads = flags.reconcile_threads;
  options.on_failure = [&failed](const absl::Status&) {
    failed.store(true);
    kill(getpid(), SIGTERM);  // wakes main, which waits for signals only
  };
  auto controller = Operator::Start(std::move(options));
  if (!controller.ok()) return Complain(controller.status());

  signalfd_siginfo info;
  while (read(signal_fd, &info, sizeof(info)) != sizeof(info)) {
  }
  spdlog::info("stopping: the Lease is released, workers and gateways serve on");
  (*controller)->Stop();
  return failed.load() ? kExitFailure : EXIT_SUCCESS;
}

}  // namespace moe::controller
