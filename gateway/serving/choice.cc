// See choice.h.
#include "gateway/serving/choice.h"

#include <utility>

#include "absl/status/statusor.h"

namespace moe::gateway {

using engine::v1::TokenEvent;

Choice::Choice(const Job& job, const text::Tokenizer& tokenizer, int index)
    : job_(job),
      tokenizer_(tokenizer),
      index_(index),
      prompt_(job.prompts[static_cast<size_t>(index / job.n)]),
      decoder_(tokenizer, /*skip_special_tokens=*/true),
      matcher_(job.stop) {
  part_.index = index;
  part_.with_logprobs = job.with_logprobs;
}

absl::Status Choice::OnEvent(const TokenEvent& event) {
  if (event.finish() == TokenEvent::ERROR) {
    return absl::InternalError(event.error());
  }
  if (!seen_first_) {
    seen_first_ = true;
    if (absl::Status status = OnFirst(event); !status.ok()) {
      return status;
    }
  }
  if (job_.prompt_only) {
    return Finish("length");
  }
  ++num_generated_;
  if (job_.with_logprobs) {
    if (absl::Status status = AddLogprobs(event); !status.ok()) {
      return status;
    }
  }
  // The token that ends a text is not part of it.
  if (event.finish() == TokenEvent::STOP) {
    return Finish("stop");
  }
  const absl::StatusOr<std::string> text = decoder_.Append(event.token());
  if (!text.ok()) {
    return absl::InternalError(text.status().message());
  }
  part_.text +=
      num_generated_ <= job_.min_tokens ? matcher_.AppendUnchecked(*text) : matcher_.Append(*text);
  if (matcher_.stopped()) {
    finish_reason_ = "stop";
    return absl::OkStatus();
  }
  return event.finish() == TokenEvent::LENGTH ? Finish("length") : absl::OkStatus();
}

absl::Status Choice::OnFirst(const TokenEvent& event) {
  if (!job_.echo) {
    return absl::OkStatus();
  }
  part_.text = prompt_.echo_text;
  if (!job_.with_logprobs) {
    return absl::OkStatus();
  }
  const auto& entries = event.prompt_logprobs();
  const auto num_tokens = static_cast<int>(prompt_.tokens.size());
  if (entries.size() != num_tokens) {
    return absl::InternalError("the engine's prompt log-probabilities do not match the prompt");
  }
  for (int i = 0; i < num_tokens; ++i) {
    TokenInfo info;
    if (i > 0) {  // nothing comes before the first token that could predict it
      info.logprob = entries[i].logprob();
      if (absl::Status status = FillTop(entries[i].top_logprobs(), &info); !status.ok()) {
        return status;
      }
    }
    if (absl::Status status = AddToken(prompt_.tokens[static_cast<size_t>(i)], std::move(info));
        !status.ok()) {
      return status;
    }
  }
  return absl::OkStatus();
}

absl::Status Choice::AddLogprobs(const TokenEvent& event) {
  TokenInfo info;
  info.logprob = event.logprob();
  if (absl::Status status = FillTop(event.top_logprobs(), &info); !status.ok()) {
    return status;
  }
  return AddToken(event.token(), std::move(info));
}

absl::Status Choice::FillTop(
    const google::protobuf::RepeatedPtrField<engine::v1::TokenLogprob>& top,
    TokenInfo* info) const {
  for (const engine::v1::TokenLogprob& entry : top) {
    absl::StatusOr<std::string> bytes = tokenizer_.TokenBytes(entry.token());
    if (!bytes.ok()) {
      return absl::InternalError(bytes.status().message());
    }
    info->top.push_back({*std::move(bytes), entry.logprob()});
  }
  return absl::OkStatus();
}

absl::Status Choice::AddToken(int32_t token, TokenInfo info) {
  absl::StatusOr<std::string> bytes = tokenizer_.TokenBytes(token);
  if (!bytes.ok()) {
    return absl::InternalError(bytes.status().message());
  }
  info.bytes = *std::move(bytes);
  info.text_offset = num_characters_;
  // Special tokens are not in the text.
  num_characters_ += tokenizer_.IsSpecial(token) ? 0 : CountCharacters(info.bytes);
  part_.logprobs.push_back(std::move(info));
  return absl::OkStatus();
}

absl::Status Choice::Finish(const std::string& reason) {
  finish_reason_ = reason;
  const absl::StatusOr<std::string> rest = decoder_.Flush();
  if (!rest.ok()) {
    return absl::InternalError(rest.status().message());
  }
  part_.text += matcher_.Append(*rest);
  if (matcher_.stopped()) {
    finish_reason_ = "stop";
  } else {
    part_.text += matcher_.Flush();
  }
  return absl::OkStatus();
}

ChoicePart Choice::Take() {
  ChoicePart part = std::move(part_);
  part.first = !any_taken_;
  part.finish_reason = finish_reason_;
  any_taken_ = true;
  end_taken_ = finished();
  part_ = ChoicePart();
  part_.index = index_;
  part_.with_logprobs = job_.with_logprobs;
  return part;
}

}  // namespace moe::gateway
