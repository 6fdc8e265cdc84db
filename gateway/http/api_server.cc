// See api_server.h.
#include "gateway/http/api_server.h"

#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "gateway/http/group_status.h"
#include "gateway/journal/engine_view.h"
#include "gateway/openai/response.h"

namespace moe::gateway {
namespace {

constexpr char kJson[] = "application/json";

void SetError(const ApiError& error, httplib::Response& response) {
  response.status = error.status;
  if (error.retry_after_seconds > 0) {
    response.set_header("Retry-After", std::to_string(error.retry_after_seconds));
  }
  response.set_content(ErrorJson(error), kJson);
}

std::string DefaultReason(int status) {
  switch (status) {
    case 404:
      return "There is nothing at this path.";
    case 413:
      return "The request's body is too large.";
    default:
      return status < 500 ? "The request is malformed." : "";
  }
}

template <typename Headers>
AdmissionRequest MakeAdmissionRequest(absl::string_view method, absl::string_view target,
                                      const Headers& headers) {
  AdmissionRequest request;
  request.method = method;
  request.target = target;
  request.authorization = headers("Authorization");
  request.content_type = headers("Content-Type");
  request.content_encoding = headers("Content-Encoding");
  return request;
}

// Counts one more for as long as it lives.
class Counted {
 public:
  explicit Counted(std::atomic<int>& counter) : counter_(counter) { counter_.fetch_add(1); }
  ~Counted() { counter_.fetch_sub(1); }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;

 private:
  std::atomic<int>& counter_;
};

}  // namespace

struct ApiServer::Answer {
  explicit Answer(std::atomic<int>& num_active) : counted(num_active) {}

  const Counted counted;
  Job job;
  std::optional<Run> run;
};

ApiServer::ApiServer(ApiServerOptions options, const ServedModel& model, Generator& generator,
                     GatewayMetrics& metrics)
    : options_(std::move(options)),
      model_(model),
      generator_(generator),
      metrics_(metrics),
      rules_(options_.admission),
      http_(options_.http, MakeHandlers()) {}

ApiServer::~ApiServer() { Stop(); }

HttpServer::Handlers ApiServer::MakeHandlers() {
  HttpServer::Handlers handlers;
  handlers.wants_body = [this](const RequestHead& head) {
    const auto header = [&head](const char* name) { return head.Header(name); };
    // A body where none belongs is not read either.
    return head.method == "POST" &&
           Admit(MakeAdmissionRequest(head.method, head.target, header), Rules()).status == 200;
  };
  handlers.answer = [this](const httplib::Request& request, httplib::Response& response) {
    return AnswerWithoutBody(request, response);
  };
  handlers.post_paths = {RouteName(Route::kCompletions), RouteName(Route::kChatCompletions)};
  handlers.post = [this](const httplib::Request& request, httplib::Response& response,
                         const httplib::ContentReader& reader) {
    AnswerPost(request, response, reader);
  };
  handlers.error_body = [](int status, const std::string& reason) {
    return ErrorJson(status == 500
                         ? InternalError()
                         : HttpError(status, reason.empty() ? DefaultReason(status) : reason));
  };
  handlers.on_answer = [this](const std::string& path, int status) { CountAnswer(path, status); };
  return handlers;
}

void ApiServer::CountAnswer(const std::string& target, int status) {
  metrics_.OnHttp(RouteName(RouteOf(target)), status);
  if (status == 401) {
    metrics_.OnRejected(RejectedReason::kUnauthorized);
  } else if (status == 413) {
    metrics_.OnRejected(RejectedReason::kTooLarge);
  } else if (status == 429) {
    metrics_.OnRejected(RejectedReason::kQueueFull);
  } else if (status == 503 && RouteOf(target) != Route::kHealth &&
             RouteOf(target) != Route::kReady) {
    // Only the connection loop answers without a path.
    metrics_.OnRejected(target.empty() ? RejectedReason::kOverload : RejectedReason::kUnavailable);
  } else if (status >= 400 && status < 499) {
    metrics_.OnRejected(RejectedReason::kMalformed);
  }
}

AdmissionRules ApiServer::Rules() {
  absl::MutexLock lock(&mutex_);
  return rules_;
}

void ApiServer::SetApiKey(std::string key) {
  absl::MutexLock lock(&mutex_);
  rules_.api_key = std::move(key);
}

uint64_t ApiServer::Draw() {
  absl::MutexLock lock(&mutex_);
  return absl::Uniform<uint64_t>(random_);
}

bool ApiServer::AnswerWithoutBody(const httplib::Request& request, httplib::Response& response) {
  response.set_header("X-Request-Id", EchoedRequestId(request.get_header_value("X-Request-Id"),
                                                      absl::StrFormat("%016x", Draw())));
  std::string values[3];
  int num_values = 0;
  const auto header = [&](const char* name) -> absl::string_view {
    return values[num_values++] = request.get_header_value(name);
  };
  const Admission admission =
      Admit(MakeAdmissionRequest(request.method, request.target, header), Rules());
  if (admission.status == 204 || admission.status == 405) {
    response.set_header("Allow", admission.allow);
  }
  if (admission.status == 204) {
    response.status = 204;
    return true;
  }
  if (admission.status == 401) {
    response.set_header("WWW-Authenticate", "Bearer");
  }
  if (admission.status != 200) {
    SetError(HttpError(admission.status, admission.message), response);
    return true;
  }
  if (request.method == "POST") {
    return false;
  }
  AnswerGet(admission.route, request, response);
  return true;
}

void ApiServer::AnswerOpen(Route route, httplib::Response& response) {
  if (route == Route::kMetrics) {
    response.set_content(metrics_.Serialize(generator_.view()),
                         "text/plain; version=0.0.4; charset=utf-8");
    return;
  }
  if (unready_.load()) {
    SetError(Unavailable("The server is shutting down."), response);
    return;
  }
  const EngineView view = generator_.view();
  // While another model serves and this gateway's does not, its requests would only wait: they are
  // for the other gateways.
  const bool left_to_others = view.other_model_serves && !view.serving;
  const bool takes_requests =
      !left_to_others && (options_.hold > absl::ZeroDuration() || view.welcome.vocab_size() != 0);
  if (route == Route::kHealth ? view.serving : takes_requests) {
    response.set_content(R"({"status":"ok"})", kJson);
  } else {
    SetError(Unavailable(view.reason), response);
  }
}

void ApiServer::AnswerGet(Route route, const httplib::Request& request,
                          httplib::Response& response) {
  const int64_t created = absl::ToUnixSeconds(started_);
  switch (route) {
    case Route::kHealth:
    case Route::kReady:
    case Route::kMetrics:
      AnswerOpen(route, response);
      return;
    case Route::kModels:
      response.set_content(ModelList(model_.name, created, SequenceLimit(generator_.welcome())),
                           kJson);
      return;
    case Route::kModel:
      // The library decodes the path; names may hold a slash.
      if (ModelOf(request.path) == model_.name) {
        response.set_content(ModelEntry(model_.name, created, SequenceLimit(generator_.welcome())),
                             kJson);
      } else {
        SetError(ModelNotFound(ModelOf(request.path)), response);
      }
      return;
    case Route::kStatus:
      response.set_content(GroupStatusJson(model_.name, generator_.view()), kJson);
      return;
    case Route::kVersion:
      response.set_content(absl::StrCat(R"({"version":")", options_.version, "\"}"), kJson);
      return;
    case Route::kNone:
    case Route::kCompletions:
    case Route::kChatCompletions:
      SetError(HttpError(404, DefaultReason(404)), response);
      return;
  }
}

std::optional<ApiError> ApiServer::AwaitEngine(const httplib::Request& request,
                                               engine::v1::Welcome* welcome) {
  const absl::Time deadline = absl::Now() + options_.hold;
  for (;;) {
    *welcome = generator_.welcome();
    if (welcome->vocab_size() != 0) {
      return std::nullopt;
    }
    if (draining_.load()) {
      return Unavailable("The server is shutting down.");
    }
    if (absl::Now() >= deadline) {
      return Unavailable(generator_.view().reason);
    }
    if (request.is_connection_closed()) {
      return HttpError(kClientGone, "The client closed the connection.");
    }
    absl::SleepFor(options_.run.poll_interval);
  }
}

std::optional<ApiError> ApiServer::BuildJob(Route route, const httplib::Request& request,
                                            const httplib::ContentReader& reader, Job* job) {
  JobContext context;
  context.arrival = absl::Now();
  std::optional<ApiError> error = AwaitEngine(request, &context.welcome);
  if (error.has_value()) {
    return error;
  }
  context.model = &model_;
  context.drawn_seed = Draw();
  context.request_id = absl::StrFormat("%016x%016x", Draw(), Draw());
  const bool large = request.get_header_value_u64("Content-Length") > options_.large_body_bytes;
  const auto has_place = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return num_large_bodies_ < options_.max_large_bodies;
  };
  if (large) {
    absl::MutexLock lock(&mutex_, absl::Condition(&has_place));
    ++num_large_bodies_;
  }
  // Also when something below throws.
  const absl::Cleanup give_place_back = [this, large] {
    if (large) {
      absl::MutexLock lock(&mutex_);
      --num_large_bodies_;
    }
  };
  std::string body;
  reader([&body](const char* data, size_t size) {
    body.append(data, size);
    return true;
  });
  ParseLimits limits = options_.parse;
  limits.vocab_size = static_cast<int32_t>(context.welcome.vocab_size());
  if (route == Route::kChatCompletions) {
    ChatRequest parsed;
    error = ParseChatRequest(body, limits, &parsed);
    body = std::string();
    if (!error.has_value()) {
      error = BuildChatJob(std::move(parsed), context, job);
    }
  } else {
    CompletionRequest parsed;
    error = ParseCompletionRequest(body, limits, &parsed);
    body = std::string();
    if (!error.has_value()) {
      error = BuildCompletionJob(std::move(parsed), context, job);
    }
  }
  return error;
}

void ApiServer::AnswerPost(const httplib::Request& request, httplib::Response& response,
                           const httplib::ContentReader& reader) {
  // The whole body is here. What a handler returns is written, or begun, after it.
  const absl::Cleanup let_proxy_finish = [this, &request, received = absl::Now()] {
    if (request.has_header("X-Forwarded-For")) {
      absl::SleepFor(received + options_.proxied_answer_delay - absl::Now());
    }
  };
  const auto answer = std::make_shared<Answer>(num_active_);
  if (draining_.load()) {
    SetError(Unavailable("The server is shutting down."), response);
    return;
  }
  ++num_taken_;
  std::optional<ApiError> error = BuildJob(RouteOf(request.target), request, reader, &answer->job);
  if (error.has_value()) {
    SetError(*error, response);
    return;
  }
  Run& run =
      answer->run.emplace(answer->job, *model_.tokenizer, generator_, metrics_, options_.run);
  error = run.Begin(request.is_connection_closed);
  if (!error.has_value() && answer->job.streaming.stream) {
    Stream(request, response, answer);
    return;
  }
  std::string json;
  if (!error.has_value()) {
    error = run.Finish(request.is_connection_closed, &json);
  }
  if (error.has_value()) {
    SetError(*error, response);
    return;
  }
  response.set_content(std::move(json), kJson);
}

void ApiServer::Stream(const httplib::Request& request, httplib::Response& response,
                       std::shared_ptr<Answer> answer) {
  response.set_header("Cache-Control", "no-cache");
  response.set_header("X-Accel-Buffering", "no");  // proxies must not collect events
  auto provider = [answer = std::move(answer), closed = request.is_connection_closed](
                      size_t /*offset*/, httplib::DataSink& sink) {
    std::string events;
    bool more = false;
    // The library catches what a handler throws, but not what a provider of content does.
    try {
      more = answer->run->NextEvents(closed, &events);
    } catch (...) {
      events += SseError(InternalError());
    }
    if (!events.empty() && !sink.write(events.data(), events.size())) {
      return false;
    }
    if (!more) {
      sink.done();
    }
    return true;
  };
  if (request.version == "HTTP/1.0") {
    response.set_content_provider("text/event-stream", std::move(provider));
  } else {
    response.set_chunked_content_provider("text/event-stream", std::move(provider));
  }
}

}  // namespace moe::gateway
