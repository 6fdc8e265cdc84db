// See number_list.h.
#include "controller/api/number_list.h"

#include <limits>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace moe::api {
namespace {

// Splits "A-B" or "A*B" at the separator; false where there is none. A first character that is a
// minus is a sign.
bool SplitPair(absl::string_view part, char separator, absl::string_view* first,
               absl::string_view* second) {
  const size_t at = part.find(separator, 1);
  if (at == absl::string_view::npos) {
    return false;
  }
  *first = part.substr(0, at);
  *second = part.substr(at + 1);
  return true;
}

absl::Status NoList(absl::string_view example) {
  return absl::InvalidArgumentError(absl::StrCat("must be numbers such as ", example));
}

}  // namespace

std::string FormatRanges(const std::vector<int>& numbers) {
  std::string text;
  for (size_t begin = 0; begin < numbers.size();) {
    size_t end = begin + 1;
    while (end < numbers.size() && numbers[end - 1] < std::numeric_limits<int>::max() &&
           numbers[end] == numbers[end - 1] + 1) {
      ++end;
    }
    absl::StrAppend(&text, text.empty() ? "" : ",", numbers[begin]);
    if (end > begin + 1) {
      absl::StrAppend(&text, "-", numbers[end - 1]);
    }
    begin = end;
  }
  return text;
}

std::string FormatRuns(const std::vector<int>& numbers) {
  std::string text;
  for (size_t begin = 0; begin < numbers.size();) {
    size_t end = begin + 1;
    while (end < numbers.size() && numbers[end] == numbers[begin]) {
      ++end;
    }
    absl::StrAppend(&text, text.empty() ? "" : ",", numbers[begin]);
    if (end > begin + 1) {
      absl::StrAppend(&text, "*", end - begin);
    }
    begin = end;
  }
  return text;
}

absl::StatusOr<std::vector<int>> ParseRanges(absl::string_view text, size_t max_size) {
  std::vector<int> numbers;
  for (const absl::string_view part : absl::StrSplit(text, ',', absl::SkipEmpty())) {
    absl::string_view first_text = part;
    absl::string_view last_text = part;
    int first = 0;
    int last = 0;
    SplitPair(part, '-', &first_text, &last_text);
    if (!absl::SimpleAtoi(first_text, &first) || !absl::SimpleAtoi(last_text, &last) || first < 0 ||
        last < first || static_cast<size_t>(last - first) >= max_size - numbers.size()) {
      return NoList("0-31,40");
    }
    for (int i = 0; i <= last - first; ++i) {
      numbers.push_back(first + i);
    }
  }
  return numbers;
}

absl::StatusOr<std::vector<int>> ParseRuns(absl::string_view text, size_t max_size) {
  std::vector<int> numbers;
  for (const absl::string_view part : absl::StrSplit(text, ',', absl::SkipEmpty())) {
    absl::string_view value_text = part;
    absl::string_view count_text = "1";
    int value = 0;
    int count = 0;
    SplitPair(part, '*', &value_text, &count_text);
    if (!absl::SimpleAtoi(value_text, &value) || !absl::SimpleAtoi(count_text, &count) ||
        value < -1 || count < 1 || static_cast<size_t>(count) > max_size - numbers.size()) {
      return NoList("0*63,1");
    }
    numbers.insert(numbers.end(), static_cast<size_t>(count), value);
  }
  return numbers;
}

}  // namespace moe::api
