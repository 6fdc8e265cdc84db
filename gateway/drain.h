// How a gateway that was asked to end leaves without failing a request.
//
// It says that it is not ready and goes on taking requests, since nobody notices at once: a kubelet
// has to probe it, endpoints and load balancers have to follow, and after an outage of the API
// server that takes as long as their retries. So what counts is not a fixed time but that no
// request has come for a while. Then what runs may finish.
//
// Pure. Tested by tests/gateway/drain_test.cc.
#ifndef MOE_GATEWAY_DRAIN_H_
#define MOE_GATEWAY_DRAIN_H_

#include <cstdint>

#include "absl/time/time.h"

namespace moe::gateway {

struct DrainOptions {
  // Requests are taken until none has come for so long; zero: none is taken.
  absl::Duration quiet = absl::ZeroDuration();
  // Beside that, for what runs then. Whoever never stops sending gets half of both.
  absl::Duration finish = absl::Seconds(30);
};

class Drain {
 public:
  // num_taken: requests since the server started.
  Drain(const DrainOptions& options, absl::Time start, uint64_t num_taken);

  enum class Phase {
    kTakes,     // new requests, too
    kFinishes,  // what runs
    kOver,      // what still runs ends with an error
  };
  // Call it often: a request counts from the call that sees it. Never goes back.
  //   num_active  requests that run
  Phase Next(absl::Time now, uint64_t num_taken, int num_active);

 private:
  const absl::Duration quiet_;
  const absl::Time last_start_;  // when no more is taken, whoever still sends
  const absl::Time deadline_;
  absl::Time quiet_since_;
  uint64_t num_taken_;
  bool takes_ = true;
};

}  // namespace moe::gateway

#endif  // MOE_GATEWAY_DRAIN_H_
