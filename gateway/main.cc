// moe-gateway: the OpenAI HTTP API of the groups of one deployment.
//
// Starts before its engine: /health answers 503 until a leader is there. SIGTERM or SIGINT: unready
// first, running requests finish (at most --drain-seconds), exit 0; a second one exits at once.
//
// In a cluster (--token-file) it first gets a certificate from the coordinator, then talks TLS to
// it and to the leaders.
//
// Tested by tests/gateway/http/openai_client_test.py, rolling_test.py and tests/system.
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "CLI/CLI.hpp"
#include "absl/cleanup/cleanup.h"
#include "absl/random/random.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gateway/drain.h"
#include "gateway/http/api_key.h"
#include "gateway/http/api_server.h"
#include "gateway/http/metrics_server.h"
#include "gateway/journal/engine_client.h"
#include "gateway/metrics/gateway_metrics.h"
#include "gateway/serving/served_model.h"
#include "gateway/stats_line.h"
#include "identity/credentials.h"
#include "identity/enrollment.h"
#include "worker/model/model_files.h"

namespace moe::gateway {
namespace {

struct Flags {
  std::string coordinator;
  std::string deployment;
  std::string token_file;
  std::string ca_file;
  std::string identity_dir;
  std::string model_dir;
  std::string served_name;
  std::string host = "127.0.0.1";
  int port = 8000;
  int metrics_port = 0;
  std::string api_key_file;
  bool open_metrics = false;
  int max_concurrent_requests = 256;
  int max_connections = 2048;
  int max_body_mib = 8;
  double drain_seconds = 30;
  double unready_seconds = 0;
  double failover_seconds = 120;
  double stats_interval = 10;
  int parent_pid = 0;
};

void AddFlags(CLI::App& app, Flags& flags) {
  app.add_option("--coordinator", flags.coordinator,
                 "gRPC address of the coordinator, for example unix:/run/moe/coordinator.sock")
      ->required();
  app.add_option("--deployment", flags.deployment,
                 "'NAMESPACE/NAME' of the deployment whose groups serve; without it, the one group "
                 "of a local coordinator");
  CLI::Option* token = app.add_option(
      "--token-file", flags.token_file,
      "Service-account token for the coordinator; with it, everything is spoken over TLS");
  CLI::Option* ca =
      app.add_option("--ca-file", flags.ca_file, "The coordinator's certificate authority, PEM");
  CLI::Option* identity = app.add_option("--identity-dir", flags.identity_dir,
                                         "Private folder for this process's key and certificate");
  token->needs(ca)->needs(identity);
  ca->needs(token);
  identity->needs(token);
  app.add_option("--model", flags.model_dir, "Folder of the model; its tokenizer and chat template")
      ->required()
      ->check(CLI::ExistingDirectory);
  app.add_option("--served-model-name", flags.served_name,
                 "What clients call the model (default: the folder's name)");
  app.add_option("--host", flags.host, "Address to listen on")->capture_default_str();
  app.add_option("--port", flags.port, "Port to listen on; 0 takes any free one")
      ->capture_default_str()
      ->check(CLI::Range(0, 65535));
  app.add_option(
         "--metrics-port", flags.metrics_port,
         "Port that answers /metrics, /health and /ready without a key, and nothing else; 0 "
         "is none")
      ->capture_default_str()
      ->check(CLI::Range(0, 65535));
  app.add_option("--api-key-file", flags.api_key_file,
                 "File with the key that clients must send as 'Authorization: Bearer KEY'; read "
                 "again when it changes. Without it, the environment variable MOE_API_KEY; without "
                 "that, no key is needed")
      ->check(CLI::ExistingFile);
  app.add_flag("--open-metrics", flags.open_metrics, "Serve /metrics without the key");
  app.add_option("--max-concurrent-requests", flags.max_concurrent_requests,
                 "Completions answered at once; more get a 503 with Retry-After")
      ->capture_default_str()
      ->check(CLI::Range(1, 4096));
  app.add_option("--max-connections", flags.max_connections,
                 "Open connections; above, the one that idles longest is closed")
      ->capture_default_str()
      ->check(CLI::Range(16, 65536));
  app.add_option("--max-body-mib", flags.max_body_mib, "Largest request body")
      ->capture_default_str()
      ->check(CLI::Range(1, 256));
  app.add_option(
         "--unready-seconds", flags.unready_seconds,
         "After SIGTERM, while /health and /ready answer 503: new requests are taken until none "
         "has come for so long, so that load balancers notice first; at most for half of "
         "this and --drain-seconds together")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 3600.0));
  app.add_option("--drain-seconds", flags.drain_seconds,
                 "After that: how long running requests may take to finish")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 86400.0));
  app.add_option("--failover-seconds", flags.failover_seconds,
                 "How long a request waits for an engine to take it, or to take it over")
      ->capture_default_str()
      ->check(CLI::Range(1.0, 86400.0));
  app.add_option("--stats-interval", flags.stats_interval,
                 "Seconds between lines of statistics under load; 0 is never")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 86400.0));
  app.add_option("--parent-pid", flags.parent_pid,
                 "End at once when this process, which must be the parent, has ended");
}

absl::StatusOr<std::string> ReadApiKey(const Flags& flags) {
  std::string key;
  if (!flags.api_key_file.empty()) {
    absl::StatusOr<std::string> read = ReadApiKeyFile(flags.api_key_file);
    if (!read.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("--api-key-file: ", read.status().message()));
    }
    key = *std::move(read);
  } else if (const char* value = std::getenv("MOE_API_KEY"); value != nullptr) {
    key = std::string(absl::StripAsciiWhitespace(value));
    if (key.empty()) {
      return absl::InvalidArgumentError("MOE_API_KEY is set and empty");
    }
  }
  unsetenv("MOE_API_KEY");  // not for whoever reads this process's environment later
  return key;
}

// Without this, a gateway would outlive a parent that is killed.
absl::Status FollowParent(int parent_pid) {
  if (parent_pid == 0) {
    return absl::OkStatus();
  }
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) {
    return absl::InternalError("can't ask for a signal when the parent ends");
  }
  // It may have ended before the call.
  return getppid() == parent_pid ? absl::OkStatus()
                                 : absl::FailedPreconditionError("the parent process has ended");
}

// The default soft limit of 1024 is less than the connections that are allowed.
void RaiseDescriptorLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
  }
}

std::string DefaultName(const std::string& model_dir) {
  std::filesystem::path path = std::filesystem::weakly_canonical(model_dir);
  return path.filename().empty() ? "model" : path.filename().string();
}

ApiServerOptions ServerOptions(const Flags& flags, std::string api_key) {
  ApiServerOptions options;
  options.http.host = flags.host;
  options.http.port = flags.port;
  options.http.max_posts = flags.max_concurrent_requests;
  options.http.connections.max_connections = flags.max_connections;
  options.http.connections.request.max_body_bytes = static_cast<size_t>(flags.max_body_mib) << 20;
  options.admission.api_key = std::move(api_key);
  options.admission.open_metrics = flags.open_metrics;
  if (!flags.deployment.empty()) {
    options.hold = absl::Seconds(flags.failover_seconds);
  }
  options.version = MOE_VERSION;
  return options;
}

// The certificate that this process gets from the coordinator; null in local mode.
absl::StatusOr<std::unique_ptr<identity::Enrollment>> Enroll(const Flags& flags) {
  if (flags.token_file.empty()) {
    return nullptr;
  }
  identity::EnrollmentOptions options;
  options.coordinator = flags.coordinator;
  options.token_file = flags.token_file;
  options.ca_file = flags.ca_file;
  options.identity_dir = flags.identity_dir;
  return identity::Enrollment::Start(std::move(options));
}

// What tells the groups of this gateway's model from those of another, which a roll-out has beside
// them. In local mode there is one group, which is given the same folder.
absl::StatusOr<std::string> ReadModelDigest(const Flags& flags) {
  if (flags.deployment.empty()) {
    return "";
  }
  absl::StatusOr<model::ModelFiles> files = model::ReadModelFiles(flags.model_dir);
  if (!files.ok()) {
    return files.status();
  }
  return std::move(files->digest);
}

EngineClientOptions ClientOptions(const Flags& flags, std::string model_digest,
                                  identity::Enrollment* enrollment) {
  absl::BitGen random;
  EngineClientOptions options;
  options.coordinator = flags.coordinator;
  options.deployment = flags.deployment;
  options.gateway_id = absl::StrFormat("%d-%016x", getpid(), absl::Uniform<uint64_t>(random));
  options.journal.failover_deadline = absl::Seconds(flags.failover_seconds);
  options.journal.model_digest = std::move(model_digest);
  options.journal.log = [](const std::string& line) { std::fprintf(stderr, "%s\n", line.c_str()); };
  if (enrollment != nullptr) {
    options.credentials = [enrollment,
                           deployment = flags.deployment]() -> absl::StatusOr<EngineCredentials> {
      if (!enrollment->WaitForCertificate()) {
        return absl::CancelledError("the gateway stops");
      }
      return EngineCredentials{
          .coordinator = identity::MakeChannelCredentials(enrollment->files()),
          .leader = identity::MakeEngineChannelCredentials(enrollment->files(), deployment)};
    };
  }
  return options;
}

// Takes a changed key from its file over into the server. A Secret is rotated while it serves.
class KeyRotation {
 public:
  KeyRotation(ApiKeyFile file, ApiServer& server) : file_(std::move(file)), server_(server) {}

  // Call it often; it reads the file once each second.
  void Tick() {
    if (absl::Now() < next_) {
      return;
    }
    next_ = absl::Now() + absl::Seconds(1);
    std::optional<std::string> key = file_.Poll();
    if (key.has_value()) {
      server_.SetApiKey(*std::move(key));
      std::fprintf(stderr, "the API key has changed\n");
    }
    // Once for each time that it breaks.
    if (!file_.status().ok() && !broken_) {
      std::fprintf(stderr, "warning: --api-key-file: %s; the last key stays valid\n",
                   std::string(file_.status().message()).c_str());
    }
    broken_ = !file_.status().ok();
  }

 private:
  ApiKeyFile file_;
  ApiServer& server_;
  absl::Time next_ = absl::InfinitePast();
  bool broken_ = false;
};

// True when one of the two signals came.
bool WaitForSignal(const sigset_t& signals, absl::Duration timeout) {
  const timespec limit = absl::ToTimespec(timeout);
  return sigtimedwait(&signals, nullptr, &limit) > 0;
}

// Serves until a signal, then drains.
int Serve(const Flags& flags, const std::string& name, ApiServer& server, EngineClient& client,
          const GatewayMetrics& metrics, KeyRotation* key, const sigset_t& signals) {
  constexpr absl::Duration kTick = absl::Milliseconds(200);
  StatsLine stats(absl::Seconds(flags.stats_interval), absl::Now());
  bool announced = false;
  while (!WaitForSignal(signals, kTick)) {
    if (key != nullptr) {
      key->Tick();
    }
    if (!announced && client.view().serving) {
      announced = true;
      std::puts(ReadyLine(name, flags.host, server.port(), client.view()).c_str());
      std::fflush(stdout);
    }
    const std::optional<std::string> line =
        stats.Next(absl::Now(), metrics.num_prompt_tokens(), metrics.num_generated_tokens(),
                   [&client] { return client.view(); });
    if (line.has_value()) {
      std::fprintf(stderr, "%s\n", line->c_str());
    }
  }
  server.SetUnready();
  Drain drain(
      {.quiet = absl::Seconds(flags.unready_seconds), .finish = absl::Seconds(flags.drain_seconds)},
      absl::Now(), server.num_taken());
  bool is_draining = false;
  for (;;) {
    const Drain::Phase phase = drain.Next(absl::Now(), server.num_taken(), server.num_active());
    if (phase != Drain::Phase::kTakes && !std::exchange(is_draining, true)) {
      server.SetDraining();
      continue;  // a request may have come between the two
    }
    if (phase == Drain::Phase::kOver) {
      break;
    }
    if (key != nullptr) {
      key->Tick();
    }
    if (WaitForSignal(signals, absl::Milliseconds(20))) {
      _exit(EXIT_FAILURE);
    }
  }
  client.Stop();  // what still runs ends with an error
  server.Stop();
  return EXIT_SUCCESS;
}

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "error: %s\n", std::string(status.message()).c_str());
  return EXIT_FAILURE;
}

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App app("Serves the OpenAI HTTP API for groups of mixture-of-experts workers.");
  AddFlags(app, flags);
  CLI11_PARSE(app, argc, argv);
  // Before any thread, so that all inherit it: signals are for the main thread alone.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  identity::UseSystemResolver();
  if (absl::Status status = FollowParent(flags.parent_pid); !status.ok()) {
    return Fail(status);
  }
  RaiseDescriptorLimit();
  absl::StatusOr<std::string> api_key = ReadApiKey(flags);
  if (!api_key.ok()) {
    return Fail(api_key.status());
  }
  const std::string name =
      flags.served_name.empty() ? DefaultName(flags.model_dir) : flags.served_name;
  const absl::StatusOr<ServedModel> model = LoadServedModel(flags.model_dir, name);
  if (!model.ok()) {
    return Fail(model.status());
  }
  absl::StatusOr<std::string> digest = ReadModelDigest(flags);
  if (!digest.ok()) {
    return Fail(digest.status());
  }
  absl::StatusOr<std::unique_ptr<identity::Enrollment>> enrollment = Enroll(flags);
  if (!enrollment.ok()) {
    return Fail(enrollment.status());
  }
  EngineClient client(ClientOptions(flags, *std::move(digest), enrollment->get()));
  // Before the client ends: it may wait for a certificate.
  const absl::Cleanup stop_enrollment = [&enrollment] {
    if (*enrollment != nullptr) {
      (*enrollment)->Stop();
    }
  };
  GatewayMetrics metrics(name, model->max_context > 0 ? model->max_context : 4096);
  std::optional<ApiKeyFile> key_file;
  if (!flags.api_key_file.empty()) {
    key_file.emplace(flags.api_key_file, *api_key);
  }
  ApiServer server(ServerOptions(flags, *std::move(api_key)), *model, client, metrics);
  std::optional<KeyRotation> rotation;
  if (key_file.has_value()) {
    rotation.emplace(*std::move(key_file), server);
  }
  std::optional<MetricsServer> metrics_server;
  if (flags.metrics_port != 0) {
    metrics_server.emplace(flags.host, flags.metrics_port, server);
    if (absl::Status status = metrics_server->Start(); !status.ok()) {
      return Fail(status);
    }
  }
  if (absl::Status status = server.Start(); !status.ok()) {
    return Fail(status);
  }
  return Serve(flags, name, server, client, metrics, rotation.has_value() ? &*rotation : nullptr,
               signals);
}

}  // namespace
}  // namespace moe::gateway

int main(int argc, char** argv) { return moe::gateway::Main(argc, argv); }
