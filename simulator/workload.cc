#include "simulator/workload.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "simulator/random.h"

namespace moe::simulator {
namespace {

constexpr double kMaxPerSecond = 1e7;

std::string Quote(absl::string_view text) {
  return absl::StrCat("'", absl::CHexEscape(text.substr(0, 80)), "'");
}

bool ParseTokens(absl::string_view text, int* tokens) {
  return absl::SimpleAtoi(text, tokens) && *tokens >= 1 && *tokens <= kMaxTokens;
}

int DrawLength(const Length& length, Random* random) {
  switch (length.kind) {
    case Length::Kind::kFixed:
      return length.tokens;
    case Length::Kind::kUniform:
      return length.tokens + random->Below(length.most - length.tokens + 1);
    case Length::Kind::kLognormal:
      return static_cast<int>(
          std::clamp(std::round(length.tokens * std::exp(length.sigma * random->Normal())), 1.0,
                     static_cast<double>(kMaxTokens)));
  }
  return length.tokens;
}

double ExpectedRequests(const Arrivals& arrivals, absl::Duration duration) {
  return arrivals.kind == Arrivals::Kind::kBursts
             ? arrivals.burst * (absl::FDivDuration(duration, arrivals.every) + 1)
             : arrivals.per_second * absl::ToDoubleSeconds(duration);
}

}  // namespace

absl::StatusOr<Arrivals> ParseArrivals(absl::string_view text) {
  absl::Status error = absl::InvalidArgumentError(absl::StrCat(
      "arrivals ", Quote(text), " are none of poisson:200/s, steady:200/s and bursts:64/10s"));
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(text, absl::MaxSplits(':', 1));
  Arrivals arrivals;
  absl::string_view number = parts.second;
  if (parts.first == "poisson" || parts.first == "steady") {
    arrivals.kind = parts.first == "poisson" ? Arrivals::Kind::kPoisson : Arrivals::Kind::kSteady;
    if (!absl::ConsumeSuffix(&number, "/s") || !absl::SimpleAtod(number, &arrivals.per_second) ||
        !(arrivals.per_second > 0 && arrivals.per_second <= kMaxPerSecond)) {
      return error;
    }
    return arrivals;
  }
  if (parts.first != "bursts") return error;
  arrivals.kind = Arrivals::Kind::kBursts;
  const std::pair<absl::string_view, absl::string_view> burst =
      absl::StrSplit(number, absl::MaxSplits('/', 1));
  if (!absl::SimpleAtoi(burst.first, &arrivals.burst) || arrivals.burst < 1 ||
      !absl::ParseDuration(burst.second, &arrivals.every) ||
      arrivals.every < absl::Milliseconds(1) || arrivals.every == absl::InfiniteDuration()) {
    return error;
  }
  return arrivals;
}

std::string DescribeArrivals(const Arrivals& arrivals) {
  switch (arrivals.kind) {
    case Arrivals::Kind::kPoisson:
      return absl::StrFormat("%g requests/s at random (Poisson)", arrivals.per_second);
    case Arrivals::Kind::kSteady:
      return absl::StrFormat("%g requests/s, evenly", arrivals.per_second);
    case Arrivals::Kind::kBursts:
      return absl::StrFormat("%d requests at once, each %s", arrivals.burst,
                             absl::FormatDuration(arrivals.every));
  }
  return "";
}

absl::StatusOr<Length> ParseLength(absl::string_view option, absl::string_view text) {
  Length length;
  const std::vector<absl::string_view> parts = absl::StrSplit(text, ':');
  if (parts.size() == 1 && ParseTokens(text, &length.tokens)) return length;
  if (parts.size() == 2 && parts[0] == "uniform") {
    const std::pair<absl::string_view, absl::string_view> ends =
        absl::StrSplit(parts[1], absl::MaxSplits('-', 1));
    length.kind = Length::Kind::kUniform;
    if (ParseTokens(ends.first, &length.tokens) && ParseTokens(ends.second, &length.most) &&
        length.tokens <= length.most) {
      return length;
    }
  }
  if (parts.size() == 3 && parts[0] == "lognormal") {
    length.kind = Length::Kind::kLognormal;
    if (ParseTokens(parts[1], &length.tokens) && absl::SimpleAtod(parts[2], &length.sigma) &&
        length.sigma >= 0 && length.sigma <= 5) {
      return length;
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat(option, " ", Quote(text),
                   " is none of 512, uniform:128-1024 and lognormal:512:0.8 (median, deviation of "
                   "the logarithm), with tokens from 1 to ",
                   kMaxTokens));
}

std::string DescribeLength(const Length& length) {
  switch (length.kind) {
    case Length::Kind::kFixed:
      return absl::StrCat(length.tokens);
    case Length::Kind::kUniform:
      return absl::StrCat(length.tokens, " to ", length.most);
    case Length::Kind::kLognormal:
      return absl::StrFormat("%d (log-normal, deviation %g)", length.tokens, length.sigma);
  }
  return "";
}

absl::StatusOr<std::vector<Request>> DrawRequests(const Arrivals& arrivals, const Length& input,
                                                  const Length& output, absl::Duration duration,
                                                  uint64_t seed) {
  const double expected = ExpectedRequests(arrivals, duration);
  if (expected > kMaxRequests) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "about %.3g requests would arrive; a run takes at most %.0f", expected, kMaxRequests));
  }
  Random times(seed, Stream::kArrivals);
  Random lengths(seed, Stream::kLengths);
  std::vector<Request> requests;
  requests.reserve(static_cast<size_t>(expected));
  const auto add = [&](absl::Duration at) {
    const int num_input = DrawLength(input, &lengths);
    requests.push_back(
        {.arrival = at, .input_tokens = num_input, .output_tokens = DrawLength(output, &lengths)});
  };
  double seconds = 0;  // in units of the mean distance
  for (int64_t i = 0;; ++i) {
    absl::Duration at;
    switch (arrivals.kind) {
      case Arrivals::Kind::kPoisson:
        seconds += times.Exponential();
        at = absl::Seconds(seconds / arrivals.per_second);
        break;
      case Arrivals::Kind::kSteady:
        at = absl::Seconds(static_cast<double>(i) / arrivals.per_second);
        break;
      case Arrivals::Kind::kBursts:
        at = arrivals.every * (i / arrivals.burst);
        break;
    }
    if (at >= duration) break;
    add(at);
  }
  return requests;
}

}  // namespace moe::simulator
