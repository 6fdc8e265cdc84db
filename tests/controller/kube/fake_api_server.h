// An API server in this process, for tests: HTTP(S) on a free port of 127.0.0.1 over FakeObjects,
// with watches, bookmarks, TokenReviews and faults on request.
//
//   FakeApiServer server;
//   ClientOptions options;
//   options.server = server.url();
//   server.objects().Put(kNodes, ...);                           // as somebody else
//   server.Inject({.verb = "create", .plural = "pods", .kind = Fault::kReplyLost});
//
// Thread-safe. Tested by tests/controller/kube/client_test.cc and reflector_test.cc.
#ifndef MOE_TESTS_CONTROLLER_KUBE_FAKE_API_SERVER_H_
#define MOE_TESTS_CONTROLLER_KUBE_FAKE_API_SERVER_H_

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "controller/kube/api.h"
#include "httplib.h"
#include "tests/controller/kube/fake_objects.h"

namespace moe::kube::testing {

struct FakeApiServerOptions {
  // PEM files; empty: plain HTTP. With client_ca_file only clients with a certificate of it are let
  // in.
  std::string cert_file = {};
  std::string key_file = {};
  std::string client_ca_file = {};
  // Of idle watches that allow bookmarks. Infinite: only SendBookmarks.
  absl::Duration bookmark_interval = absl::InfiniteDuration();
};

// What goes wrong with the next `count` requests that match, after `skip` that go well.
struct Fault {
  enum Kind {
    kStatus,       // answered with `code` and a Status; nothing is done
    kReplyLost,    // done, then the connection breaks before the answer's body
    kDropped,      // not done; the connection breaks
    kBody,         // answered 200 with `text` in place of the object
    kNeverAnswer,  // not done; no answer until the client gives up
    // Of watches:
    kCutLine,  // the next event's line is broken off in its middle and the connection ends
    kSilent,   // no events and no bytes, until the client gives up
    kText,     // `text` is sent once where the next event would be, then the stream ends
  };
  std::string verb = {};    // get, list, watch, create, update, patch, apply, delete; empty: any
  std::string plural = {};  // empty: any
  Kind kind = kStatus;
  int count = 1;
  int skip = 0;
  int code = 500;
  std::string reason = "InternalError";
  std::string message = "injected";
  std::string cause = {};        // details.causes[0].reason
  int retry_after_seconds = -1;  // the header, when not negative
  std::string text = {};
};

struct RequestRecord {
  std::string verb = {};
  std::string plural = {};
  std::string ns = {};
  std::string name = {};
  std::string subresource = {};
  std::string target = {};  // as sent, with the query
  std::string authorization = {};
  std::string user_agent = {};
  std::string client = {};  // subject of the client's certificate
  Json body = {};
};

class FakeApiServer {
 public:
  explicit FakeApiServer(FakeApiServerOptions options = {});
  ~FakeApiServer();
  FakeApiServer(const FakeApiServer&) = delete;
  FakeApiServer& operator=(const FakeApiServer&) = delete;

  // "http://127.0.0.1:PORT" or "https://...".
  const std::string& url() const { return url_; }
  int port() const { return port_; }
  FakeObjects& objects() { return objects_; }

  void Inject(Fault fault);
  // While on: every request is answered 503 and watches are broken off.
  void SetOutage(bool on);
  // Requests must carry this bearer token, else 401. Empty: anything goes.
  void SetToken(const std::string& token);
  // TokenReview: from its spec to its status. Without one nobody is authenticated.
  void SetTokenReviewer(std::function<Json(const Json& spec)> reviewer);
  // Sends a bookmark of the present version to every watch that allows them.
  void SendBookmarks();
  // Ends every watch as a server's timeout does.
  void EndWatches();
  int num_watches() const { return num_watches_.load(); }

  std::vector<RequestRecord> requests() const;
  // Of requests(), those of a verb and a type; empty: any.
  int CountRequests(const std::string& verb, const std::string& plural) const;

 private:
  // What a path names.
  struct Target {
    ResourceType type;
    ObjectKey key;  // name is empty for a collection
    std::string subresource;
    std::string verb;

    // False: no such path.
    bool Parse(const httplib::Request& request);
  };
  struct Watch;

  void Handle(const httplib::Request& request, httplib::Response& response);
  FakeAnswer Answer(const httplib::Request& request, const Target& target, const Json& body);
  FakeAnswer ReviewToken(const Json& review);
  std::optional<Fault> TakeFault(const std::string& verb, const std::string& plural);
  // True when the fault is the whole answer.
  bool Misbehave(const Fault& fault, httplib::Response& response);
  void StartWatch(const httplib::Request& request, const Target& target, std::optional<Fault> fault,
                  httplib::Response& response);
  bool ContinueWatch(Watch& watch, httplib::DataSink& sink);
  // False when the stream is to end.
  bool SendEvent(Watch& watch, const char* kind, const Json& object, httplib::DataSink& sink);

  const FakeApiServerOptions options_;
  FakeObjects objects_;
  std::unique_ptr<httplib::Server> server_;
  std::string url_;
  int port_ = 0;
  std::thread thread_;
  std::atomic<bool> stopping_{false};
  std::atomic<int> num_watches_{0};
  std::atomic<int> watch_round_{0};     // watches of an older one end
  std::atomic<int> bookmark_round_{0};  // watches of an older one send a bookmark
  mutable absl::Mutex mutex_;
  bool outage_ ABSL_GUARDED_BY(mutex_) = false;
  std::string token_ ABSL_GUARDED_BY(mutex_);
  std::function<Json(const Json& spec)> reviewer_ ABSL_GUARDED_BY(mutex_);
  std::vector<Fault> faults_ ABSL_GUARDED_BY(mutex_);
  std::vector<RequestRecord> requests_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace moe::kube::testing

#endif  // MOE_TESTS_CONTROLLER_KUBE_FAKE_API_SERVER_H_
