// One choice of an answer: token events in, text and log-probabilities out.
//
// Tested by tests/gateway/serving/choice_test.cc.
#ifndef MOE_GATEWAY_SERVING_CHOICE_H_
#define MOE_GATEWAY_SERVING_CHOICE_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "gateway/openai/response.h"
#include "gateway/serving/job.h"
#include "gateway/serving/stop_matcher.h"
#include "gateway/text/tokenizer.h"
#include "proto/engine.pb.h"

namespace moe::gateway {

// Used by one thread. Job and tokenizer outlive it.
class Choice {
 public:
  Choice(const Job& job, const text::Tokenizer& tokenizer, int index);

  // Takes the next event. Internal: the sequence can't go on (the event says so), or the tokenizer
  // failed. REQUIRES: !finished().
  absl::Status OnEvent(const engine::v1::TokenEvent& event);

  // It ended: by a stop token or string, or by length. Events after that do not count, and the
  // generation can be dropped.
  bool finished() const { return !finish_reason_.empty(); }
  bool cut_by_length() const { return finish_reason_ == "length"; }
  // Tokens of the answer, the one that ended it included.
  int64_t num_generated() const { return num_generated_; }
  const JobPrompt& prompt() const { return prompt_; }
  int index() const { return index_; }

  // Whether Take would give text or an end.
  bool has_news() const { return !part_.text.empty() || (finished() && !end_taken_); }
  // What is new since the last call.
  ChoicePart Take();

 private:
  absl::Status OnFirst(const engine::v1::TokenEvent& event);
  absl::Status AddLogprobs(const engine::v1::TokenEvent& event);
  absl::Status AddToken(int32_t token, TokenInfo info);
  absl::Status FillTop(const google::protobuf::RepeatedPtrField<engine::v1::TokenLogprob>& top,
                       TokenInfo* info) const;
  absl::Status Finish(const std::string& reason);

  const Job& job_;
  const text::Tokenizer& tokenizer_;
  const int index_;
  const JobPrompt& prompt_;
  text::StreamDecoder decoder_;
  StopMatcher matcher_;
  ChoicePart part_;  // not yet taken
  std::string finish_reason_;
  bool end_taken_ = false;
  bool any_taken_ = false;
  int64_t num_generated_ = 0;
  bool seen_first_ = false;
  int64_t num_characters_ = 0;  // of the tokens before
};

}  // namespace moe::gateway

#endif  // MOE_GATEWAY_SERVING_CHOICE_H_
