#include "cli/api_client.h"

#include <httplib.h>

#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace moe::cli {
namespace {

using Json = nlohmann::json;

Json ParseJson(const std::string& text) { return Json::parse(text, nullptr, false); }

// The message of an OpenAI error body, or the body itself.
std::string ErrorMessage(const std::string& body) {
  const Json json = ParseJson(body);
  if (json.is_object() && json.contains("error") && json["error"].is_object()) {
    return json["error"].value("message", body);
  }
  return body;
}

// Cuts a byte stream into server-sent events and hands out their data.
class EventReader {
 public:
  // False as soon as `on_data` returns false.
  bool Feed(const char* data, size_t num_bytes,
            const std::function<bool(const std::string&)>& on_data) {
    buffer_.append(data, num_bytes);
    size_t end;
    while ((end = buffer_.find("\n\n")) != std::string::npos) {
      const std::string event = buffer_.substr(0, end);
      buffer_.erase(0, end + 2);
      if (event.starts_with("data: ") && !on_data(event.substr(6))) return false;
    }
    return true;
  }

 private:
  std::string buffer_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ApiClient>> ApiClient::Create(const ApiOptions& options) {
  if (!options.url.starts_with("http://")) {
    return absl::InvalidArgumentError(
        absl::StrCat("--url '", options.url, "' is not of the form http://HOST:PORT"));
  }
  auto client = std::make_unique<httplib::Client>(options.url);
  if (!client->is_valid()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--url '", options.url, "' is not of the form http://HOST:PORT"));
  }
  client->set_connection_timeout(5);
  client->set_read_timeout(600);
  if (!options.api_key.empty()) client->set_bearer_token_auth(options.api_key);
  return std::unique_ptr<ApiClient>(new ApiClient(options, std::move(client)));
}

ApiClient::ApiClient(ApiOptions options, std::unique_ptr<httplib::Client> client)
    : options_(std::move(options)), client_(std::move(client)) {}

ApiClient::~ApiClient() = default;

absl::StatusOr<std::string> ApiClient::Get(const std::string& path) {
  const httplib::Result result = client_->Get(path);
  if (!result) {
    return absl::UnavailableError(absl::StrCat("cannot reach ", options_.url, ": ",
                                               httplib::to_string(result.error()),
                                               "; is `moe serve` running there?"));
  }
  if (result->status != 200) {
    return absl::UnknownError(
        absl::StrCat("the server answered ", result->status, ": ", ErrorMessage(result->body)));
  }
  return result->body;
}

absl::StatusOr<std::string> ApiClient::ServedModel() {
  auto body = Get("/v1/models");
  if (!body.ok()) return body.status();
  const Json json = ParseJson(*body);
  if (!json.is_object() || !json.contains("data") || json["data"].empty()) {
    return absl::UnknownError("the server names no model");
  }
  return json["data"][0].value("id", "");
}

absl::Status ApiClient::Chat(const ChatRequest& request,
                             const std::function<void(const std::string& text)>& on_text) {
  std::string model = request.model;
  if (model.empty()) {
    auto served = ServedModel();
    if (!served.ok()) return served.status();
    model = *std::move(served);
  }
  const Json body = {{"model", model},
                     {"messages", {{{"role", "user"}, {"content", request.question}}}},
                     {"max_tokens", request.max_tokens},
                     {"temperature", request.temperature},
                     {"stream", true}};
  EventReader reader;
  std::string raw;
  bool done = false;
  absl::Status failure;
  const auto on_data = [&](const std::string& data) {
    if (data == "[DONE]") {
      done = true;
      return true;
    }
    const Json event = ParseJson(data);
    if (event.is_object() && event.contains("error")) {
      failure = absl::UnknownError(ErrorMessage(data));
      return false;
    }
    if (event.is_object() && event.contains("choices")) {
      for (const Json& choice : event["choices"]) {
        const Json delta = choice.value("delta", Json::object());
        if (delta.contains("content") && delta["content"].is_string()) {
          on_text(delta["content"].get<std::string>());
        }
      }
    }
    return true;
  };
  httplib::Request http;
  http.method = "POST";
  http.path = "/v1/chat/completions";
  http.set_header("Content-Type", "application/json");
  http.body = body.dump();
  http.content_receiver = [&](const char* data, size_t num_bytes, uint64_t, uint64_t) {
    if (raw.size() < 65536) raw.append(data, num_bytes);
    return reader.Feed(data, num_bytes, on_data);
  };
  const httplib::Result result = client_->send(http);
  if (!failure.ok()) return failure;
  if (!result) {
    return absl::UnavailableError(absl::StrCat("the connection to ", options_.url,
                                               " failed: ", httplib::to_string(result.error())));
  }
  if (result->status != 200) {
    return absl::UnknownError(
        absl::StrCat("the server answered ", result->status, ": ", ErrorMessage(raw)));
  }
  if (!done) return absl::UnknownError("the answer broke off");
  return absl::OkStatus();
}

}  // namespace moe::cli
