// See timestamp.h.
#include "controller/api/timestamp.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/civil_time.h"

namespace moe::api {
namespace {

absl::Time First() {
  return absl::FromCivil(absl::CivilSecond(1, 1, 1, 0, 0, 0), absl::UTCTimeZone());
}

absl::Time Last() {
  return absl::FromCivil(absl::CivilSecond(9999, 12, 31, 23, 59, 59), absl::UTCTimeZone());
}

}  // namespace

std::string FormatTimestamp(absl::Time time) {
  return absl::FormatTime("%E4Y-%m-%d%ET%H:%M:%E*SZ", std::clamp(time, First(), Last()),
                          absl::UTCTimeZone());
}

absl::StatusOr<absl::Time> ParseTimestamp(absl::string_view text) {
  absl::Time time;
  std::string error;
  // absl::ParseTime would also read "infinite-future" and leading blanks.
  if (text.empty() || text.size() > 64 || text[0] < '0' || text[0] > '9' ||
      !absl::ParseTime(absl::RFC3339_full, text, &time, &error)) {
    return absl::InvalidArgumentError(absl::StrCat("'", absl::CHexEscape(text.substr(0, 64)),
                                                   "' is no time: write 2006-01-02T15:04:05Z"));
  }
  if (time <= First()) {
    return absl::InfinitePast();
  }
  return time >= Last() ? absl::InfiniteFuture() : time;
}

}  // namespace moe::api
