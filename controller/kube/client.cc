#include "controller/kube/client.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "controller/kube/answer.h"
#include "controller/kube/clock.h"
#include "controller/kube/request_path.h"

namespace moe::kube {
namespace {

constexpr int kMaxListRestarts = 3;

std::string ToText(const Json& object) {
  return object.dump(-1, ' ', false, Json::error_handler_t::replace);
}

void IgnoreBrokenPipes() {
  struct sigaction present{};
  if (sigaction(SIGPIPE, nullptr, &present) == 0 && present.sa_handler == SIG_DFL) {
    signal(SIGPIPE, SIG_IGN);
  }
}

}  // namespace

struct Client::Call {
  const char* verb;
  const char* method;
  std::string target;
  std::string what;  // the type and the object
  std::string content_type = {};
  std::string body = {};

  std::string Name() const { return absl::StrCat(verb, " ", what); }
  bool is_read() const { return body.empty() && absl::string_view(method) == "GET"; }
};

struct Client::Answer {
  int code = 0;
  std::optional<absl::Duration> retry_after;
  std::string body;
};

absl::StatusOr<std::unique_ptr<Client>> Client::Create(const ClientOptions& options) {
  absl::StatusOr<ServerAddress> address = ParseServer(options.server);
  if (!address.ok()) {
    return address.status();
  }
  if (address->tls && options.ca_file.empty()) {
    return absl::InvalidArgumentError("https needs the file of the API server's authority");
  }
  if (options.client_cert_file.empty() != options.client_key_file.empty()) {
    return absl::InvalidArgumentError("a client certificate and its key belong together");
  }
  if (options.page_size < 1 || options.qps <= 0 || options.burst < 1) {
    return absl::InvalidArgumentError("page size, rate and burst must be positive");
  }
  IgnoreBrokenPipes();
  std::unique_ptr<Client> client(new Client(options, *std::move(address)));
  if (client->token_.has_value()) {
    const absl::StatusOr<std::string> token = client->token_->Get(MonotonicNow());
    if (!token.ok()) {
      return token.status();
    }
  }
  // Certificates that can't be read are found here rather than at the first request.
  const absl::StatusOr<std::unique_ptr<Connection>> connection =
      MakeConnection(client->options_, client->address_);
  if (!connection.ok()) {
    return connection.status();
  }
  return client;
}

Client::Client(const ClientOptions& options, ServerAddress address)
    : options_(options),
      address_(std::move(address)),
      pool_(options_, address_),
      limiter_(options_.qps, options_.burst) {
  if (!options_.token_file.empty()) {
    token_.emplace(options_.token_file);
  }
}

absl::StatusOr<httplib::Headers> Client::MakeHeaders(std::string* token) {
  httplib::Headers headers = {{"Accept", "application/json"},
                              // Bodies are counted as they come; nothing inflates.
                              {"Accept-Encoding", "identity"},
                              {"User-Agent", options_.user_agent}};
  if (token_.has_value()) {
    absl::StatusOr<std::string> read = token_->Get(MonotonicNow());
    if (!read.ok()) {
      return read.status();
    }
    *token = *std::move(read);
    headers.emplace("Authorization", "Bearer " + *token);
  }
  return headers;
}

absl::Status Client::AwaitTurn(const Call& call) {
  absl::Duration wait;
  {
    absl::MutexLock lock(&mutex_);
    wait = limiter_.Reserve(MonotonicNow());
    if (wait > options_.request_timeout) {
      limiter_.Return();
      return absl::UnavailableError(
          absl::StrCat(call.Name(), ": more requests wait than the client's rate allows"));
    }
  }
  absl::SleepFor(wait);
  return absl::OkStatus();
}

absl::StatusOr<Client::Answer> Client::Exchange(const Call& call, const httplib::Headers& headers) {
  for (bool first = true;; first = false) {
    absl::StatusOr<std::unique_ptr<Connection>> taken =
        first ? pool_.Take() : MakeConnection(options_, address_);
    if (!taken.ok()) {
      return taken.status();
    }
    std::unique_ptr<Connection> connection = *std::move(taken);
    Answer answer;
    bool too_long = false;
    httplib::Request request;
    request.method = call.method;
    request.path = call.target;
    request.headers = headers;
    request.body = call.body;
    if (!call.content_type.empty()) {
      request.headers.emplace("Content-Type", call.content_type);
    }
    request.response_handler = [&answer](const httplib::Response& response) {
      answer.code = response.status;
      answer.retry_after = RetryAfterOf(response);
      return true;
    };
    request.content_receiver = [&](const char* data, size_t size, size_t /*offset*/,
                                   size_t /*total*/) {
      too_long = size > options_.max_response_bytes - answer.body.size();
      if (!too_long) {
        answer.body.append(data, size);
      }
      return !too_long;
    };
    if (!Enter(*connection)) {
      return absl::CancelledError(absl::StrCat(call.Name(), ": the client is shut down"));
    }
    const httplib::Result result = connection->http->send(request);
    const bool shut_down = Leave(*connection);
    if (result) {
      answer.code = result->status;
      if (is_silent_.exchange(false)) {
        num_returns_.fetch_add(1, std::memory_order_relaxed);
      }
      pool_.Return(std::move(connection));
      return answer;
    }
    if (shut_down) {
      return absl::CancelledError(absl::StrCat(call.Name(), ": the client is shut down"));
    }
    if (too_long) {
      return absl::FailedPreconditionError(absl::StrCat(call.Name(), ": the answer is above ",
                                                        options_.max_response_bytes, " bytes"));
    }
    // The server may close a connection that waits just when the next request is sent.
    if (connection->reused && answer.code == 0 && call.is_read()) {
      pool_.Clear();
      continue;
    }
    is_silent_ = true;
    return absl::UnavailableError(absl::StrCat(call.Name(), ": ", DescribeError(result.error())));
  }
}

bool Client::Enter(const Connection& connection) {
  absl::MutexLock lock(&mutex_);
  if (!shut_down_) {
    active_.insert(connection.http.get());
  }
  return !shut_down_;
}

bool Client::Leave(const Connection& connection) {
  absl::MutexLock lock(&mutex_);
  active_.erase(connection.http.get());
  return shut_down_;
}

void Client::Shutdown() {
  absl::MutexLock lock(&mutex_);
  shut_down_ = true;
  for (httplib::ClientImpl* const http : active_) {
    http->stop();
  }
}

absl::StatusOr<Json> Client::Send(const Call& call) {
  if (absl::Status status = AwaitTurn(call); !status.ok()) {
    return status;
  }
  for (bool first = true;; first = false) {
    std::string token;
    const absl::StatusOr<httplib::Headers> headers = MakeHeaders(&token);
    if (!headers.ok()) {
      return headers.status();
    }
    const absl::StatusOr<Answer> answer = Exchange(call, *headers);
    if (!answer.ok()) {
      return answer.status();
    }
    // Refused for the token alone: nothing was done.
    if (answer->code == 401 && first && token_.has_value() &&
        token_->Refresh(token, MonotonicNow())) {
      continue;
    }
    if (answer->code < 200 || answer->code > 299) {
      return ErrorOf(answer->code, answer->body, call.Name(),
                     /*is_create=*/absl::string_view(call.verb) == "create", answer->retry_after);
    }
    absl::StatusOr<Json> object = ParseObject(answer->body);
    if (!object.ok()) {
      return absl::Status(object.status().code(),
                          absl::StrCat(call.Name(), ": ", object.status().message()));
    }
    return object;
  }
}

absl::StatusOr<Json> Client::Get(const ResourceType& type, const ObjectKey& key) {
  if (absl::Status status = CheckKey(type, key); !status.ok()) {
    return status;
  }
  return Send({.verb = "get",
               .method = "GET",
               .target = ObjectPath(type, key),
               .what = Describe(type, key)});
}

absl::StatusOr<Json> Client::ListOnce(const ResourceType& type, const std::string& ns,
                                      const std::string& selector) {
  Json list;
  std::string token;
  for (int page = 0; page < options_.max_list_pages; ++page) {
    std::string target =
        absl::StrCat(CollectionPath(type, ns), "?limit=", options_.page_size,
                     selector.empty() ? "" : absl::StrCat("&labelSelector=", Escape(selector)),
                     token.empty() ? "" : absl::StrCat("&continue=", Escape(token)));
    absl::StatusOr<Json> answer = Send({.verb = "list",
                                        .method = "GET",
                                        .target = std::move(target),
                                        .what = Describe(type, {.ns = ns, .name = ""})});
    if (!answer.ok()) {
      return answer;
    }
    const auto items = answer->find("items");
    // An empty list may be null: it is a slice of Go's.
    if (items == answer->end() || (!items->is_array() && !items->is_null())) {
      return absl::InternalError(absl::StrCat("list ", type.plural, ": the answer has no items"));
    }
    if (items->is_null()) {
      *items = Json::array();
    }
    for (Json& item : *items) {
      if (!item.is_object()) {
        return absl::InternalError(absl::StrCat("list ", type.plural, ": an item is no object"));
      }
      item["apiVersion"] = type.ApiVersion();
      item["kind"] = type.kind;
    }
    token = MetadataString(*answer, "continue");
    if (page == 0) {
      list = *std::move(answer);
    } else {
      for (Json& item : *items) {
        list["items"].push_back(std::move(item));
      }
    }
    if (token.empty()) {
      if (const auto metadata = list.find("metadata");
          metadata != list.end() && metadata->is_object()) {
        metadata->erase("continue");
        metadata->erase("remainingItemCount");
      }
      return list;
    }
  }
  return absl::FailedPreconditionError(
      absl::StrCat("list ", type.plural, ": more than ", options_.max_list_pages, " pages"));
}

absl::StatusOr<Json> Client::List(const ResourceType& type, const std::string& ns,
                                  const std::string& selector) {
  for (int restarts = 0;; ++restarts) {
    absl::StatusOr<Json> list = ListOnce(type, ns, selector);
    if (!absl::IsOutOfRange(list.status()) || restarts == kMaxListRestarts) {
      return list;
    }
  }
}

absl::StatusOr<Json> Client::Create(const ResourceType& type, const std::string& ns,
                                    const Json& object, bool dry_run) {
  const std::string name = MetadataString(object, "name");
  // What is only asked, such as a TokenReview, has no name.
  if (type.namespaced) {
    if (absl::Status status = CheckKey(type, {.ns = ns, .name = name}); !status.ok()) {
      return status;
    }
  }
  return Send({.verb = "create",
               .method = "POST",
               .target = absl::StrCat(CollectionPath(type, ns), "?fieldManager=",
                                      Escape(options_.field_manager), dry_run ? "&dryRun=All" : ""),
               .what = Describe(type, {.ns = ns, .name = name}),
               .content_type = "application/json",
               .body = ToText(object)});
}

absl::StatusOr<Json> Client::Put(const ResourceType& type, const Json& object,
                                 const std::string& subresource) {
  const ObjectKey key = KeyOf(object);
  if (absl::Status status = CheckKey(type, key); !status.ok()) {
    return status;
  }
  // Some types take an update without it, and then whatever was written meanwhile is lost.
  if (MetadataString(object, "resourceVersion").empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("update ", Describe(type, key), ": no metadata.resourceVersion"));
  }
  return Send({.verb = "update",
               .method = "PUT",
               .target = absl::StrCat(ObjectPath(type, key, subresource),
                                      "?fieldManager=", Escape(options_.field_manager)),
               .what = Describe(type, key),
               .content_type = "application/json",
               .body = ToText(object)});
}

absl::StatusOr<Json> Client::Update(const ResourceType& type, const Json& object) {
  return Put(type, object, "");
}

absl::StatusOr<Json> Client::UpdateStatus(const ResourceType& type, const Json& object) {
  return Put(type, object, "status");
}

absl::StatusOr<Json> Client::Apply(const ResourceType& type, const Json& object) {
  const ObjectKey key = KeyOf(object);
  if (absl::Status status = CheckKey(type, key); !status.ok()) {
    return status;
  }
  return Send({.verb = "apply",
               .method = "PATCH",
               .target = absl::StrCat(ObjectPath(type, key),
                                      "?force=true&fieldManager=", Escape(options_.field_manager)),
               .what = Describe(type, key),
               .content_type = "application/apply-patch+yaml",  // JSON is YAML
               .body = ToText(object)});
}

absl::StatusOr<Json> Client::MergePatch(const ResourceType& type, const ObjectKey& key,
                                        const Json& patch) {
  if (absl::Status status = CheckKey(type, key); !status.ok()) {
    return status;
  }
  return Send({.verb = "patch",
               .method = "PATCH",
               .target = absl::StrCat(ObjectPath(type, key),
                                      "?fieldManager=", Escape(options_.field_manager)),
               .what = Describe(type, key),
               .content_type = "application/merge-patch+json",
               .body = ToText(patch)});
}

absl::Status Client::Delete(const ResourceType& type, const ObjectKey& key,
                            const DeleteOptions& options) {
  if (absl::Status status = CheckKey(type, key); !status.ok()) {
    return status;
  }
  Json body = {{"kind", "DeleteOptions"},
               {"apiVersion", "v1"},
               {"propagationPolicy", options.foreground ? "Foreground" : "Background"}};
  if (!options.uid.empty()) {
    body["preconditions"] = {{"uid", options.uid}};
  }
  if (options.grace.has_value()) {
    body["gracePeriodSeconds"] = absl::ToInt64Seconds(*options.grace);
  }
  return Send({.verb = "delete",
               .method = "DELETE",
               .target = ObjectPath(type, key),
               .what = Describe(type, key),
               .content_type = "application/json",
               .body = ToText(body)})
      .status();
}

absl::StatusOr<std::unique_ptr<WatchConnection>> Client::OpenWatch() {
  std::string token;
  absl::StatusOr<httplib::Headers> headers = MakeHeaders(&token);
  if (!headers.ok()) {
    return headers.status();
  }
  absl::StatusOr<std::unique_ptr<Connection>> connection = MakeConnection(options_, address_);
  if (!connection.ok()) {
    return connection.status();
  }
  return std::unique_ptr<WatchConnection>(
      new WatchConnection(*std::move(connection), *std::move(headers)));
}

}  // namespace moe::kube
