// See request_reader.h.
#include "gateway/http/request_reader.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace moe::gateway {
namespace {

bool IsTokenChar(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
         absl::StrContains("!#$%&'*+-.^_`|~", absl::string_view(&c, 1));
}

bool IsToken(absl::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), IsTokenChar);
}

// Visible ASCII.
bool IsTarget(absl::string_view text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](char c) { return c > 0x20 && c < 0x7F; });
}

bool IsFieldValue(absl::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte == '\t' || (byte >= 0x20 && byte != 0x7F);
  });
}

bool IsFramingHeader(absl::string_view name) {
  return absl::EqualsIgnoreCase(name, "Content-Length") ||
         absl::EqualsIgnoreCase(name, "Transfer-Encoding") ||
         absl::EqualsIgnoreCase(name, "Expect");
}

}  // namespace

absl::string_view RequestHead::Header(absl::string_view name) const {
  for (const auto& [key, value] : headers) {
    if (absl::EqualsIgnoreCase(key, name)) {
      return value;
    }
  }
  return "";
}

bool RequestHead::HasHeader(absl::string_view name) const {
  return std::any_of(headers.begin(), headers.end(), [&](const auto& header) {
    return absl::EqualsIgnoreCase(header.first, name);
  });
}

RequestReader::State RequestReader::Reject(int status, std::string reason) {
  status_ = status;
  reason_ = std::move(reason);
  must_close_ = true;
  buffer_.clear();
  parsed_ = 0;
  body_.clear();
  return state_ = State::kRejected;
}

RequestReader::State RequestReader::Feed(absl::string_view bytes) {
  if (state_ == State::kRejected) {
    return state_;
  }
  buffer_.append(bytes.data(), bytes.size());
  return Advance();
}

RequestReader::State RequestReader::Advance() {
  if (state_ == State::kHead && !ReadHead()) {
    return state_;
  }
  if (state_ == State::kBody) {
    while (ReadBody()) {
    }
  }
  buffer_.erase(0, parsed_);
  parsed_ = 0;
  return state_;
}

bool RequestReader::ReadHead() {
  // An empty line before a request is allowed (RFC 9112, 2.2).
  while (absl::StartsWith(rest(), "\r\n")) {
    parsed_ += 2;
    scanned_ = 0;
  }
  const size_t end = rest().find("\r\n\r\n", scanned_);
  if (end == absl::string_view::npos || end + 4 > limits_.max_head_bytes) {
    if (rest().size() > limits_.max_head_bytes) {
      Reject(431, "The request's headers are too large.");
    }
    scanned_ = rest().size() < 3 ? 0 : rest().size() - 3;
    return false;
  }
  const std::string head(rest().substr(0, end + 2));
  parsed_ += end + 4;
  scanned_ = 0;
  if (!ParseHead(head) || !ParseFraming()) {
    return false;
  }
  if (framing_ != Framing::kNone && !wants_body_(head_)) {
    framing_ = Framing::kNone;
    send_continue_ = false;
    must_close_ = true;
    buffer_.clear();
    parsed_ = 0;
  }
  state_ = framing_ == Framing::kNone ? State::kComplete : State::kBody;
  return true;
}

bool RequestReader::ParseHead(absl::string_view head) {
  const auto bad = [this](const char* reason) {
    Reject(400, reason);
    return false;
  };
  head_ = RequestHead();
  bool first = true;
  while (!head.empty()) {
    const size_t end = head.find("\r\n");
    const absl::string_view line = head.substr(0, end);
    head.remove_prefix(end + 2);
    if (absl::StrContains(line, "\n") || absl::StrContains(line, "\r")) {
      return bad("The request's headers have a line that does not end with CRLF.");
    }
    if (first) {
      first = false;
      const size_t space = line.find(' ');
      const size_t last = line.rfind(' ');
      if (space == absl::string_view::npos || space == last) {
        return bad("The request line is malformed.");
      }
      const absl::string_view method = line.substr(0, space);
      const absl::string_view target = line.substr(space + 1, last - space - 1);
      const absl::string_view version = line.substr(last + 1);
      if (target.size() > limits_.max_target_bytes) {
        Reject(414, "The request's target is too long.");
        return false;
      }
      if (!IsToken(method) || !IsTarget(target) ||
          (version != "HTTP/1.1" && version != "HTTP/1.0")) {
        return bad("The request line is malformed.");
      }
      head_.method = std::string(method);
      head_.target = std::string(target);
      head_.http_1_0 = version == "HTTP/1.0";
      continue;
    }
    if (head_.headers.size() >= limits_.max_headers) {
      Reject(431, "The request has too many headers.");
      return false;
    }
    const size_t colon = line.find(':');
    if (colon == absl::string_view::npos || !IsToken(line.substr(0, colon))) {
      return bad("A header of the request is malformed.");
    }
    const absl::string_view value = absl::StripAsciiWhitespace(line.substr(colon + 1));
    if (!IsFieldValue(value)) {
      return bad("A header of the request is malformed.");
    }
    head_.headers.emplace_back(std::string(line.substr(0, colon)), std::string(value));
  }
  return true;
}

bool RequestReader::ParseFraming() {
  const auto bad = [this](const char* reason) {
    Reject(400, reason);
    return false;
  };
  size_t num_lengths = 0;
  size_t num_codings = 0;
  for (const auto& [name, value] : head_.headers) {
    num_lengths += absl::EqualsIgnoreCase(name, "Content-Length") ? 1 : 0;
    num_codings += absl::EqualsIgnoreCase(name, "Transfer-Encoding") ? 1 : 0;
  }
  if (num_lengths > 1 || num_codings > 1 || (num_lengths > 0 && num_codings > 0)) {
    return bad("The request says in more than one way how long its body is.");
  }
  framing_ = Framing::kNone;
  remaining_ = 0;
  if (num_codings > 0) {
    if (head_.http_1_0 || !absl::EqualsIgnoreCase(head_.Header("Transfer-Encoding"), "chunked")) {
      return bad("The request's Transfer-Encoding is not supported.");
    }
    framing_ = Framing::kChunkSize;
  }
  if (num_lengths > 0) {
    const absl::string_view text = head_.Header("Content-Length");
    if (text.empty() || text.size() > 18 || !std::all_of(text.begin(), text.end(), [](char c) {
          return absl::ascii_isdigit(static_cast<unsigned char>(c));
        })) {
      return bad("The request's Content-Length is malformed.");
    }
    for (const char c : text) {
      remaining_ = remaining_ * 10 + static_cast<size_t>(c - '0');
    }
    framing_ = remaining_ > 0 ? Framing::kLength : Framing::kNone;
    if (remaining_ > limits_.max_body_bytes) {
      Reject(413,
             absl::StrCat("The request's body is larger than ", limits_.max_body_bytes, " bytes."));
      return false;
    }
  }
  if (head_.HasHeader("Expect")) {
    if (!absl::EqualsIgnoreCase(head_.Header("Expect"), "100-continue")) {
      Reject(417, "The request's Expect header is not supported.");
      return false;
    }
    send_continue_ = framing_ != Framing::kNone && !head_.http_1_0;
  }
  return true;
}

bool RequestReader::TakeLine(size_t max_bytes, std::string* line) {
  const size_t end = rest().find("\r\n");
  if (end == absl::string_view::npos) {
    // A last \r may be the first half of the line's end.
    if (rest().size() > max_bytes + (absl::EndsWith(rest(), "\r") ? 1 : 0)) {
      Reject(400, "The request's chunked body is malformed.");
    }
    return false;
  }
  if (end > max_bytes) {
    Reject(400, "The request's chunked body is malformed.");
    return false;
  }
  *line = std::string(rest().substr(0, end));
  parsed_ += end + 2;
  return true;
}

bool RequestReader::ParseChunkSize(absl::string_view line) {
  // Hexadecimal digits, then perhaps an extension, which is ignored.
  const size_t end = std::min(line.find_first_of("; \t"), line.size());
  const absl::string_view digits = line.substr(0, end);
  const absl::string_view rest = absl::StripLeadingAsciiWhitespace(line.substr(end));
  const bool malformed = digits.empty() || digits.size() > 8 || (!rest.empty() && rest[0] != ';') ||
                         !std::all_of(digits.begin(), digits.end(), [](char c) {
                           return absl::ascii_isxdigit(static_cast<unsigned char>(c));
                         });
  if (malformed) {
    Reject(400, "The request's chunked body is malformed.");
    return false;
  }
  remaining_ = 0;
  for (const char c : digits) {
    const char lower = absl::ascii_tolower(static_cast<unsigned char>(c));
    remaining_ =
        remaining_ * 16 + static_cast<size_t>(lower <= '9' ? lower - '0' : lower - 'a' + 10);
  }
  if (remaining_ > limits_.max_body_bytes - body_.size()) {
    Reject(413,
           absl::StrCat("The request's body is larger than ", limits_.max_body_bytes, " bytes."));
    return false;
  }
  framing_ = remaining_ == 0 ? Framing::kTrailer : Framing::kChunkData;
  trailer_bytes_ = 0;
  return true;
}

// One step; false when more bytes are needed, or the request is complete or rejected.
bool RequestReader::ReadBody() {
  std::string line;
  switch (framing_) {
    case Framing::kNone:
      state_ = State::kComplete;
      return false;
    case Framing::kLength:
    case Framing::kChunkData: {
      const size_t taken = std::min(remaining_, rest().size());
      body_.append(buffer_, parsed_, taken);
      parsed_ += taken;
      remaining_ -= taken;
      if (remaining_ > 0) {
        return false;
      }
      framing_ = framing_ == Framing::kLength ? Framing::kNone : Framing::kChunkEnd;
      return true;
    }
    case Framing::kChunkSize:
      return TakeLine(256, &line) && ParseChunkSize(line);
    case Framing::kChunkEnd:
      if (rest().size() < 2) {
        return false;
      }
      if (!absl::StartsWith(rest(), "\r\n")) {
        Reject(400, "The request's chunked body is malformed.");
        return false;
      }
      parsed_ += 2;
      framing_ = Framing::kChunkSize;
      return true;
    case Framing::kTrailer:
      if (!TakeLine(limits_.max_trailer_bytes, &line)) {
        return false;
      }
      trailer_bytes_ += line.size() + 2;
      if (trailer_bytes_ > limits_.max_trailer_bytes) {
        Reject(400, "The request's chunked body is malformed.");
        return false;
      }
      framing_ = line.empty() ? Framing::kNone : Framing::kTrailer;
      return true;
  }
  return false;
}

std::string RequestReader::TakeRequest() {
  std::string request = absl::StrCat(head_.method, " ", head_.target,
                                     head_.http_1_0 ? " HTTP/1.0\r\n" : " HTTP/1.1\r\n");
  for (const auto& [name, value] : head_.headers) {
    if (!IsFramingHeader(name)) {
      absl::StrAppend(&request, name, ": ", value, "\r\n");
    }
  }
  absl::StrAppend(&request, "Content-Length: ", body_.size(), "\r\n\r\n", body_);
  body_.clear();
  body_.shrink_to_fit();
  send_continue_ = false;
  state_ = State::kHead;
  if (!buffer_.empty()) {
    Advance();
  }
  return request;
}

}  // namespace moe::gateway
