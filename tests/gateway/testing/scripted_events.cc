#include "tests/gateway/testing/scripted_events.h"

#include <algorithm>

#include "tests/gateway/testing/tiny_model.h"

namespace moe::gateway::testing {
namespace {

using engine::v1::TokenEvent;

template <typename Top>
void FillTop(int32_t token, float logprob, int count, Top* top) {
  for (int k = 0; k < count; ++k) {
    auto* entry = top->Add();
    entry->set_token((token + k) % 256);
    entry->set_logprob(logprob - static_cast<float>(k) / 4);
  }
}

}  // namespace

std::vector<TokenEvent> ScriptedEvents(const std::vector<int32_t>& answer,
                                       const std::vector<int32_t>& prompt,
                                       const engine::v1::SamplingParams& sampling) {
  std::vector<int32_t> tokens = answer;
  tokens.push_back(kEndOfText);
  std::vector<TokenEvent> events;
  for (size_t i = 0; i < tokens.size(); ++i) {
    TokenEvent event;
    event.set_position(static_cast<uint32_t>(i));
    event.set_token(tokens[i]);
    const float logprob = -static_cast<float>(i + 1) / 8;
    if (sampling.num_logprobs() >= 0) {
      event.set_logprob(logprob);
      FillTop(tokens[i], logprob, sampling.num_logprobs(), event.mutable_top_logprobs());
    }
    if (i == 0) {
      event.set_queue_seconds(0.25);
      event.set_prefill_seconds(0.5);
      if (sampling.num_prompt_logprobs() >= 0) {
        for (size_t k = 0; k < prompt.size(); ++k) {
          auto* entry = event.add_prompt_logprobs();
          entry->set_logprob(-static_cast<float>(k));
          FillTop(prompt[k], -static_cast<float>(k), sampling.num_prompt_logprobs(),
                  entry->mutable_top_logprobs());
        }
      }
    }
    const auto& stops = sampling.stop_token_ids();
    if (std::find(stops.begin(), stops.end(), tokens[i]) != stops.end()) {
      event.set_finish(TokenEvent::STOP);
    } else if (i + 1 == sampling.max_tokens() || i + 1 == tokens.size()) {
      event.set_finish(TokenEvent::LENGTH);
    }
    events.push_back(event);
    if (event.finish() != TokenEvent::NONE) {
      break;
    }
  }
  return events;
}

}  // namespace moe::gateway::testing
