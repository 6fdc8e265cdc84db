// Fuzzes gateway/openai/parse.h: any bytes give a request within its limits, or an error of a
// bounded size.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "gateway/openai/parse.h"

namespace {

void Check(bool ok) {
  if (!ok) {
    std::abort();
  }
}

void CheckError(const moe::gateway::ApiError& error) {
  Check(error.status == 400 && !error.message.empty() && error.message.size() < 1000);
  Check(!moe::gateway::ErrorJson(error).empty());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view body(reinterpret_cast<const char*>(data), size);
  moe::gateway::ParseLimits limits;
  limits.vocab_size = 100;
  moe::gateway::CompletionRequest completion;
  if (const auto error = ParseCompletionRequest(body, limits, &completion); error.has_value()) {
    CheckError(*error);
  } else {
    Check(!completion.prompts.empty() && completion.sampling.n <= limits.max_n);
    for (const auto& prompt : completion.prompts) {
      Check(prompt.is_tokens ? !prompt.tokens.empty() : !prompt.text.empty());
      for (const int32_t token : prompt.tokens) {
        Check(token >= 0 && token < limits.vocab_size);
      }
    }
  }
  moe::gateway::ChatRequest chat;
  if (const auto error = ParseChatRequest(body, limits, &chat); error.has_value()) {
    CheckError(*error);
  } else {
    Check(!chat.messages.empty());
  }
  return 0;
}
