#include "tests/controller/kube/fake_api_server.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "controller/kube/resource_types.h"

namespace moe::kube::testing {
namespace {

constexpr absl::Duration kPoll = absl::Milliseconds(20);
// A connection that is kept alive holds a thread of the library, and two operators have some 20
// each. All from the start: the library makes no further thread while one that was woken has not
// begun.
constexpr size_t kMinThreads = 64;
constexpr size_t kMaxThreads = 512;

const std::vector<ResourceType>& KnownTypes() {
  static const auto* const kTypes =
      new std::vector<ResourceType>{kPods,
                                    kServices,
                                    kServiceAccounts,
                                    kConfigMaps,
                                    kSecrets,
                                    kPersistentVolumeClaims,
                                    kNodes,
                                    kEvents,
                                    kDeployments,
                                    kIngresses,
                                    kNetworkPolicies,
                                    kPodDisruptionBudgets,
                                    kLeases,
                                    kTokenReviews,
                                    kMoeDeployments,
                                    {"", "v1", "events", "Event"},
                                    {"", "v1", "namespaces", "Namespace", false}};
  return *kTypes;
}

bool IsTrue(const std::string& param) { return param == "true" || param == "1"; }

}  // namespace

bool FakeApiServer::Target::Parse(const httplib::Request& request) {
  std::vector<std::string> parts = absl::StrSplit(request.path, '/', absl::SkipEmpty());
  const size_t num_prefix = !parts.empty() && parts[0] == "apis" ? 3 : 2;
  if (parts.size() <= num_prefix || (parts[0] != "api" && parts[0] != "apis")) {
    return false;
  }
  const std::string group = num_prefix == 3 ? parts[1] : "";
  const std::string version = parts[num_prefix - 1];
  parts.erase(parts.begin(), parts.begin() + static_cast<std::ptrdiff_t>(num_prefix));
  if (parts[0] == "namespaces" && parts.size() > 2) {
    key.ns = parts[1];
    parts.erase(parts.begin(), parts.begin() + 2);
  }
  const auto& types = KnownTypes();
  const auto found = std::find_if(types.begin(), types.end(), [&](const ResourceType& known) {
    return known.group == group && known.version == version && known.plural == parts[0];
  });
  if (found == types.end() || parts.size() > 3 || (!found->namespaced && !key.ns.empty())) {
    return false;
  }
  type = *found;
  key.name = parts.size() > 1 ? parts[1] : "";
  subresource = parts.size() > 2 ? parts[2] : "";
  const bool one = !key.name.empty();
  if (type.namespaced && key.ns.empty() && (one || request.method == "POST")) {
    return false;
  }
  if (request.method == "GET") {
    verb = one ? "get" : IsTrue(request.get_param_value("watch")) ? "watch" : "list";
  } else if (request.method == "POST" && !one) {
    verb = "create";
  } else if (request.method == "PUT" && one) {
    verb = "update";
  } else if (request.method == "PATCH" && one) {
    verb = absl::StartsWith(request.get_header_value("Content-Type"), "application/apply-patch")
               ? "apply"
               : "patch";
  } else if (request.method == "DELETE" && one) {
    verb = "delete";
  }
  return !verb.empty() && (subresource.empty() || subresource == "status");
}

FakeApiServer::FakeApiServer(FakeApiServerOptions options) : options_(std::move(options)) {
  const bool tls = !options_.cert_file.empty();
  if (tls) {
    server_ = std::make_unique<httplib::SSLServer>(
        options_.cert_file.c_str(), options_.key_file.c_str(),
        options_.client_ca_file.empty() ? nullptr : options_.client_ca_file.c_str());
  } else {
    server_ = std::make_unique<httplib::Server>();
  }
  server_->new_task_queue = [] { return new httplib::ThreadPool(kMinThreads, kMaxThreads); };
  server_->set_keep_alive_max_count(1000000);
  server_->set_tcp_nodelay(true);
  const auto handle = [this](const httplib::Request& request, httplib::Response& response) {
    Handle(request, response);
  };
  server_->Get(".*", handle);
  server_->Post(".*", handle);
  server_->Put(".*", handle);
  server_->Patch(".*", handle);
  server_->Delete(".*", handle);
  port_ = server_->bind_to_any_port("127.0.0.1");
  url_ = absl::StrCat(tls ? "https" : "http", "://127.0.0.1:", port_);
  thread_ = std::thread([this] { server_->listen_after_bind(); });
  server_->wait_until_ready();
}

FakeApiServer::~FakeApiServer() {
  stopping_.store(true);
  server_->stop();
  thread_.join();
}

void FakeApiServer::Inject(Fault fault) {
  absl::MutexLock lock(&mutex_);
  faults_.push_back(std::move(fault));
}

void FakeApiServer::SetOutage(bool on) {
  absl::MutexLock lock(&mutex_);
  outage_ = on;
  if (on) {
    watch_round_.fetch_add(1);
  }
}

void FakeApiServer::SetToken(const std::string& token) {
  absl::MutexLock lock(&mutex_);
  token_ = token;
}

void FakeApiServer::SetTokenReviewer(std::function<Json(const Json& spec)> reviewer) {
  absl::MutexLock lock(&mutex_);
  reviewer_ = std::move(reviewer);
}

void FakeApiServer::SendBookmarks() { bookmark_round_.fetch_add(1); }

void FakeApiServer::EndWatches() { watch_round_.fetch_add(1); }

std::vector<RequestRecord> FakeApiServer::requests() const {
  absl::MutexLock lock(&mutex_);
  return requests_;
}

int FakeApiServer::CountRequests(const std::string& verb, const std::string& plural) const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int>(
      std::count_if(requests_.begin(), requests_.end(), [&](const RequestRecord& request) {
        return (verb.empty() || request.verb == verb) &&
               (plural.empty() || request.plural == plural);
      }));
}

std::optional<Fault> FakeApiServer::TakeFault(const std::string& verb, const std::string& plural) {
  absl::MutexLock lock(&mutex_);
  for (auto fault = faults_.begin(); fault != faults_.end(); ++fault) {
    if ((!fault->verb.empty() && fault->verb != verb) ||
        (!fault->plural.empty() && fault->plural != plural)) {
      continue;
    }
    if (fault->skip > 0) {
      --fault->skip;
      continue;
    }
    Fault taken = *fault;
    if (--fault->count == 0) {
      faults_.erase(fault);
    }
    return taken;
  }
  return std::nullopt;
}

bool FakeApiServer::Misbehave(const Fault& fault, httplib::Response& response) {
  switch (fault.kind) {
    case Fault::kStatus: {
      const FakeAnswer answer = ErrorAnswer(fault.code, fault.reason, fault.message, fault.cause);
      response.status = answer.code;
      response.set_content(answer.body.dump(), "application/json");
      if (fault.retry_after_seconds >= 0) {
        response.set_header("Retry-After", std::to_string(fault.retry_after_seconds));
      }
      return true;
    }
    case Fault::kReplyLost:
    case Fault::kDropped:
      response.status = 200;
      response.set_content_provider(
          1000, "application/json",
          [](size_t /*offset*/, size_t /*length*/, httplib::DataSink& /*sink*/) { return false; });
      return true;
    case Fault::kBody:
      response.status = 200;
      response.set_content(fault.text, "application/json");
      return true;
    case Fault::kNeverAnswer:
      response.status = 200;
      response.set_content_provider(
          1000, "application/json",
          [this](size_t /*offset*/, size_t /*length*/, httplib::DataSink& sink) {
            while (!stopping_.load() && sink.is_writable()) {
              absl::SleepFor(kPoll);
            }
            return false;
          });
      return true;
    case Fault::kCutLine:
    case Fault::kSilent:
    case Fault::kText:
      return false;
  }
  return false;
}

FakeAnswer FakeApiServer::ReviewToken(const Json& review) {
  std::function<Json(const Json&)> reviewer;
  {
    absl::MutexLock lock(&mutex_);
    reviewer = reviewer_;
  }
  Json answer = review;
  answer["status"] = reviewer == nullptr ? Json({{"authenticated", false}})
                                         : reviewer(review.value("spec", Json::object()));
  return {.code = 201, .body = std::move(answer)};
}

FakeAnswer FakeApiServer::Answer(const httplib::Request& request, const Target& target,
                                 const Json& body) {
  const auto part =
      target.subresource.empty() ? FakeObjects::Part::kAll : FakeObjects::Part::kStatus;
  if (target.verb == "get") {
    return objects_.Get(target.type, target.key);
  }
  if (target.verb == "list") {
    size_t limit = 0;
    (void)absl::SimpleAtoi(request.get_param_value("limit"), &limit);
    return objects_.ListPage(target.type, target.key.ns, request.get_param_value("labelSelector"),
                             limit, request.get_param_value("continue"));
  }
  if (target.verb == "delete") {
    return objects_.Delete(target.type, target.key, body);
  }
  if (body.is_discarded() || !body.is_object()) {
    return ErrorAnswer(400, "BadRequest", "the body is no JSON object");
  }
  if (target.verb == "create") {
    return target.type.plural == kTokenReviews.plural
               ? ReviewToken(body)
               : objects_.Create(target.type, target.key.ns, body,
                                 request.get_param_value("dryRun") == "All");
  }
  if (target.verb == "update") {
    return objects_.Replace(target.type, target.key, body, part);
  }
  if (target.verb == "apply") {
    if (!IsTrue(request.get_param_value("force"))) {
      return ErrorAnswer(409, "Conflict", "Apply failed with 1 conflict");
    }
    return objects_.Apply(target.type, target.key, body, request.get_param_value("fieldManager"));
  }
  if (request.get_header_value("Content-Type") != "application/merge-patch+json") {
    return ErrorAnswer(415, "UnsupportedMediaType", "only merge patches are known here");
  }
  return objects_.MergePatch(target.type, target.key, body, part);
}

void FakeApiServer::Handle(const httplib::Request& request, httplib::Response& response) {
  const auto reply = [&response](const FakeAnswer& answer) {
    response.status = answer.code;
    response.set_content(answer.body.dump(), "application/json");
  };
  Target target;
  if (!target.Parse(request)) {
    reply(ErrorAnswer(404, "NotFound", "the server could not find the requested resource"));
    return;
  }
  const Json body = request.body.empty()
                        ? Json()
                        : Json::parse(request.body, nullptr, /*allow_exceptions=*/false);
  RequestRecord record{.verb = target.verb,
                       .plural = target.type.plural,
                       .ns = target.key.ns,
                       .name = target.key.name,
                       .subresource = target.subresource,
                       .target = request.target,
                       .authorization = request.get_header_value("Authorization"),
                       .user_agent = request.get_header_value("User-Agent"),
                       .body = body};
  if (request.ssl != nullptr) {
    const auto certificate = request.peer_cert();
    record.client = certificate ? certificate.subject_cn() : "";
  }
  bool outage = false;
  bool allowed = true;
  {
    absl::MutexLock lock(&mutex_);
    outage = outage_;
    allowed = token_.empty() || record.authorization == "Bearer " + token_;
    requests_.push_back(std::move(record));
  }
  if (outage) {
    reply(ErrorAnswer(503, "ServiceUnavailable", "the API server is away"));
    return;
  }
  if (!allowed) {
    reply(ErrorAnswer(401, "Unauthorized", "Unauthorized"));
    return;
  }
  std::optional<Fault> fault = TakeFault(target.verb, target.type.plural);
  if (fault.has_value() && fault->kind == Fault::kReplyLost) {
    Answer(request, target, body);
  }
  if (fault.has_value() && Misbehave(*fault, response)) {
    return;
  }
  if (target.verb == "watch") {
    StartWatch(request, target, std::move(fault), response);
    return;
  }
  reply(Answer(request, target, body));
}

}  // namespace moe::kube::testing
