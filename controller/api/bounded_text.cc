// See bounded_text.h.
#include "controller/api/bounded_text.h"

#include "absl/strings/str_cat.h"

namespace moe::api {
namespace {

// How many bytes the UTF-8 character at `at` has; 0 if there is none.
size_t CharBytes(absl::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(at);
  if (first < 0x80) {
    return 1;
  }
  const size_t length = first >= 0xc2 && first < 0xe0   ? 2
                        : first >= 0xe0 && first < 0xf0 ? 3
                        : first >= 0xf0 && first < 0xf5 ? 4
                                                        : 0;
  if (length == 0 || at + length > text.size()) {
    return 0;
  }
  for (size_t i = at + 1; i < at + length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) {
      return 0;
    }
  }
  const unsigned char second = byte(at + 1);
  // Overlong forms, surrogates, and what is above U+10FFFF.
  if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second >= 0xa0) ||
      (first == 0xf0 && second < 0x90) || (first == 0xf4 && second >= 0x90)) {
    return 0;
  }
  return length;
}

std::string CleanText(absl::string_view text) {
  std::string clean;
  clean.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const size_t length = CharBytes(text, at);
    const bool control = text[at] >= 0 && text[at] < ' ' && text[at] != '\n' && text[at] != '\t';
    if (length == 0 || control) {
      clean.push_back(length == 0 ? '?' : ' ');
      ++at;
    } else {
      absl::StrAppend(&clean, text.substr(at, length));
      at += length;
    }
  }
  return clean;
}

bool IsContinuation(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }

}  // namespace

std::string HeadOf(absl::string_view text, size_t max_bytes) {
  std::string clean = CleanText(text);
  if (clean.size() > max_bytes) {
    size_t end = max_bytes;
    while (end > 0 && IsContinuation(clean[end])) {
      --end;
    }
    clean.resize(end);
  }
  return clean;
}

std::string TailOf(absl::string_view text, size_t max_bytes) {
  std::string clean = CleanText(text);
  if (clean.size() > max_bytes) {
    size_t begin = clean.size() - max_bytes;
    while (begin < clean.size() && IsContinuation(clean[begin])) {
      ++begin;
    }
    clean.erase(0, begin);
  }
  return clean;
}

}  // namespace moe::api
