// The OpenAI HTTP API over a Generator.
//
//   POST /v1/completions, /v1/chat/completions    GET /v1/models, /v1/models/NAME
//   GET /health (200 while a group serves; never needs a key)
//   GET /ready  (200 while requests are taken, if need be held until a group serves; never a key)
//   GET /metrics, /moe/status, /version
//
// Tested by tests/gateway/http/http_faults_test.cc, api_server_test.cc and openai_client_test.py.
#ifndef MOE_GATEWAY_HTTP_API_SERVER_H_
#define MOE_GATEWAY_HTTP_API_SERVER_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/random/random.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "gateway/http/admission.h"
#include "gateway/http/http_server.h"
#include "gateway/journal/generation.h"
#include "gateway/metrics/gateway_metrics.h"
#include "gateway/openai/api_error.h"
#include "gateway/openai/parse.h"
#include "gateway/serving/job.h"
#include "gateway/serving/run.h"
#include "gateway/serving/served_model.h"

namespace moe::gateway {

struct ApiServerOptions {
  HttpServerOptions http;
  AdmissionRules admission;
  ParseLimits parse;  // vocab_size is the engine's
  RunOptions run;
  // A JSON value takes many times the memory of its text. Bodies above this size are parsed only
  // so many at a time.
  size_t large_body_bytes = size_t{256} << 10;
  int max_large_bodies = 2;
  // How long a completion waits for the first engine of this gateway's life. Later, the engine's
  // absence is the Generator's matter.
  absl::Duration hold = absl::ZeroDuration();
  // A POST that a proxy forwarded (X-Forwarded-For) is answered no sooner than this after its last
  // byte: a proxy on Go's net/http that meets an answer on its way to the end of the request's body
  // cuts it (golang/go#40747). Less than the first token of a model that is worth a proxy takes.
  absl::Duration proxied_answer_delay = absl::Milliseconds(25);
  std::string version;
};

class ApiServer {
 public:
  // Model, generator and metrics outlive the server.
  ApiServer(ApiServerOptions options, const ServedModel& model, Generator& generator,
            GatewayMetrics& metrics);
  // Stops.
  ~ApiServer();
  ApiServer(const ApiServer&) = delete;
  ApiServer& operator=(const ApiServer&) = delete;

  absl::Status Start() { return http_.Start(); }
  void Stop() {
    SetDraining();  // what is held ends
    http_.Stop();
  }
  int port() const { return http_.port(); }

  // From now on clients must send this key.
  void SetApiKey(std::string key);
  // From now on /health and /ready answer 503, and each answer is the last of its connection: who
  // keeps connections open would not notice that others are ready instead.
  void SetUnready() {
    unready_.store(true);
    http_.SetLeaving();
  }
  // From now on new completions are refused with 503; those that run go on.
  void SetDraining() { draining_.store(true); }
  // Completions that were not refused for draining, since the start.
  uint64_t num_taken() const { return num_taken_.load(); }
  // Completions in progress.
  int num_active() const { return num_active_.load(); }

  // kHealth, kReady or kMetrics, for a listener of its own.
  void AnswerOpen(Route route, httplib::Response& response);

 private:
  struct Answer;  // a job and its run

  HttpServer::Handlers MakeHandlers();
  bool AnswerWithoutBody(const httplib::Request& request, httplib::Response& response);
  void AnswerPost(const httplib::Request& request, httplib::Response& response,
                  const httplib::ContentReader& reader);
  void AnswerGet(Route route, const httplib::Request& request, httplib::Response& response);
  AdmissionRules Rules();
  // Waits until it is known what the engine can take.
  std::optional<ApiError> AwaitEngine(const httplib::Request& request,
                                      engine::v1::Welcome* welcome);
  // Reads, parses and tokenizes the body.
  std::optional<ApiError> BuildJob(Route route, const httplib::Request& request,
                                   const httplib::ContentReader& reader, Job* job);
  void Stream(const httplib::Request& request, httplib::Response& response,
              std::shared_ptr<Answer> answer);
  void CountAnswer(const std::string& target, int status);
  uint64_t Draw();

  const ApiServerOptions options_;
  const ServedModel& model_;
  Generator& generator_;
  GatewayMetrics& metrics_;
  const absl::Time started_ = absl::Now();
  std::atomic<bool> unready_{false};
  std::atomic<bool> draining_{false};
  std::atomic<uint64_t> num_taken_{0};
  std::atomic<int> num_active_{0};
  absl::Mutex mutex_;
  AdmissionRules rules_ ABSL_GUARDED_BY(mutex_);
  int num_large_bodies_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::BitGen random_ ABSL_GUARDED_BY(mutex_);
  HttpServer http_;  // last: its threads use the rest
};

}  // namespace moe::gateway

#endif  // MOE_GATEWAY_HTTP_API_SERVER_H_
