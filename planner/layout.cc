#include "planner/layout.h"

#include <algorithm>
#include <array>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace moe::planner {
namespace {

constexpr int kMaxNumber = 65536;
constexpr std::array<std::pair<absl::string_view, Exchange>, 5> kExchanges = {
    {{"reduce", Exchange::kReduce},
     {"gather", Exchange::kGather},
     {"gather-scatter", Exchange::kGatherScatter},
     {"all-to-all", Exchange::kAllToAll},
     {"slots", Exchange::kSlots}}};

absl::Status Refuse(absl::string_view text, absl::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrCat("layout '", absl::CHexEscape(text.substr(0, 80)), "': ", why,
                   "; write for example EP64_TP1_PP1_DP1, DP64 or EP64_TP1_PP1_DP1+A8+slots"));
}

Exchange DefaultExchange(const Layout& layout) {
  if (layout.expert == 1) return Exchange::kNone;
  return layout.replicated_attention ? Exchange::kGather : Exchange::kSlots;
}

bool NeedsReplication(Exchange exchange) {
  return exchange == Exchange::kReduce || exchange == Exchange::kGather;
}

// "EP64" with prefix "EP": 64.
bool ReadNumber(absl::string_view part, absl::string_view prefix, int min, int* number) {
  return absl::ConsumePrefix(&part, prefix) && !part.empty() && absl::ascii_isdigit(part[0]) &&
         absl::SimpleAtoi(part, number) && *number >= min && *number <= kMaxNumber;
}

}  // namespace

absl::StatusOr<Layout> ParseLayout(absl::string_view text) {
  Layout layout;
  const std::vector<std::string> parts = absl::StrSplit(text, '+');
  std::string sizes = absl::AsciiStrToUpper(parts[0]);
  sizes.erase(std::remove_if(sizes.begin(), sizes.end(), absl::ascii_isspace), sizes.end());
  std::set<std::string> seen;
  for (const absl::string_view part : absl::StrSplit(sizes, absl::ByAnyChar("_X"))) {
    struct Size {
      absl::string_view prefix;
      int* number;
    };
    bool known = false;
    for (const Size& size : {Size{"EP", &layout.expert}, Size{"TP", &layout.tensor},
                             Size{"PP", &layout.pipeline}, Size{"DP", &layout.data}}) {
      if (!ReadNumber(part, size.prefix, 1, size.number)) continue;
      known = true;
      if (!seen.insert(std::string(size.prefix)).second) {
        return Refuse(text, absl::StrCat(size.prefix, " appears twice"));
      }
    }
    if (!known) {
      return Refuse(
          text, absl::StrCat("'", absl::CHexEscape(part.substr(0, 40)),
                             "' is none of EP, TP, PP, DP with a number from 1 to ", kMaxNumber));
    }
  }
  layout.attention_ranks = layout.expert;
  bool has_attention = false;
  bool has_exchange = false;
  for (size_t i = 1; i < parts.size(); ++i) {
    const std::string& part = parts[i];
    if (ReadNumber(part, "A", 1, &layout.attention_ranks)) {
      has_attention = true;
    } else if (part == "replicated") {
      layout.replicated_attention = true;
    } else if (!ReadNumber(part, "C", 1, &layout.copies) &&
               !ReadNumber(part, "S", 0, &layout.spares)) {
      for (const auto& [name, exchange] : kExchanges) {
        if (part != name) continue;
        layout.exchange = exchange;
        has_exchange = true;
        break;
      }
      if (!has_exchange || ExchangeName(layout.exchange) != part) {
        return Refuse(text,
                      absl::StrCat("'+", absl::CHexEscape(part.substr(0, 40)),
                                   "' is none of A, C or S with a number, replicated, reduce, "
                                   "gather, gather-scatter, all-to-all, slots"));
      }
    }
  }
  if (!has_exchange) layout.exchange = DefaultExchange(layout);
  if (layout.replicated_attention && has_attention) {
    return Refuse(text, "with replicated attention every rank is one: leave A out");
  }
  if (layout.attention_ranks > layout.expert) {
    return Refuse(text, absl::StrCat("A", layout.attention_ranks, " is more than its ",
                                     layout.expert, " expert ranks"));
  }
  if (layout.expert == 1 && (has_exchange || layout.replicated_attention)) {
    return Refuse(text, "one expert rank exchanges nothing: leave what follows '+' out");
  }
  if (layout.expert > 1 && layout.replicated_attention != NeedsReplication(layout.exchange)) {
    return Refuse(
        text, absl::StrCat(ExchangeName(layout.exchange),
                           layout.replicated_attention ? " splits attention: leave 'replicated' out"
                                                       : " needs '+replicated'"));
  }
  return layout;
}

std::string StrategyName(const Layout& layout) {
  return absl::StrCat("EP", layout.expert, "_TP", layout.tensor, "_PP", layout.pipeline, "_DP",
                      layout.data);
}

std::string LayoutName(const Layout& layout) {
  std::string name = StrategyName(layout);
  if (layout.replicated_attention) {
    absl::StrAppend(&name, "+replicated");
  } else if (layout.attention_ranks != layout.expert) {
    absl::StrAppend(&name, "+A", layout.attention_ranks);
  }
  if (layout.exchange != DefaultExchange(layout)) {
    absl::StrAppend(&name, "+", ExchangeName(layout.exchange));
  }
  if (layout.copies > 1) absl::StrAppend(&name, "+C", layout.copies);
  if (layout.spares > 0) absl::StrAppend(&name, "+S", layout.spares);
  return name;
}

std::string ExchangeName(Exchange exchange) {
  for (const auto& [name, value] : kExchanges) {
    if (value == exchange) return std::string(name);
  }
  return "none";
}

std::string DescribeExchange(Exchange exchange) {
  switch (exchange) {
    case Exchange::kNone:
      return "no exchange";
    case Exchange::kReduce:
      return "all-reduce of weighted outputs";
    case Exchange::kGather:
      return "all-gather of routed outputs";
    case Exchange::kGatherScatter:
      return "all-gather of rows, reduce-scatter of outputs";
    case Exchange::kAllToAll:
      return "all-to-all of routed rows, exact counts";
    case Exchange::kSlots:
      return "all-gather of rows, fixed result slots (captured graph)";
  }
  return "";
}

std::string WhatIsNotBuilt(const Layout& layout) {
  std::vector<std::string> missing;
  if (layout.tensor > 1) missing.emplace_back("tensor parallelism");
  if (layout.pipeline > 1) missing.emplace_back("pipeline parallelism");
  if (layout.copies > 1) missing.emplace_back("expert copies");
  // Sums of several ranks' outputs depend on the width, so the engine never makes them.
  if (layout.exchange == Exchange::kReduce || layout.exchange == Exchange::kGatherScatter) {
    missing.emplace_back("sums across ranks");
  }
  return absl::StrJoin(missing, ", ");
}

}  // namespace moe::planner
