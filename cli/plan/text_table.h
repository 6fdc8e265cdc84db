// Columns of text, aligned. The first column to the left, others as asked.
#ifndef MOE_CLI_PLAN_TEXT_TABLE_H_
#define MOE_CLI_PLAN_TEXT_TABLE_H_

#include <string>
#include <vector>

namespace moe::cli {

class TextTable {
 public:
  // A heading that begins with '<' is a column to the left, without the sign.
  explicit TextTable(const std::vector<std::string>& headings);

  // REQUIRES: as many cells as headings.
  void AddRow(std::vector<std::string> cells);
  // Lines that end in a newline. Columns that are empty in all rows are left out, as is a first
  // line without headings.
  std::string Format() const;

 private:
  std::vector<bool> to_left_;
  std::vector<std::vector<std::string>> rows_;  // the first: headings
};

}  // namespace moe::cli

#endif  // MOE_CLI_PLAN_TEXT_TABLE_H_
