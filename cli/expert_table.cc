#include "cli/expert_table.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace moe::cli {
namespace {

// Shades from nothing to the maximum of a layer.
constexpr const char* kShades[] = {"·", "░", "▒", "▓", "█"};

const char* Shade(uint64_t tokens, uint64_t most) {
  if (tokens == 0 || most == 0) return kShades[0];
  return kShades[1 + std::min<uint64_t>(3, tokens * 4 / (most + 1))];
}

std::vector<uint64_t> TotalOfExperts(const ExpertLoad& load) {
  std::vector<uint64_t> totals(load.num_experts);
  for (int layer = 0; layer < load.num_layers; ++layer) {
    for (int expert = 0; expert < load.num_experts; ++expert) {
      totals[expert] += load.tokens[size_t(layer) * load.num_experts + expert];
    }
  }
  return totals;
}

void AppendTable(const std::vector<uint64_t>& totals, int columns, std::string* text) {
  const int num_experts = static_cast<int>(totals.size());
  const int num_lines = (num_experts + columns - 1) / columns;
  for (int line = 0; line < num_lines; ++line) {
    for (int column = 0; column < columns; ++column) {
      const int expert = column * num_lines + line;
      if (expert < num_experts) absl::StrAppendFormat(text, "%4d: %-8d", expert, totals[expert]);
    }
    while (!text->empty() && text->back() == ' ') text->pop_back();
    *text += '\n';
  }
}

void AppendHeatmap(const ExpertLoad& load, std::string* text) {
  absl::StrAppendFormat(text, "\nlayer  experts 0 to %d (each row's maximum is %s)\n",
                        load.num_experts - 1, kShades[4]);
  for (int layer = 0; layer < load.num_layers; ++layer) {
    const auto begin = load.tokens.begin() + int64_t{layer} * load.num_experts;
    const uint64_t most = *std::max_element(begin, begin + load.num_experts);
    absl::StrAppendFormat(text, "%5d  ", layer);
    for (int expert = 0; expert < load.num_experts; ++expert) {
      absl::StrAppend(text, Shade(begin[expert], most));
    }
    *text += '\n';
  }
}

}  // namespace

std::string FormatExpertLoad(const ExpertLoad& load, const ExpertTableOptions& options) {
  const std::vector<uint64_t> totals = TotalOfExperts(load);
  const uint64_t sum = std::accumulate(totals.begin(), totals.end(), uint64_t{0});
  std::string text = absl::StrFormat(
      "%d experts x %d layers ran %d tokens (a token counts once for each layer and chosen "
      "expert)\n",
      load.num_experts, load.num_layers, sum);
  if (totals.empty()) return text;
  AppendTable(totals, options.columns, &text);
  if (sum > 0) {
    std::vector<int> order(totals.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&totals](int a, int b) { return totals[a] > totals[b]; });
    const int num_extremes = std::min<int>(options.num_extremes, static_cast<int>(order.size()));
    text += "hottest:";
    for (int i = 0; i < num_extremes; ++i) {
      absl::StrAppendFormat(
          &text, " %d (%.1f%%)", order[i],
          100.0 * static_cast<double>(totals[order[i]]) / static_cast<double>(sum));
    }
    text += "\ncoldest:";
    for (int i = 0; i < num_extremes; ++i) {
      const int expert = order[order.size() - 1 - i];
      absl::StrAppendFormat(&text, " %d (%.1f%%)", expert,
                            100.0 * static_cast<double>(totals[expert]) / static_cast<double>(sum));
    }
    absl::StrAppendFormat(&text, "\nmax / mean: %.2f\n",
                          static_cast<double>(totals[order[0]]) *
                              static_cast<double>(totals.size()) / static_cast<double>(sum));
  }
  if (options.heatmap && sum > 0) AppendHeatmap(load, &text);
  return text;
}

}  // namespace moe::cli
