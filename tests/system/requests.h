// Requests of tests that compare a group's answers with those to each request alone.
#ifndef MOE_TESTS_SYSTEM_REQUESTS_H_
#define MOE_TESTS_SYSTEM_REQUESTS_H_

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "proto/engine.pb.h"
#include "tests/system/in_process_group.h"
#include "worker/model/config.h"

namespace moe::testing {

struct Request {
  std::vector<int32_t> prompt;
  engine::v1::SamplingParams sampling;
};

// A random prompt, to be answered greedily with `max_tokens` tokens.
Request MakeRequest(const model::ModelConfig& config, int num_prompt_tokens, int max_tokens,
                    std::mt19937& random);

std::vector<uint64_t> SubmitAll(InProcessGroup* group, const std::vector<Request>& requests);

// Waits until all submitted requests have ended; the answers to `ids`, in their order.
std::vector<Answer> Collect(InProcessGroup* group, const std::vector<uint64_t>& ids);

// Of each request by itself, one after the other. The group has an epoch.
std::vector<Answer> AnswerEachAlone(InProcessGroup* group, const std::vector<Request>& requests);

// Tokens, and log-probabilities to the bit. `what` is named where they differ.
void ExpectSame(const std::vector<Answer>& got, const std::vector<Answer>& want,
                const std::string& what);

}  // namespace moe::testing

#endif  // MOE_TESTS_SYSTEM_REQUESTS_H_
