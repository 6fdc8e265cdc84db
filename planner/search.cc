#include "planner/search.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"

namespace moe::planner {
namespace {

constexpr int kMaxCopies = 2;
constexpr int kMaxSpares = 1;

std::vector<int> Divisors(int number) {
  std::vector<int> divisors;
  for (int divisor = 1; divisor <= number; ++divisor) {
    if (number % divisor == 0) divisors.push_back(divisor);
  }
  return divisors;
}

// Attention ranks to try: all, halves of them, and one.
std::vector<int> AttentionRanks(int expert_ranks) {
  std::vector<int> ranks;
  for (int count = expert_ranks; count >= 1; count /= 2) {
    if (expert_ranks % count == 0) ranks.push_back(count);
  }
  if (ranks.back() != 1) ranks.push_back(1);
  return ranks;
}

// `layout` with every way to split attention and to exchange rows.
void AddExchanges(Layout layout, std::vector<Layout>* layouts) {
  if (layout.expert == 1) {
    layout.exchange = Exchange::kNone;
    layouts->push_back(layout);
    return;
  }
  layout.replicated_attention = true;
  layout.attention_ranks = layout.expert;
  for (const Exchange exchange : {Exchange::kReduce, Exchange::kGather}) {
    layout.exchange = exchange;
    layouts->push_back(layout);
  }
  layout.replicated_attention = false;
  for (const int ranks : AttentionRanks(layout.expert)) {
    layout.attention_ranks = ranks;
    for (const Exchange exchange : {Exchange::kSlots, Exchange::kAllToAll}) {
      layout.exchange = exchange;
      layouts->push_back(layout);
    }
    if (ranks == layout.expert) {
      layout.exchange = Exchange::kGatherScatter;
      layouts->push_back(layout);
    }
  }
}

}  // namespace

std::vector<Layout> AllLayouts(const Scenario& scenario) {
  std::vector<Layout> layouts;
  const ModelShape& model = scenario.model;
  for (int copies = 1; copies <= kMaxCopies; ++copies) {
    for (const int expert : Divisors(model.num_experts * copies)) {
      if (copies > expert) continue;
      for (const int tensor : Divisors(scenario.network.gpus_per_node)) {
        for (const int pipeline : Divisors(model.num_layers)) {
          for (int spares = 0; spares <= (copies == 1 ? kMaxSpares : 0); ++spares) {
            Layout layout{.expert = expert,
                          .tensor = tensor,
                          .pipeline = pipeline,
                          .copies = copies,
                          .spares = spares};
            const int64_t groups = scenario.num_gpus / layout.gpus_per_group();
            if (groups < 1) continue;
            layout.data = static_cast<int>(groups);
            AddExchanges(layout, &layouts);
          }
        }
      }
    }
  }
  return layouts;
}

absl::StatusOr<SearchResult> Rank(const Scenario& scenario, const std::vector<Layout>& layouts) {
  absl::Status status = CheckScenario(scenario);
  if (!status.ok()) return status;
  SearchResult result;
  result.num_layouts = static_cast<int>(layouts.size());
  std::set<std::string> refused;
  for (const Layout& layout : layouts) {
    absl::StatusOr<Prediction> prediction = Predict(scenario, layout);
    if (prediction.ok()) {
      result.ranked.push_back(*std::move(prediction));
    } else if (refused.insert(StrategyName(layout)).second) {
      result.refused.push_back({LayoutName(layout), std::string(prediction.status().message())});
    }
  }
  std::sort(result.ranked.begin(), result.ranked.end(),
            [&scenario](const Prediction& a, const Prediction& b) {
              return IsBetter(scenario.target, a, b);
            });
  return result;
}

absl::StatusOr<SearchResult> Search(const Scenario& scenario) {
  absl::Status status = CheckScenario(scenario);
  if (!status.ok()) return status;
  return Rank(scenario, AllLayouts(scenario));
}

}  // namespace moe::planner
