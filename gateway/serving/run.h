// Runs one job: starts its sequences, a bounded number at a time, follows all of them with one
// thread, and gives the answer whole or as server-sent events.
//
// Tested by tests/gateway/serving/run_test.cc.
#ifndef MOE_GATEWAY_SERVING_RUN_H_
#define MOE_GATEWAY_SERVING_RUN_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "gateway/journal/generation.h"
#include "gateway/metrics/gateway_metrics.h"
#include "gateway/openai/api_error.h"
#include "gateway/serving/choice.h"
#include "gateway/serving/job.h"
#include "gateway/text/tokenizer.h"

namespace moe::gateway {

struct RunOptions {
  int max_active = 64;  // sequences of one request in the engine at once
  absl::Duration poll_interval = absl::Milliseconds(100);  // of `cancelled`
  absl::Duration queue_full_retry = absl::Milliseconds(250);
  absl::Duration keep_alive = absl::Seconds(15);  // silence until a comment is sent in a stream
};

// Used by one thread. Destroying it cancels what still runs.
class Run {
 public:
  // Says that the client is gone. Called by the thread that uses the run.
  using Cancelled = std::function<bool()>;

  // All outlive the run.
  Run(const Job& job, const text::Tokenizer& tokenizer, Generator& generator,
      GatewayMetrics& metrics, RunOptions options);
  ~Run();
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  // Waits until the first token is there, so that what an engine refuses still gets a status of its
  // own. An error with status 499 means that the client is gone.
  std::optional<ApiError> Begin(const Cancelled& cancelled);

  // After Begin: the whole answer's JSON, or an error.
  std::optional<ApiError> Finish(const Cancelled& cancelled, std::string* json);

  // After Begin: appends the next events to `sse`, waiting for some. False after the last ones.
  // An error in mid-stream becomes an error event, and no [DONE] follows.
  bool NextEvents(const Cancelled& cancelled, std::string* sse);

  Usage usage() const;

 private:
  struct Active;
  // Set by generations, waited for by the run. Shared, as a generation's thread may still hold it.
  struct Wakeup {
    absl::Mutex mutex;
    bool set ABSL_GUARDED_BY(mutex) = false;
  };

  // Starts what may start, waits a moment for events and takes them. Not OK: the whole request
  // failed. Sets cancelled_ when the client is gone.
  absl::Status Advance(const Cancelled& cancelled);
  absl::Status StartMore();
  // Sets `ended` when the choice no longer has a generation.
  absl::Status TakeEvents(int index, bool* ended);
  void OnToken(Active& active, const engine::v1::TokenEvent& event);
  void Report(const Active& active, FinishedReason reason);
  bool all_done() const;

  const Job& job_;
  const text::Tokenizer& tokenizer_;
  Generator& generator_;
  GatewayMetrics& metrics_;
  const RunOptions options_;
  const std::shared_ptr<Wakeup> wakeup_ = std::make_shared<Wakeup>();
  std::deque<int> to_start_;                       // choices, in order
  absl::Time start_again_ = absl::InfinitePast();  // after the queue was full
  std::vector<std::unique_ptr<Active>> active_;    // by choice; null before its start
  std::vector<int> running_;                       // choices with a generation
  int num_finished_ = 0;
  int64_t num_generated_ = 0;
  bool any_event_ = false;
  bool cancelled_ = false;
  bool ended_ = false;  // the last event of a stream was given
  absl::Time last_sent_;
  absl::Time next_check_ = absl::InfinitePast();  // of `cancelled`
};

inline constexpr int kClientGone = 499;

}  // namespace moe::gateway

#endif  // MOE_GATEWAY_SERVING_RUN_H_
