#include "simulator/clients.h"

#include <algorithm>
#include <utility>

namespace moe::simulator {

void Clients::Arrive(size_t request_idx, absl::Time now) {
  CountWaiting(now);
  ++num_arrived_;
  const Request& request = requests_[request_idx];
  gateway::GenerationRequest asked;
  asked.prompt_tokens.assign(static_cast<size_t>(request.input_tokens), 0);
  asked.sampling.set_top_p(1);
  asked.sampling.set_repetition_penalty(1);
  asked.sampling.set_max_tokens(static_cast<uint32_t>(request.output_tokens));
  asked.sampling.set_ignore_eos(true);
  asked.sampling.set_num_logprobs(-1);
  asked.sampling.set_num_prompt_logprobs(-1);
  asked.on_ready = [this, request_idx] { ready_.push_back(request_idx); };
  clients_[request_idx].arrival = now;
  auto generation = journal_->Start(std::move(asked));
  if (!generation.ok()) return End(request_idx, generation.status(), now);
  clients_[request_idx].generation = *std::move(generation);
}

void Clients::TakeTokens(absl::Time now) {
  for (const size_t request_idx : ready_) TakeTokensOf(request_idx, now);
  ready_.clear();
}

void Clients::TakeTokensOf(size_t request_idx, absl::Time now) {
  const auto found = clients_.find(request_idx);
  if (found == clients_.end()) return;  // it was ready twice, and ended
  Client& client = found->second;
  const auto events = client.generation->Next(absl::ZeroDuration());
  if (!events.ok()) return End(request_idx, events.status(), now);
  for (const engine::v1::TokenEvent& event : *events) {
    if (client.num_tokens == 0) {
      client.first_token = now;
    } else {
      between_tokens_.Add(absl::ToDoubleSeconds(now - client.last_token));
    }
    client.last_token = now;
    ++client.num_tokens;
    ++num_output_tokens_;
    num_output_tokens_in_window_ += now < end_ ? 1 : 0;
    if (event.finish() != engine::v1::TokenEvent::NONE) {
      return End(request_idx, absl::OkStatus(), now);
    }
  }
}

void Clients::End(size_t request_idx, const absl::Status& status, absl::Time now) {
  CountWaiting(now);
  last_end_ = now;
  const Client client = std::move(clients_.extract(request_idx).mapped());
  if (!status.ok()) {
    (absl::IsResourceExhausted(status) ? num_rejected_
     : absl::IsInvalidArgument(status) ? num_too_long_
                                       : num_failed_) += 1;
    return;
  }
  ++num_completed_;
  num_completed_in_window_ += now < end_ ? 1 : 0;
  num_input_tokens_ += requests_[request_idx].input_tokens;
  first_token_.push_back(absl::ToDoubleSeconds(client.first_token - client.arrival));
  end_to_end_.push_back(absl::ToDoubleSeconds(client.last_token - client.arrival));
  if (client.num_tokens > 1) {
    per_output_token_.push_back(absl::ToDoubleSeconds(client.last_token - client.first_token) /
                                (client.num_tokens - 1));
  }
}

void Clients::CountWaiting(absl::Time now) {
  const absl::Time until = std::min(now, end_);
  if (until <= counted_until_) return;
  waiting_seconds_ +=
      static_cast<double>(clients_.size()) * absl::ToDoubleSeconds(until - counted_until_);
  counted_until_ = until;
}

void Clients::Report(absl::Time now, Result* result) {
  CountWaiting(now);
  result->last_end_seconds = absl::ToDoubleSeconds(last_end_ - start_);
  result->num_arrived = num_arrived_;
  result->num_completed = num_completed_;
  result->num_completed_in_window = num_completed_in_window_;
  result->num_rejected = num_rejected_;
  result->num_too_long = num_too_long_;
  result->num_failed = num_failed_;
  result->num_in_flight = num_waiting();
  result->num_input_tokens = num_input_tokens_;
  result->num_output_tokens = num_output_tokens_;
  result->num_output_tokens_in_window = num_output_tokens_in_window_;
  result->first_token = Summarize(std::move(first_token_));
  result->per_output_token = Summarize(std::move(per_output_token_));
  result->between_tokens = between_tokens_.Summarize();
  result->end_to_end = Summarize(std::move(end_to_end_));
  result->mean_in_flight =
      result->window_seconds > 0 ? waiting_seconds_ / result->window_seconds : 0;
}

}  // namespace moe::simulator
