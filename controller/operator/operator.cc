#include "controller/operator/operator.h"

#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "controller/coordinator/certifier.h"
#include "controller/coordinator/server.h"
#include "controller/kube/backoff.h"
#include "controller/kube/client.h"
#include "controller/kube/events.h"
#include "controller/kube/resource_types.h"
#include "controller/kube/work_queue.h"
#include "controller/operator/ca_store.h"
#include "controller/operator/caches.h"
#include "controller/operator/leader_identity.h"
#include "controller/operator/operator_metrics.h"
#include "controller/operator/reconciler.h"
#include "controller/operator/token_reviewer.h"
#include "identity/credentials.h"
#include "identity/issued_identity.h"
#include "planner/catalog/built_in.h"
#include "spdlog/spdlog.h"
#include "telemetry/status_server.h"

namespace moe::controller {
namespace {

constexpr absl::Duration kMaxBackoff = absl::Seconds(30);
// Changes come in crowds: a thousand pods that start are looked at a few times, not a thousand.
constexpr absl::Duration kGather = absl::Milliseconds(20);
// How often a standby looks who leads.
constexpr absl::Duration kHousekeeping = absl::Milliseconds(200);
constexpr absl::Duration kMaxReconcileBackoff = absl::Seconds(30);

// Under which clients look for the Service.
std::vector<std::string> DnsNames(const std::string& service, const std::string& ns) {
  return {service, absl::StrCat(service, ".", ns), absl::StrCat(service, ".", ns, ".svc"),
          absl::StrCat(service, ".", ns, ".svc.cluster.local")};
}

}  // namespace

class Operator::Impl {
 public:
  explicit Impl(OperatorOptions options)
      : options_(std::move(options)),
        identity_(LeaderIdentity(options_.pod_name, options_.pod_ip)) {}

  ~Impl() { Stop(); }

  absl::Status Start() {
    auto devices = planner::BuiltInDevices();
    if (!devices.ok()) return devices.status();
    devices_ = *std::move(devices);
    auto network = planner::DefaultNetwork();
    if (!network.ok()) return network.status();
    network_ = *std::move(network);
    auto client = kube::Client::Create(options_.client);
    if (!client.ok()) return client.status();
    client_ = *std::move(client);
    api_ = std::make_unique<CountingApi>(client_.get(), &metrics_);
    caches_ = std::make_unique<Caches>(
        *client_,
        CachesOptions{.namespaces = options_.watch_namespaces,
                      .nodes = options_.read_nodes,
                      .first_backoff = options_.first_backoff},
        [this](const kube::ObjectKey& deployment) { queue_.AddAfter(deployment, kGather); });
    metrics_.SetSources({.queue_depth = [this] { return queue_.depth(); },
                         .num_watch_restarts = [this] { return caches_->num_watch_restarts(); }});
    auto status_server = telemetry::StatusServer::Start(
        {.address = absl::StrCat(options_.listen_host, ":", options_.metrics_port),
         .metrics = &metrics_,
         .not_ready_reason = [this] { return NotReadyReason(); }});
    if (!status_server.ok()) return status_server.status();
    status_server_ = *std::move(status_server);
    caches_->Start();
    thread_ = std::thread([this] { Run(); });
    return absl::OkStatus();
  }

  void Stop() {
    bool begun = false;
    {
      absl::MutexLock lock(&mu_);
      if (std::exchange(stopping_, true)) return;
      begun = begun_;
    }
    // There is no Lease to release yet, and a request may take long where nobody answers.
    if (!begun && client_ != nullptr) client_->Shutdown();
    if (thread_.joinable()) thread_.join();
    // In this order: nobody acts any more, the Lease is free, nothing is waited for.
    if (elector_ != nullptr) elector_->Stop();
    status_server_.reset();
    reconciler_.reset();
    events_.reset();
    if (client_ != nullptr) client_->Shutdown();
    if (caches_ != nullptr) caches_->Stop();
    if (server_ != nullptr) server_->Shutdown();
    certifier_.reset();
  }

  bool leads() const {
    absl::MutexLock lock(&mu_);
    return led_;
  }

  std::string NotReadyReason() const {
    {
      absl::MutexLock lock(&mu_);
      if (!begun_) return problem_.empty() ? "starting" : problem_;
    }
    return caches_->synced() ? "" : "the API server's objects are not all known yet";
  }

  std::string coordinator_address() const {
    absl::MutexLock lock(&mu_);
    return begun_ ? server_->address() : "";
  }

  int metrics_port() const { return status_server_->port(); }

 private:
  // ---- The operator's own thread ----

  bool stopping() const {
    absl::MutexLock lock(&mu_);
    return stopping_;
  }

  // False when the operator is stopping.
  bool Sleep(absl::Duration duration) {
    absl::MutexLock lock(&mu_);
    mu_.AwaitWithTimeout(absl::Condition(&stopping_), duration);
    return !stopping_;
  }

  void Run() {
    kube::Backoff backoff(options_.first_backoff, kMaxBackoff);
    while (true) {
      auto authority = ReadOrCreateCa(api_.get(), options_.ns, absl::Now());
      if (authority.ok()) {
        authority_ = *std::move(authority);
        break;
      }
      spdlog::warn("no certificate authority yet: {}", std::string(authority.status().message()));
      {
        absl::MutexLock lock(&mu_);
        problem_ = absl::StrCat("no certificate authority yet: ", authority.status().message());
      }
      if (!Sleep(backoff.Next(0))) return;
    }
    if (absl::Status status = Begin(); !status.ok()) {
      spdlog::error("{}", std::string(status.message()));
      {
        absl::MutexLock lock(&mu_);
        problem_ = std::string(status.message());
      }
      if (options_.on_failure) options_.on_failure(status);
      return;
    }
    while (Sleep(kHousekeeping)) ShowLeader();
  }

  absl::Status Begin() {
    identity::CertificateNames names;
    names.common_name = options_.service_name;
    names.dns_names = DnsNames(options_.service_name, options_.ns);
    names.ip_addresses = {options_.pod_ip};
    auto certificate =
        identity::IssuedIdentity::Start(authority_, std::move(names), options_.identity_dir);
    if (!certificate.ok()) return certificate.status();
    certificate_ = *std::move(certificate);
    reviewer_ = std::make_unique<TokenReviewer>(
        api_.get(),
        TokenReviewer::Directory{
            .pod = [this](const kube::ObjectKey& key) { return caches_->Get(kube::kPods, key); },
            .deployment =
                [this](const kube::ObjectKey& key) {
                  return caches_->Get(kube::kMoeDeployments, key);
                }});
    certifier_ = std::make_unique<coordinator::Certifier>(coordinator::CertifierOptions{},
                                                          reviewer_.get(), authority_);
    coordinator::ServerOptions server_options;
    server_options.listen_address =
        absl::StrCat(options_.listen_host, ":", options_.coordinator_port);
    server_options.credentials = identity::MakeServerCredentials(
        certificate_->files(), identity::PeerCertificate::kOptional);
    server_options.certifier = certifier_.get();
    server_options.leading = false;
    auto server = coordinator::CoordinatorServer::Start(std::move(server_options));
    if (!server.ok()) return server.status();
    server_ = *std::move(server);

    kube::EventOptions event_options;
    event_options.instance = options_.pod_name;
    events_ = std::make_unique<kube::EventRecorder>(*api_, event_options);
    ReconcilerOptions reconciler_options;
    reconciler_options.num_threads = options_.reconcile_threads;
    reconciler_options.devices = devices_;
    reconciler_options.network = network_;
    reconciler_options.context = {
        .operator_namespace = options_.ns,
        .coordinator_address = absl::StrCat(options_.service_name, ".", options_.ns,
                                            ".svc:", options_.coordinator_port),
        .worker_image = options_.worker_image,
        .gateway_image = options_.gateway_image,
        .ca_bundle_pem = authority_->certificate_pem()};
    reconciler_options.cuda_worker_image = options_.cuda_worker_image;
    reconciler_ = std::make_unique<Reconciler>(
        Reconciler::Parts{.api = api_.get(),
                          .caches = caches_.get(),
                          .server = server_.get(),
                          .queue = &queue_,
                          .events = events_.get(),
                          .metrics = &metrics_,
                          .leads = [this] { return elector_->is_leader(); }},
        std::move(reconciler_options));
    kube::LeaseOptions lease;
    lease.key = {options_.ns, options_.lease_name};
    lease.identity = identity_;
    lease.duration = options_.lease_duration;
    lease.renew_deadline = options_.lease_renew_deadline;
    lease.retry_period = options_.lease_retry_period;
    elector_ = std::make_unique<kube::LeaseElector>(
        *api_, lease,
        kube::LeaseElector::Callbacks{.started = [this] { Lead(); },
                                      .stopped = [this] { StandBy(); },
                                      .leader = [](const std::string& /*identity*/) {}});
    reconciler_->Start();
    {
      absl::MutexLock lock(&mu_);
      begun_ = true;
    }
    elector_->Start();
    return absl::OkStatus();
  }

  // Where the leader is, for those who come here. The elector's own callback must not wait.
  void ShowLeader() {
    const std::string leader = elector_->leader();
    absl::MutexLock lock(&leading_mu_);
    if (leading_ || leader == shown_leader_) return;
    shown_leader_ = leader;
    server_->SetLeading(false, leader == identity_ ? "" : AddressOf(leader));
  }

  std::string AddressOf(const std::string& identity) const {
    return LeaderAddress(identity, options_.coordinator_port);
  }

  // ---- The elector's thread ----

  void Lead() {
    caches_->StartPods();
    // What this controller does not know yet it would take for gone.
    while (!caches_->synced()) {
      if (stopping() || !elector_->is_leader()) return;
      absl::SleepFor(absl::Milliseconds(20));
    }
    spdlog::info("{} leads", identity_);
    {
      absl::MutexLock lock(&leading_mu_);
      leading_ = true;
      server_->SetLeading(true, "");
    }
    reconciler_->Begin();
    metrics_.SetLeader(true);
    absl::MutexLock lock(&mu_);
    led_ = true;
  }

  void StandBy() {
    spdlog::info("{} does not lead any more", identity_);
    metrics_.SetLeader(false);
    {
      absl::MutexLock lock(&mu_);
      led_ = false;
    }
    {
      absl::MutexLock lock(&leading_mu_);
      leading_ = false;
      shown_leader_ = elector_->leader();
      server_->SetLeading(false, shown_leader_ == identity_ ? "" : AddressOf(shown_leader_));
    }
    reconciler_->End();
  }

  const OperatorOptions options_;
  const std::string identity_;
  std::vector<planner::Device> devices_;
  planner::Network network_;
  // In the order in which they depend on each other.
  OperatorMetrics metrics_;
  kube::WorkQueue queue_{kube::WorkQueueOptions{.max_backoff = kMaxReconcileBackoff}};
  std::unique_ptr<kube::Client> client_;
  std::unique_ptr<CountingApi> api_;
  std::unique_ptr<Caches> caches_;
  std::unique_ptr<telemetry::StatusServer> status_server_;
  // Made by the operator's own thread, used by others once `begun_`.
  std::shared_ptr<const identity::CertificateAuthority> authority_;
  std::unique_ptr<identity::IssuedIdentity> certificate_;
  std::unique_ptr<TokenReviewer> reviewer_;
  std::unique_ptr<coordinator::Certifier> certifier_;
  std::unique_ptr<coordinator::CoordinatorServer> server_;
  std::unique_ptr<kube::EventRecorder> events_;
  std::unique_ptr<Reconciler> reconciler_;
  std::unique_ptr<kube::LeaseElector> elector_;
  std::thread thread_;

  mutable absl::Mutex mu_;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  bool begun_ ABSL_GUARDED_BY(mu_) = false;
  bool led_ ABSL_GUARDED_BY(mu_) = false;
  std::string problem_ ABSL_GUARDED_BY(mu_);

  absl::Mutex leading_mu_;  // of what the server was told
  bool leading_ ABSL_GUARDED_BY(leading_mu_) = false;
  std::string shown_leader_ ABSL_GUARDED_BY(leading_mu_);
};

absl::StatusOr<std::unique_ptr<Operator>> Operator::Start(OperatorOptions options) {
  for (const auto& [name, value] :
       {std::pair("namespace", &options.ns), std::pair("pod's name", &options.pod_name),
        std::pair("pod's IP", &options.pod_ip), std::pair("Service's name", &options.service_name),
        std::pair("worker image", &options.worker_image),
        std::pair("CUDA worker image", &options.cuda_worker_image),
        std::pair("gateway image", &options.gateway_image),
        std::pair("identity folder", &options.identity_dir)}) {
    if (value->empty()) return absl::InvalidArgumentError(absl::StrCat("the ", name, " is empty"));
  }
  auto impl = std::make_unique<Impl>(std::move(options));
  if (absl::Status status = impl->Start(); !status.ok()) return status;
  return std::unique_ptr<Operator>(new Operator(std::move(impl)));
}

Operator::Operator(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Operator::~Operator() = default;

void Operator::Stop() { impl_->Stop(); }
bool Operator::leads() const { return impl_->leads(); }
std::string Operator::NotReadyReason() const { return impl_->NotReadyReason(); }
std::string Operator::coordinator_address() const { return impl_->coordinator_address(); }
int Operator::metrics_port() const { return impl_->metrics_port(); }

}  // namespace moe::controller
