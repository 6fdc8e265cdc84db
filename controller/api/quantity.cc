// See quantity.h.
#include "controller/api/quantity.h"

#include <array>
#include <limits>
#include <optional>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/numeric/int128.h"
#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace moe::api {
namespace {

constexpr size_t kMaxText = 64;

// amount = digits x 2^binary x 10^decimal
struct Suffix {
  absl::string_view text;
  int binary = 0;
  int decimal = 0;
};
constexpr std::array<Suffix, 16> kSuffixes = {{{"", 0, 0},
                                               {"n", 0, -9},
                                               {"u", 0, -6},
                                               {"m", 0, -3},
                                               {"k", 0, 3},
                                               {"M", 0, 6},
                                               {"G", 0, 9},
                                               {"T", 0, 12},
                                               {"P", 0, 15},
                                               {"E", 0, 18},
                                               {"Ki", 10, 0},
                                               {"Mi", 20, 0},
                                               {"Gi", 30, 0},
                                               {"Ti", 40, 0},
                                               {"Pi", 50, 0},
                                               {"Ei", 60, 0}}};

std::string Quoted(absl::string_view text) {
  return absl::StrCat("'", absl::CHexEscape(text.substr(0, kMaxText)), "'");
}

absl::Status NoQuantity(absl::string_view text) {
  return absl::InvalidArgumentError(
      absl::StrCat(Quoted(text), " is no quantity: write a number such as 40Gi, 500m or 2"));
}

absl::Status TooLarge(absl::string_view text) {
  return absl::InvalidArgumentError(absl::StrCat(Quoted(text), " does not fit 64 bits"));
}

std::optional<Suffix> ParseSuffix(absl::string_view text) {
  for (const Suffix& suffix : kSuffixes) {
    if (suffix.text == text) {
      return suffix;
    }
  }
  // SimpleAtoi takes blanks, which no quantity has.
  int exponent = 0;
  if ((text[0] == 'e' || text[0] == 'E') && text.size() <= 4 &&
      absl::c_none_of(text, [](unsigned char c) { return absl::ascii_isspace(c); }) &&
      absl::SimpleAtoi(text.substr(1), &exponent)) {
    return Suffix{"", 0, exponent};
  }
  return std::nullopt;
}

// False on overflow.
bool MultiplyByTen(int times, absl::uint128* value) {
  for (; times > 0 && *value != 0; --times) {
    if (*value > absl::Uint128Max() / 10) {
      return false;
    }
    *value *= 10;
  }
  return true;
}

absl::StatusOr<int64_t> Parse(absl::string_view text, int decimal_shift) {
  if (text.size() > kMaxText) {
    return NoQuantity(text);
  }
  absl::string_view rest = text;
  const bool negative = absl::ConsumePrefix(&rest, "-");
  if (!negative) {
    absl::ConsumePrefix(&rest, "+");
  }
  absl::uint128 amount = 0;
  int decimal = decimal_shift;
  int num_digits = 0;
  bool in_fraction = false;
  while (!rest.empty()) {
    const char c = rest.front();
    if (c == '.' && !in_fraction) {
      in_fraction = true;
    } else if (absl::ascii_isdigit(static_cast<unsigned char>(c))) {
      const auto digit = static_cast<uint64_t>(c - '0');
      if (!MultiplyByTen(1, &amount) || amount > absl::Uint128Max() - digit) {
        return TooLarge(text);
      }
      amount += digit;
      decimal -= in_fraction ? 1 : 0;
      ++num_digits;
    } else {
      break;
    }
    rest.remove_prefix(1);
  }
  const std::optional<Suffix> suffix = num_digits == 0 ? std::nullopt : ParseSuffix(rest);
  if (!suffix.has_value()) {
    return NoQuantity(text);
  }
  decimal += suffix->decimal;
  if (amount > (absl::Uint128Max() >> suffix->binary)) {
    return TooLarge(text);
  }
  amount <<= suffix->binary;
  if (!MultiplyByTen(decimal, &amount)) {
    return TooLarge(text);
  }
  bool remainder = false;
  for (; decimal < 0 && amount != 0; ++decimal) {
    remainder = remainder || amount % 10 != 0;
    amount /= 10;
  }
  amount += remainder ? 1 : 0;
  if (amount > absl::uint128(static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))) {
    return TooLarge(text);
  }
  const auto whole = static_cast<int64_t>(amount);
  return negative ? -whole : whole;
}

}  // namespace

absl::StatusOr<int64_t> ParseQuantity(absl::string_view text) { return Parse(text, 0); }

absl::StatusOr<int64_t> ParseMilliQuantity(absl::string_view text) { return Parse(text, 3); }

std::string FormatBytes(uint64_t num_bytes) {
  constexpr std::array<absl::string_view, 7> kUnits = {"", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"};
  size_t unit = 0;
  while (num_bytes != 0 && num_bytes % 1024 == 0 && unit + 1 < kUnits.size()) {
    num_bytes /= 1024;
    ++unit;
  }
  return absl::StrCat(num_bytes, kUnits[unit]);
}

absl::StatusOr<absl::Duration> ParseDuration(absl::string_view text) {
  absl::Duration duration;
  if (text.size() > kMaxText || !absl::ParseDuration(text, &duration) ||
      duration == absl::InfiniteDuration() || duration < absl::ZeroDuration()) {
    return absl::InvalidArgumentError(
        absl::StrCat(Quoted(text), " is no duration: write one such as 30s, 10m or 1h30m"));
  }
  return duration;
}

}  // namespace moe::api
