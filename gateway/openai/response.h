// Answers of the completions and the chat API, whole and in chunks. Pure.
//
// Formats: https://platform.openai.com/docs/api-reference/completions/object and
// .../chat/object, .../chat-streaming.
//
// Tested by tests/gateway/openai/response_test.cc.
#ifndef MOE_GATEWAY_OPENAI_RESPONSE_H_
#define MOE_GATEWAY_OPENAI_RESPONSE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "gateway/openai/api_error.h"

namespace moe::gateway {

enum class Api { kCompletions, kChat };

// The same in every chunk of one answer.
struct ResponseHead {
  Api api = Api::kCompletions;
  std::string id;           // cmpl-... or chatcmpl-...
  int64_t created = 0;      // seconds since 1970
  std::string model;        // as it is served
  std::string fingerprint;  // what output bits depend on
};

struct Usage {
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
};

struct TopToken {
  std::string bytes;  // the token's text; may be part of a character
  float logprob = 0;
};

// One token with its log-probability.
struct TokenInfo {
  std::string bytes;
  std::optional<float> logprob;  // not known for the first token of a prompt
  std::vector<TopToken> top;     // likeliest first
  int64_t text_offset = 0;       // characters before it in the choice's text (completions only)
};

// A whole choice, or what is new of it in a chunk.
struct ChoicePart {
  int index = 0;
  std::string text;
  bool first = false;         // of the choice's chunks: a chat chunk carries the role
  std::string finish_reason;  // empty while it runs
  bool with_logprobs = false;
  std::vector<TokenInfo> logprobs;
};

// JSON of a whole answer.
std::string WholeResponse(const ResponseHead& head, const std::vector<ChoicePart>& choices,
                          const Usage& usage);

// JSON of a chunk. `usage` only with continuous_usage_stats.
std::string ChunkResponse(const ResponseHead& head, const ChoicePart& choice,
                          const std::optional<Usage>& usage);

// JSON of the chunk that ends a stream with include_usage: no choices.
std::string UsageChunk(const ResponseHead& head, const Usage& usage);

// One server-sent event.
std::string SseEvent(absl::string_view json);
// An error inside a stream; clients raise it. No [DONE] follows.
std::string SseError(const ApiError& error);
inline constexpr absl::string_view kSseDone = "data: [DONE]\n\n";
// Nothing, for proxies that end silent connections.
inline constexpr absl::string_view kSseKeepAlive = ": keep-alive\n\n";

// {"object": "list", "data": [...]} and its one entry.
std::string ModelList(absl::string_view model, int64_t created, int64_t max_context);
std::string ModelEntry(absl::string_view model, int64_t created, int64_t max_context);

// A token as text: its bytes if they are UTF-8, else "bytes:\xe2\x80" as OpenAI writes it.
std::string TokenText(absl::string_view bytes);

// Characters (code points) of UTF-8 text.
int64_t CountCharacters(absl::string_view text);

}  // namespace moe::gateway

#endif  // MOE_GATEWAY_OPENAI_RESPONSE_H_
