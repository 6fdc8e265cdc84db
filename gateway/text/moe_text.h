// The C interface of the Rust crate in this folder (src/ffi.rs): Hugging Face tokenizers and chat
// templates.
//
// Only tokenizer.cc, chat_template.cc and the tests of this interface use it; everything else uses
// the C++ classes.
//
// Rules for every function that returns int32_t:
//  - The result is the number of an absl::StatusCode; 0 is success. On failure `*error` holds a
//    message in UTF-8, to be released with moe_text_bytes_free, and no other output is written.
//  - A panic of the Rust code is caught and returned as INTERNAL (13).
//  - Inputs are borrowed for the call. Text need not be valid UTF-8 (it is checked) nor end with a
//    zero.
//  - Tokenizers and templates may be used by any number of threads at once, except while being
//    freed. A stream belongs to one thread at a time; it keeps its tokenizer alive by itself.
#ifndef GATEWAY_TEXT_MOE_TEXT_H_
#define GATEWAY_TEXT_MOE_TEXT_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct MoeTextTokenizer MoeTextTokenizer;
typedef struct MoeTextStream MoeTextStream;
typedef struct MoeTextTemplate MoeTextTemplate;

// Borrowed bytes. `data` may be null when `size` is 0.
typedef struct MoeTextView {
  const char* data;
  size_t size;
} MoeTextView;

// Bytes owned by the library. Zero-initialised is empty.
typedef struct MoeTextBytes {
  uint8_t* data;
  size_t size;
  size_t capacity;
} MoeTextBytes;

// Token ids owned by the library.
typedef struct MoeTextIds {
  int32_t* data;
  size_t size;
  size_t capacity;
} MoeTextIds;

// Byte offsets owned by the library.
typedef struct MoeTextOffsets {
  size_t* data;
  size_t size;
  size_t capacity;
} MoeTextOffsets;

// Each releases the memory and leaves an empty value, so that a second call does nothing.
void moe_text_bytes_free(MoeTextBytes* bytes);
void moe_text_ids_free(MoeTextIds* ids);
void moe_text_offsets_free(MoeTextOffsets* offsets);

// `json` is the content of tokenizer.json. `specials` are texts of tokens that are special too.
int32_t moe_text_tokenizer_new(MoeTextView json, const MoeTextView* specials, size_t num_specials,
                               MoeTextTokenizer** out, MoeTextBytes* error);
void moe_text_tokenizer_free(MoeTextTokenizer* tokenizer);

// With parse_special, special tokens are recognised where they contain none of the `guards`
// (ascending byte offsets) in their inside; else nowhere.
int32_t moe_text_encode(const MoeTextTokenizer* tokenizer, MoeTextView text, bool add_special,
                        bool parse_special, const size_t* guards, size_t num_guards,
                        MoeTextIds* out, MoeTextBytes* error);
int32_t moe_text_decode(const MoeTextTokenizer* tokenizer, const int32_t* ids, size_t num_ids,
                        bool skip_special, MoeTextBytes* out, MoeTextBytes* error);
int32_t moe_text_token_bytes(const MoeTextTokenizer* tokenizer, int32_t id, MoeTextBytes* out,
                             MoeTextBytes* error);

// One more than the highest id.
int32_t moe_text_num_ids(const MoeTextTokenizer* tokenizer);
bool moe_text_is_special(const MoeTextTokenizer* tokenizer, int32_t id);
// -1 when no token has this text.
int32_t moe_text_token_to_id(const MoeTextTokenizer* tokenizer, MoeTextView token);

int32_t moe_text_stream_new(const MoeTextTokenizer* tokenizer, bool skip_special,
                            MoeTextStream** out, MoeTextBytes* error);
int32_t moe_text_stream_append(MoeTextStream* stream, int32_t id, MoeTextBytes* out,
                               MoeTextBytes* error);
int32_t moe_text_stream_flush(MoeTextStream* stream, MoeTextBytes* out, MoeTextBytes* error);
void moe_text_stream_free(MoeTextStream* stream);

typedef struct MoeTextMessage {
  MoeTextView role;
  MoeTextView content;
  MoeTextView name;
  bool has_name;
} MoeTextMessage;

// A variable of a template: `kind` says which of the values counts.
// NOLINTNEXTLINE(readability-identifier-naming): names of C.
enum { MOE_TEXT_STRING = 0, MOE_TEXT_BOOL = 1, MOE_TEXT_INT = 2, MOE_TEXT_DOUBLE = 3 };
typedef struct MoeTextVariable {
  MoeTextView name;
  MoeTextView string_value;
  int64_t int_value;  // of a bool too
  double double_value;
  int32_t kind;
  bool from_user;  // special tokens in it are text
} MoeTextVariable;

// As C's struct tm, but month from 1, the full year, and year_day from 1.
typedef struct MoeTextTime {
  int32_t year;
  int32_t month;
  int32_t day;
  int32_t hour;
  int32_t minute;
  int32_t second;
  int32_t week_day;
  int32_t year_day;
} MoeTextTime;

typedef struct MoeTextLimits {
  uint64_t fuel;
  uint64_t fuel_per_message;
  size_t recursion;
  size_t output_bytes;
} MoeTextLimits;

int32_t moe_text_template_new(MoeTextView source, MoeTextTemplate** out, MoeTextBytes* error);
void moe_text_template_free(MoeTextTemplate* chat_template);

// `guard_for` may be null; else `guards` receives the offsets across which its special tokens must
// not be recognised.
int32_t moe_text_render(const MoeTextTemplate* chat_template, const MoeTextTokenizer* guard_for,
                        const MoeTextMessage* messages, size_t num_messages,
                        const MoeTextVariable* variables, size_t num_variables,
                        const MoeTextTime* now, const MoeTextLimits* limits, MoeTextBytes* out,
                        MoeTextOffsets* guards, MoeTextBytes* error);

#ifdef __cplusplus
}  // extern "C"
#endif

#endif  // GATEWAY_TEXT_MOE_TEXT_H_
