// moe-gateway: the OpenAI HTTP API of one group.
//
// Starts before its engine: /health answers 503 until a leader is there. SIGTERM or SIGINT: unready
// first, running requests finish (at most --drain-seconds), exit 0; a second one exits at once.
//
// Tested by tests/gateway/http/api_server_test.cc and tests/system.
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "CLI/CLI.hpp"
#include "absl/random/random.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gateway/http/api_server.h"
#include "gateway/journal/engine_client.h"
#include "gateway/metrics/gateway_metrics.h"
#include "gateway/serving/served_model.h"
#include "gateway/stats_line.h"

namespace moe::gateway {
namespace {

struct Flags {
  std::string coordinator;
  std::string model_dir;
  std::string served_name;
  std::string host = "127.0.0.1";
  int port = 8000;
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
  app.add_option("--model", flags.model_dir, "Folder of the model; its tokenizer and chat template")
      ->required()
      ->check(CLI::ExistingDirectory);
  app.add_option("--served-model-name", flags.served_name,
                 "What clients call the model (default: the folder's name)");
  app.add_option("--host", flags.host, "Address to listen on")->capture_default_str();
  app.add_option("--port", flags.port, "Port to listen on; 0 takes any free one")
      ->capture_default_str()
      ->check(CLI::Range(0, 65535));
  app.add_option("--api-key-file", flags.api_key_file,
                 "File with the key that clients must send as 'Authorization: Bearer KEY'. Without "
                 "it, the environment variable MOE_API_KEY; without that, no key is needed")
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
  app.add_option("--unready-seconds", flags.unready_seconds,
                 "After SIGTERM: how long new requests are still taken while /health answers 503, "
                 "so that load balancers notice first")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 3600.0));
  app.add_option("--drain-seconds", flags.drain_seconds,
                 "After that: how long running requests may take to finish")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 86400.0));
  app.add_option("--failover-seconds", flags.failover_seconds,
                 "How long a request waits for an engine to take it over")
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
    std::ifstream file(flags.api_key_file);
    std::getline(file, key);
    key = std::string(absl::StripAsciiWhitespace(key));
    if (key.empty()) {
      return absl::InvalidArgumentError("--api-key-file: the file holds no key");
    }
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
  options.version = MOE_VERSION;
  return options;
}

// True when one of the two signals came.
bool WaitForSignal(const sigset_t& signals, absl::Duration timeout) {
  const timespec limit = absl::ToTimespec(timeout);
  return sigtimedwait(&signals, nullptr, &limit) > 0;
}

// Serves until a signal, then drains.
int Serve(const Flags& flags, const std::string& name, ApiServer& server, EngineClient& client,
          const GatewayMetrics& metrics, const sigset_t& signals) {
  constexpr absl::Duration kTick = absl::Milliseconds(200);
  StatsLine stats(absl::Seconds(flags.stats_interval), absl::Now());
  bool announced = false;
  while (!WaitForSignal(signals, kTick)) {
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
  const absl::Time draining = absl::Now() + absl::Seconds(flags.unready_seconds);
  const absl::Time deadline = draining + absl::Seconds(flags.drain_seconds);
  for (absl::Time now = absl::Now(); now < deadline; now = absl::Now()) {
    if (now >= draining) {
      server.SetDraining();
      if (server.num_active() == 0) {
        break;
      }
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
  CLI::App app("Serves the OpenAI HTTP API for one group of mixture-of-experts workers.");
  AddFlags(app, flags);
  CLI11_PARSE(app, argc, argv);
  // Before any thread, so that all inherit it: signals are for the main thread alone.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
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
  absl::BitGen random;
  EngineClientOptions client_options;
  client_options.coordinator = flags.coordinator;
  client_options.gateway_id =
      absl::StrFormat("%d-%016x", getpid(), absl::Uniform<uint64_t>(random));
  client_options.journal.failover_deadline = absl::Seconds(flags.failover_seconds);
  EngineClient client(std::move(client_options));
  GatewayMetrics metrics(name, model->max_context > 0 ? model->max_context : 4096);
  ApiServer server(ServerOptions(flags, *std::move(api_key)), *model, client, metrics);
  if (absl::Status status = server.Start(); !status.ok()) {
    return Fail(status);
  }
  return Serve(flags, name, server, client, metrics, signals);
}

}  // namespace
}  // namespace moe::gateway

int main(int argc, char** argv) { return moe::gateway::Main(argc, argv); }
