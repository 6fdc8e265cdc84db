#include "tests/system/requests.h"

#include <utility>

#include "gtest/gtest.h"

namespace moe::testing {

Request MakeRequest(const model::ModelConfig& config, int num_prompt_tokens, int max_tokens,
                    std::mt19937& random) {
  Request request;
  for (int t = 0; t < num_prompt_tokens; ++t) {
    request.prompt.push_back(static_cast<int32_t>(random() % config.vocab_size));
  }
  request.sampling.set_top_p(1);
  request.sampling.set_repetition_penalty(1);
  request.sampling.set_num_logprobs(0);
  request.sampling.set_num_prompt_logprobs(-1);
  request.sampling.set_max_tokens(max_tokens);
  request.sampling.set_ignore_eos(true);
  return request;
}

std::vector<uint64_t> SubmitAll(InProcessGroup* group, const std::vector<Request>& requests) {
  std::vector<uint64_t> ids;
  for (const Request& request : requests) {
    ids.push_back(group->Submit(request.prompt, request.sampling));
  }
  return ids;
}

std::vector<Answer> Collect(InProcessGroup* group, const std::vector<uint64_t>& ids) {
  auto by_id = group->WaitAll();
  std::vector<Answer> answers;
  for (const uint64_t id : ids) answers.push_back(std::move(by_id[id]));
  return answers;
}

std::vector<Answer> AnswerEachAlone(InProcessGroup* group, const std::vector<Request>& requests) {
  std::vector<Answer> answers;
  for (const Request& request : requests) {
    answers.push_back(Collect(group, SubmitAll(group, {request}))[0]);
    EXPECT_EQ(answers.back().error, "");
  }
  return answers;
}

void ExpectSame(const std::vector<Answer>& got, const std::vector<Answer>& want,
                const std::string& what) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(got[i].error, "") << what << ", request " << i;
    ASSERT_EQ(got[i].tokens, want[i].tokens) << what << ", request " << i;
    ASSERT_TRUE(got[i].logprobs == want[i].logprobs)
        << what << ", request " << i << ": log-probabilities with other bits";
  }
}

}  // namespace moe::testing
