// The commands' side of the gateway's HTTP API.
#ifndef MOE_CLI_API_CLIENT_H_
#define MOE_CLI_API_CLIENT_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace httplib {
class Client;
}

namespace moe::cli {

struct ApiOptions {
  std::string url = "http://127.0.0.1:8000";
  std::string api_key;
};

struct ChatRequest {
  std::string model;  // empty: the one that is served
  std::string question;
  int max_tokens = 256;
  double temperature = 0;
};

// Single-threaded use. Errors carry the server's own message; Unavailable when it can't be reached.
class ApiClient {
 public:
  // InvalidArgument for a URL that is not http://HOST[:PORT].
  static absl::StatusOr<std::unique_ptr<ApiClient>> Create(const ApiOptions& options);
  ~ApiClient();

  // The body of a GET.
  absl::StatusOr<std::string> Get(const std::string& path);
  // Streams one answer; `on_text` gets each piece as it comes.
  absl::Status Chat(const ChatRequest& request,
                    const std::function<void(const std::string& text)>& on_text);

 private:
  ApiClient(ApiOptions options, std::unique_ptr<httplib::Client> client);
  absl::StatusOr<std::string> ServedModel();

  const ApiOptions options_;
  std::unique_ptr<httplib::Client> client_;
};

}  // namespace moe::cli

#endif  // MOE_CLI_API_CLIENT_H_
