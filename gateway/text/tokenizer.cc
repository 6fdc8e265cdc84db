// See tokenizer.h.
#include "gateway/text/tokenizer.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "gateway/text/model_text_config.h"
#include "gateway/text/moe_text.h"
#include "gateway/text/rust_call.h"

namespace moe::text {
namespace {

constexpr char kTokenizerFile[] = "tokenizer.json";

std::optional<int32_t> NamedId(const MoeTextTokenizer* handle, const TextConfig& config,
                               const char* key) {
  auto found = config.named_tokens.find(key);
  if (found == config.named_tokens.end()) return std::nullopt;
  const int32_t id = moe_text_token_to_id(handle, View(found->second));
  if (id < 0) return std::nullopt;
  return id;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& model_dir) {
  absl::StatusOr<TextConfig> config = ReadTextConfig(model_dir);
  if (!config.ok()) return config.status();
  absl::StatusOr<std::string> json = ReadModelFile(model_dir, kTokenizerFile, kMaxFileBytes);
  if (!json.ok()) return json.status();

  std::vector<MoeTextView> specials;
  for (const std::string& token : config->special_tokens) specials.push_back(View(token));
  MoeTextTokenizer* handle = nullptr;
  RustBytes error;
  const int32_t code =
      moe_text_tokenizer_new(View(*json), specials.data(), specials.size(), &handle, error.out());
  if (code != 0) {
    // Whatever the library says about this file, panics included, the file is what must be mended.
    return absl::InvalidArgumentError(absl::StrCat(kTokenizerFile, ": ", error.ToString()));
  }
  return std::unique_ptr<Tokenizer>(new Tokenizer(handle, *config));
}

Tokenizer::Tokenizer(MoeTextTokenizer* handle, const TextConfig& config)
    : handle_(handle),
      vocab_size_(moe_text_num_ids(handle)),
      bos_id_(NamedId(handle, config, "bos_token")),
      eos_id_(NamedId(handle, config, "eos_token")),
      pad_id_(NamedId(handle, config, "pad_token")),
      add_bos_(config.add_bos_token),
      add_eos_(config.add_eos_token) {}

Tokenizer::~Tokenizer() { moe_text_tokenizer_free(handle_); }

absl::StatusOr<std::vector<int32_t>> Tokenizer::EncodeWith(
    std::string_view text, bool add_special_tokens, bool parse_special_tokens,
    const std::vector<size_t>& guards) const {
  MoeTextIds ids = {};
  RustBytes error;
  const int32_t code =
      moe_text_encode(handle_, View(text), add_special_tokens, parse_special_tokens, guards.data(),
                      guards.size(), &ids, error.out());
  if (code != 0) return ToStatus(code, error);
  std::vector<int32_t> result;
  if (ids.size > 0) result.assign(ids.data, ids.data + ids.size);
  moe_text_ids_free(&ids);
  return result;
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(std::string_view text,
                                                       bool add_special_tokens,
                                                       bool parse_special_tokens) const {
  // As transformers does: what tokenizer_config.json says about either takes the place of the
  // post-processor.
  const bool configured = add_bos_.has_value() || add_eos_.has_value();
  absl::StatusOr<std::vector<int32_t>> ids =
      EncodeWith(text, add_special_tokens && !configured, parse_special_tokens, {});
  if (!ids.ok() || !add_special_tokens) return ids;
  if (add_bos_ == true && bos_id_.has_value()) ids->insert(ids->begin(), *bos_id_);
  if (add_eos_ == true && eos_id_.has_value()) ids->push_back(*eos_id_);
  return ids;
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::EncodeGuarded(const GuardedText& prompt) const {
  return EncodeWith(prompt.text, /*add_special_tokens=*/false, /*parse_special_tokens=*/true,
                    prompt.guards);
}

absl::StatusOr<std::string> Tokenizer::Decode(std::span<const int32_t> ids,
                                              bool skip_special_tokens) const {
  RustBytes text, error;
  const int32_t code = moe_text_decode(handle_, ids.data(), ids.size(), skip_special_tokens,
                                       text.out(), error.out());
  if (code != 0) return ToStatus(code, error);
  return text.ToString();
}

absl::StatusOr<std::string> Tokenizer::TokenBytes(int32_t id) const {
  RustBytes bytes, error;
  const int32_t code = moe_text_token_bytes(handle_, id, bytes.out(), error.out());
  if (code != 0) return ToStatus(code, error);
  return bytes.ToString();
}

bool Tokenizer::IsSpecial(int32_t id) const { return moe_text_is_special(handle_, id); }

std::optional<int32_t> Tokenizer::TokenId(std::string_view token) const {
  const int32_t id = moe_text_token_to_id(handle_, View(token));
  if (id < 0) return std::nullopt;
  return id;
}

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special_tokens) {
  RustBytes error;
  // A failure leaves handle_ null, which Append reports.
  moe_text_stream_new(tokenizer.handle_, skip_special_tokens, &handle_, error.out());
}

StreamDecoder::~StreamDecoder() { moe_text_stream_free(handle_); }

StreamDecoder::StreamDecoder(StreamDecoder&& other) noexcept
    : handle_(std::exchange(other.handle_, nullptr)) {}

StreamDecoder& StreamDecoder::operator=(StreamDecoder&& other) noexcept {
  std::swap(handle_, other.handle_);
  return *this;
}

absl::StatusOr<std::string> StreamDecoder::Append(int32_t id) {
  if (handle_ == nullptr) return absl::InternalError("the stream decoder could not be made");
  RustBytes text, error;
  const int32_t code = moe_text_stream_append(handle_, id, text.out(), error.out());
  if (code != 0) return ToStatus(code, error);
  return text.ToString();
}

absl::StatusOr<std::string> StreamDecoder::Flush() {
  if (handle_ == nullptr) return absl::InternalError("the stream decoder could not be made");
  RustBytes text, error;
  const int32_t code = moe_text_stream_flush(handle_, text.out(), error.out());
  if (code != 0) return ToStatus(code, error);
  return text.ToString();
}

}  // namespace moe::text
