#include "cli/simulate/trace.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "worker/model/bounded_json.h"

namespace moe::cli {
namespace {

using simulator::Request;

constexpr double kMaxSeconds = 30.0 * 24 * 3600;
constexpr size_t kNumFields = 3;

std::string Quote(absl::string_view text) {
  return model::QuoteForMessage({text.data(), text.size()});
}

absl::string_view NextLine(absl::string_view* text) {
  const size_t end = std::min(text->find('\n'), text->size());
  const absl::string_view line = text->substr(0, end);
  text->remove_prefix(std::min(end + 1, text->size()));
  return absl::StripAsciiWhitespace(line);
}

// Exactly three fields, or nothing.
std::optional<std::array<absl::string_view, kNumFields>> Split(absl::string_view line) {
  std::array<absl::string_view, kNumFields> fields;
  for (size_t i = 0; i < kNumFields; ++i) {
    const size_t comma = line.find(',');
    const bool is_last = i + 1 == kNumFields;
    if (is_last != (comma == absl::string_view::npos)) return std::nullopt;
    fields[i] = absl::StripAsciiWhitespace(line.substr(0, comma));
    if (!is_last) line.remove_prefix(comma + 1);
  }
  return fields;
}

// What is wrong with the line; empty: nothing.
std::string ParseLine(absl::string_view line, Request* request) {
  const auto fields = Split(line);
  if (!fields.has_value()) {
    return absl::StrCat(Quote(line), " is not \"seconds,input tokens,output tokens\"");
  }
  double seconds = 0;
  if (!absl::SimpleAtod((*fields)[0], &seconds) || !(seconds >= 0 && seconds <= kMaxSeconds)) {
    return absl::StrFormat(
        "the arrival is %s; it must be a number of seconds since the start, from 0 to %.0f",
        Quote((*fields)[0]), kMaxSeconds);
  }
  request->arrival = absl::Seconds(seconds);
  const auto parse_tokens = [](absl::string_view field, const char* name, int* tokens) {
    if (absl::SimpleAtoi(field, tokens) && *tokens >= 1 && *tokens <= simulator::kMaxTokens) {
      return std::string();
    }
    return absl::StrFormat("%s are %s; they must be a whole number from 1 to %d", name,
                           Quote(field), simulator::kMaxTokens);
  };
  std::string wrong = parse_tokens((*fields)[1], "the input tokens", &request->input_tokens);
  if (wrong.empty()) {
    wrong = parse_tokens((*fields)[2], "the output tokens", &request->output_tokens);
  }
  return wrong;
}

}  // namespace

absl::StatusOr<std::vector<Request>> ParseTrace(std::string_view text, const std::string& file) {
  std::vector<Request> requests;
  absl::string_view rest(text.data(), text.size());
  bool is_first = true;
  for (int64_t number = 1; !rest.empty(); ++number) {
    const absl::string_view line = NextLine(&rest);
    if (line.empty() || line[0] == '#') continue;
    Request request;
    const std::string wrong = ParseLine(line, &request);
    if (wrong.empty()) {
      requests.push_back(request);
    } else {
      double number_of_heading = 0;
      const auto fields = Split(line);
      const bool is_heading = is_first && fields.has_value() && !(*fields)[0].empty() &&
                              !absl::SimpleAtod((*fields)[0], &number_of_heading);
      if (!is_heading) {
        return absl::InvalidArgumentError(absl::StrCat(file, ", line ", number, ": ", wrong));
      }
    }
    is_first = false;
    if (static_cast<double>(requests.size()) > simulator::kMaxRequests) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s has more than %.0f requests, the most of one run", file, simulator::kMaxRequests));
    }
  }
  if (requests.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(file, " has no request"));
  }
  std::stable_sort(requests.begin(), requests.end(),
                   [](const Request& a, const Request& b) { return a.arrival < b.arrival; });
  return requests;
}

}  // namespace moe::cli
