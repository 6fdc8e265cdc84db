#include "cli/plan/text_table.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace moe::cli {

TextTable::TextTable(const std::vector<std::string>& headings) {
  rows_.emplace_back();
  for (const std::string& heading : headings) {
    to_left_.push_back(heading.starts_with('<'));
    rows_[0].emplace_back(absl::StripPrefix(heading, "<"));
  }
}

void TextTable::AddRow(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }

std::string TextTable::Format() const {
  std::vector<size_t> widths(rows_[0].size(), 0);
  for (size_t column = 0; column < widths.size(); ++column) {
    for (size_t row = 1; row < rows_.size(); ++row) {
      widths[column] = std::max(widths[column], rows_[row][column].size());
    }
    if (widths[column] > 0) widths[column] = std::max(widths[column], rows_[0][column].size());
  }
  std::string text;
  const bool has_headings = std::any_of(rows_[0].begin(), rows_[0].end(),
                                        [](const std::string& cell) { return !cell.empty(); });
  for (size_t i = has_headings ? 0 : 1; i < rows_.size(); ++i) {
    const std::vector<std::string>& row = rows_[i];
    std::string line;
    for (size_t column = 0; column < widths.size(); ++column) {
      if (widths[column] == 0) continue;
      const std::string padding(widths[column] - row[column].size(), ' ');
      const std::string gap = line.empty() && column == 0 ? "" : "  ";
      absl::StrAppend(&line, gap, to_left_[column] ? row[column] + padding : padding + row[column]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    absl::StrAppend(&text, line, "\n");
  }
  return text;
}

}  // namespace moe::cli
