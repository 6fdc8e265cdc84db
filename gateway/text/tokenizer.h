// Text to tokens and back, for any tokenizer.json of Hugging Face.
//
// The work is done by the `tokenizers` library behind moe_text.h, so ids are those that the model
// was trained with. This class adds what serving needs: special tokens in a user's text stay text,
// the bytes of one token, and text that grows token by token.
//
// Special tokens in user text. "<|im_start|>" typed by a user must not become the token that starts
// a turn. A chat prompt holds both the template's special tokens and user text, and cutting it
// where one begins would change the tokens around the cut (" hello" after a template's "\n" is one
// token or two). So the prompt is tokenized as one text with *guards*: byte offsets across which no
// special token may be recognised. ChatTemplate::RenderGuarded puts one inside every special
// token's text in a message, and at the end of a message that could begin one. A prompt without
// guards, which is nearly every prompt, is encoded by the library exactly as transformers'
// apply_chat_template(tokenize=True) does; a prompt with guards by the same steps, except for the
// tokens ruled out. Special is what tokenizer.json or tokenizer_config.json calls so. Markers that
// a model declares as ordinary added tokens, or writes as plain text ("<|user|>" of OLMoE), cannot
// be told from a user's text by any tokenizer.
//
// Threads: every const method may be called from any number of threads at once. No
// thread waits for another: the library's word cache is only tried, never waited for.
//
// Errors: INVALID_ARGUMENT for bad input, INTERNAL when the library fails; a panic in it is an
// INTERNAL error too. Messages hold no path but the file's name inside the model folder.
//
// Tested by tests/gateway/text/tokenizer_test.cc.
#ifndef GATEWAY_TEXT_TOKENIZER_H_
#define GATEWAY_TEXT_TOKENIZER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

struct MoeTextTokenizer;
struct MoeTextStream;

namespace moe::text {

struct TextConfig;

// A text in which some special tokens must stay text.
struct GuardedText {
  std::string text;
  // Byte offsets into `text`, ascending: no special token is recognised that has one in its inside.
  std::vector<size_t> guards;
};

class Tokenizer {
 public:
  // Larger files are refused. The largest published ones have 35 MB.
  static constexpr int64_t kMaxFileBytes = int64_t{256} << 20;

  // Reads tokenizer.json, tokenizer_config.json and special_tokens_map.json (the last two may be
  // absent). NOT_FOUND without a tokenizer.json; INVALID_ARGUMENT, with file and reason, for files
  // that are wrong.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& model_dir);

  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // add_special_tokens: put the tokens around the text that the model expects, as for a plain
  // prompt: add_bos_token and add_eos_token of tokenizer_config.json if it has either, else
  // tokenizer.json's post-processor.
  // parse_special_tokens: the text of a special token becomes that token; if false, it is encoded
  // as any text.
  // INVALID_ARGUMENT if `text` is not UTF-8.
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text, bool add_special_tokens,
                                              bool parse_special_tokens) const;

  // A rendered chat prompt: special tokens are parsed but for the guarded ones, and none are added.
  absl::StatusOr<std::vector<int32_t>> EncodeGuarded(const GuardedText& prompt) const;

  // Invalid bytes become U+FFFD. An id without a token adds nothing (a model's vocabulary may be
  // larger than the tokenizer's); a negative id is INVALID_ARGUMENT.
  absl::StatusOr<std::string> Decode(std::span<const int32_t> ids, bool skip_special_tokens) const;

  // The exact bytes that a token adds to a text it does not begin; part of a character, perhaps.
  // For decoders that treat tokens apart (byte-level, ByteFallback, Metaspace, WordPiece) these are
  // the bytes Decode joins; for others, the text of the token alone. Empty for an id without a
  // token; INVALID_ARGUMENT for a negative one.
  absl::StatusOr<std::string> TokenBytes(int32_t id) const;

  // One more than the highest id.
  int32_t vocab_size() const { return vocab_size_; }
  bool IsSpecial(int32_t id) const;
  // The id of the token with this text, special or not.
  std::optional<int32_t> TokenId(std::string_view token) const;

  // Of tokenizer_config.json; unset when it names none or one that tokenizer.json lacks.
  // generation_config.json may name more tokens that end a text.
  std::optional<int32_t> bos_id() const { return bos_id_; }
  std::optional<int32_t> eos_id() const { return eos_id_; }
  std::optional<int32_t> pad_id() const { return pad_id_; }

 private:
  friend class ChatTemplate;
  friend class StreamDecoder;

  Tokenizer(MoeTextTokenizer* handle, const TextConfig& config);
  absl::StatusOr<std::vector<int32_t>> EncodeWith(std::string_view text, bool add_special_tokens,
                                                  bool parse_special_tokens,
                                                  const std::vector<size_t>& guards) const;

  MoeTextTokenizer* const handle_;  // owned
  int32_t vocab_size_ = 0;
  std::optional<int32_t> bos_id_, eos_id_, pad_id_;
  std::optional<bool> add_bos_, add_eos_;
};

// The text of one choice while its tokens arrive. All pieces of Append and Flush together are
// Decode of all ids, at a cost linear in their number. (For decoders that must see all tokens at
// once, CTC and BPEDecoder, pieces come from a short window of tokens, and may differ from Decode
// where it looks further.) Threads: one at a time. The tokenizer may be destroyed before the
// stream.
class StreamDecoder {
 public:
  StreamDecoder(const Tokenizer& tokenizer, bool skip_special_tokens);
  ~StreamDecoder();
  StreamDecoder(StreamDecoder&& other) noexcept;
  StreamDecoder& operator=(StreamDecoder&& other) noexcept;

  // The text that became final with this token, perhaps none: an incomplete UTF-8 character is held
  // back. What is returned is always valid UTF-8. INVALID_ARGUMENT for a negative id, which changes
  // nothing.
  absl::StatusOr<std::string> Append(int32_t id);

  // What was held back, an incomplete character as U+FFFD. The stream is then as new.
  absl::StatusOr<std::string> Flush();

 private:
  MoeTextStream* handle_ = nullptr;  // owned; null after a move or when it could not be made
};

}  // namespace moe::text

#endif  // GATEWAY_TEXT_TOKENIZER_H_
