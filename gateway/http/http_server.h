// An HTTP/1.1 server: sockets by ConnectionLoop, requests and answers by cpp-httplib, threads from
// two pools. Requests with a POST method, which may run for minutes, cannot take the threads that
// answer /health and /metrics.
//
// Tested by tests/gateway/http/http_faults_test.cc.
#ifndef MOE_GATEWAY_HTTP_HTTP_SERVER_H_
#define MOE_GATEWAY_HTTP_HTTP_SERVER_H_

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gateway/http/connection_loop.h"
#include "gateway/http/request_reader.h"
#include "gateway/http/worker_pool.h"
#include "httplib.h"

namespace moe::gateway {

struct HttpServerOptions {
  std::string host = "127.0.0.1";
  int port = 8000;  // 0: any free one
  ConnectionLimits connections;
  int max_posts = 256;          // POST requests answered at once, of post_paths; more get a 503
  int num_control_threads = 4;  // for all other requests
  int max_control_queue = 256;
  absl::Duration write_timeout = absl::Seconds(30);  // of one write of an answer to a POST
  absl::Duration control_write_timeout = absl::Seconds(2);
};

class HttpServer : private httplib::Server {
 public:
  struct Handlers {
    // On the loop's thread: is the body worth reading? See RequestReader.
    RequestReader::WantsBody wants_body;
    // Answers every request that needs no body, errors included. False: leave it to `post`.
    std::function<bool(const httplib::Request&, httplib::Response&)> answer;
    // Paths of `post`; anything else is left to `answer`.
    std::vector<std::string> post_paths;
    std::function<void(const httplib::Request&, httplib::Response&, const httplib::ContentReader&)>
        post;
    // Body of an error that the server itself answers with; JSON.
    std::function<std::string(int status, const std::string& reason)> error_body;
    // After every answer. `target` is empty when the request never got as far.
    std::function<void(const std::string& target, int status)> on_answer;
  };

  HttpServer(HttpServerOptions options, Handlers handlers);
  ~HttpServer() override;
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // Binds and starts to answer. Its message is for people.
  absl::Status Start();
  // Closes the listener and every connection that waits, then waits for the answers in progress.
  void Stop();
  int port() const { return port_; }
  // From now on each answer is the last of its connection. Any thread.
  void SetLeaving() { leaving_.store(true); }

 private:
  bool Serve(std::unique_ptr<Connection>& connection);
  void Answer(std::unique_ptr<Connection> connection, absl::Duration write_timeout);
  std::string ErrorResponse(int status, const std::string& reason) const;
  void Configure();

  const HttpServerOptions options_;
  const Handlers handlers_;
  int port_ = 0;
  std::atomic<bool> leaving_{false};
  WorkerPool control_pool_;
  WorkerPool post_pool_;
  std::unique_ptr<ConnectionLoop> loop_;
};

}  // namespace moe::gateway

#endif  // MOE_GATEWAY_HTTP_HTTP_SERVER_H_
