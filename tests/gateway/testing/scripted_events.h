// The token events of a scripted answer, as a leader would send them.
#ifndef MOE_TESTS_GATEWAY_TESTING_SCRIPTED_EVENTS_H_
#define MOE_TESTS_GATEWAY_TESTING_SCRIPTED_EVENTS_H_

#include <cstdint>
#include <vector>

#include "proto/engine.pb.h"

namespace moe::gateway::testing {

// The tokens `answer`, then end of text, cut at max_tokens; with the log-probabilities that the
// parameters ask for. Position p has the log-probability -(p + 1) / 8; the k-th likeliest other
// token is k tokens further on and k / 4 less likely.
std::vector<engine::v1::TokenEvent> ScriptedEvents(const std::vector<int32_t>& answer,
                                                   const std::vector<int32_t>& prompt,
                                                   const engine::v1::SamplingParams& sampling);

}  // namespace moe::gateway::testing

#endif  // MOE_TESTS_GATEWAY_TESTING_SCRIPTED_EVENTS_H_
