#include "simulator/router.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"

namespace moe::simulator {
namespace {

constexpr double kMaxExponent = 10;
constexpr int kOrders = 64;           // of a layer's experts
constexpr int kMaxLayersOfStep = 16;  // that are drawn for one kept step
constexpr int kMaxKept = 64;          // steps of one number of rows
constexpr int kMinKept = 4;
constexpr int kRowsToDraw = 1 << 17;  // rows times layers, for one number of rows
constexpr int kMaxRows = 8192;        // above, chance hardly matters any more

// Shares in proportion to `weights` that add up to k, none above 1: what would be above is shared
// among the others.
std::vector<double> SharesOf(const std::vector<double>& weights, int k) {
  std::vector<size_t> by_weight(weights.size());
  std::iota(by_weight.begin(), by_weight.end(), size_t{0});
  std::stable_sort(by_weight.begin(), by_weight.end(),
                   [&](size_t a, size_t b) { return weights[a] > weights[b]; });
  // Of each place and all behind it: added up from the lightest on, so that none is lost beside
  // the heaviest.
  std::vector<double> sums(weights.size() + 1, 0);
  for (size_t i = weights.size(); i-- > 0;) sums[i] = sums[i + 1] + weights[by_weight[i]];
  std::vector<double> shares(weights.size(), 0);
  double left = k;
  for (size_t i = 0; i < by_weight.size() && sums[i] > 0; ++i) {
    const double share = std::min(1.0, weights[by_weight[i]] / sums[i] * left);
    shares[by_weight[i]] = share;
    left -= share;
  }
  return shares;
}

void Shuffle(std::vector<int>* values, Random* random) {
  for (size_t i = values->size(); i > 1; --i) {
    std::swap((*values)[i - 1], (*values)[static_cast<size_t>(random->Below(static_cast<int>(i)))]);
  }
}

// 1 to 16, then 8 steps to each doubling.
int Bucket(int num_rows) {
  num_rows = std::min(num_rows, kMaxRows);
  int unit = 1;
  while (num_rows / unit >= 16) unit *= 2;
  return num_rows / unit * unit;
}

absl::StatusOr<std::vector<std::vector<double>>> LayerWeights(const RouterSpec& spec,
                                                              const RouterShape& shape,
                                                              Random* random) {
  const auto num_experts = static_cast<size_t>(shape.num_experts);
  if (spec.kind == RouterSpec::Kind::kUniform) {
    return std::vector<std::vector<double>>(1, std::vector<double>(num_experts, 1.0));
  }
  std::vector<std::vector<double>> weights(static_cast<size_t>(shape.num_layers),
                                           std::vector<double>(num_experts, 0));
  if (spec.kind == RouterSpec::Kind::kZipf) {
    std::vector<int> place(num_experts);
    std::iota(place.begin(), place.end(), 1);
    for (std::vector<double>& layer : weights) {
      Shuffle(&place, random);  // each layer has other favourites
      for (size_t e = 0; e < num_experts; ++e) layer[e] = std::pow(place[e], -spec.exponent);
    }
    return weights;
  }
  if (spec.expert_tokens.size() != weights.size() * num_experts) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "the router was measured with %d experts in all layers together; this model has %d layers "
        "of %d experts",
        spec.expert_tokens.size(), shape.num_layers, shape.num_experts));
  }
  for (size_t layer = 0; layer < weights.size(); ++layer) {
    int num_used = 0;
    for (size_t e = 0; e < num_experts; ++e) {
      const uint64_t tokens = spec.expert_tokens[layer * num_experts + e];
      weights[layer][e] = static_cast<double>(tokens);
      num_used += tokens > 0 ? 1 : 0;
    }
    if (num_used < shape.top_k) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "the router was measured for too short a time: %d experts of layer %d were used, fewer "
          "than the %d that each token chooses",
          num_used, layer, shape.top_k));
    }
  }
  return weights;
}

}  // namespace

absl::StatusOr<RouterSpec> ParseRouter(absl::string_view text) {
  RouterSpec spec;
  absl::string_view rest = text;
  if (text == "uniform") return spec;
  if (absl::ConsumePrefix(&rest, "zipf:") && absl::SimpleAtod(rest, &spec.exponent) &&
      spec.exponent >= 0 && spec.exponent <= kMaxExponent) {
    spec.kind = RouterSpec::Kind::kZipf;
    return spec;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("router '", absl::CHexEscape(text.substr(0, 80)),
                   "' is neither uniform nor zipf:1.1 (an exponent from 0 to ", kMaxExponent, ")"));
}

std::string DescribeRouter(const RouterSpec& spec) {
  switch (spec.kind) {
    case RouterSpec::Kind::kUniform:
      return "uniform";
    case RouterSpec::Kind::kZipf:
      return absl::StrFormat("Zipf with exponent %g", spec.exponent);
    case RouterSpec::Kind::kMeasured:
      return "as measured";
  }
  return "";
}

absl::StatusOr<RouterModel> RouterModel::Create(const RouterSpec& spec, const RouterShape& shape,
                                                const coordinator::Placement& placement,
                                                uint64_t seed) {
  Random random(seed, Stream::kRouterSetup);
  auto weights = LayerWeights(spec, shape, &random);
  if (!weights.ok()) return weights.status();
  RouterModel model(shape, placement.num_slots, seed);
  model.rows_of_rank_.resize(static_cast<size_t>(placement.num_slots));
  std::vector<int> experts(static_cast<size_t>(shape.num_experts));
  std::iota(experts.begin(), experts.end(), 0);
  for (const std::vector<double>& layer : *weights) {
    model.shares_.push_back(SharesOf(layer, shape.top_k));
    std::vector<Order>& orders = model.orders_.emplace_back(kOrders);
    for (Order& order : orders) {
      Shuffle(&experts, &random);
      double end = 0;
      for (const int expert : experts) {
        end += model.shares_.back()[static_cast<size_t>(expert)];
        order.ends.push_back(end);
        order.ranks.push_back(placement.slots_of_expert[static_cast<size_t>(expert)].front());
      }
    }
  }
  return model;
}

double RouterModel::DrawLayer(int layer, int num_rows) {
  std::fill(rows_of_rank_.begin(), rows_of_rank_.end(), 0);
  const std::vector<Order>& orders = orders_[static_cast<size_t>(layer)];
  for (int row = 0; row < num_rows; ++row) {
    const Order& order = orders[static_cast<size_t>(random_.Below(kOrders))];
    double point = random_.Uniform();
    auto at = order.ends.begin();
    for (int i = 0; i < shape_.top_k; ++i, point += 1) {
      at = std::upper_bound(at, order.ends.end() - 1, point);
      ++rows_of_rank_[static_cast<size_t>(
          order.ranks[static_cast<size_t>(at - order.ends.begin())])];
    }
  }
  const int most = *std::max_element(rows_of_rank_.begin(), rows_of_rank_.end());
  return most * static_cast<double>(num_ranks_) / (static_cast<double>(num_rows) * shape_.top_k);
}

double RouterModel::DrawTraffic(int num_rows) {
  if (num_ranks_ == 1) return 1;
  const int rows = Bucket(num_rows);
  std::vector<double>& kept = kept_[rows];
  if (kept.empty()) {
    const int num_layers = std::min(shape_.num_layers, kMaxLayersOfStep);
    const int count = std::clamp(kRowsToDraw / (rows * num_layers), kMinKept, kMaxKept);
    for (int i = 0; i < count; ++i) {
      double sum = 0;
      for (int j = 0; j < num_layers; ++j) {
        sum += DrawLayer((i * num_layers + j) % static_cast<int>(orders_.size()), rows);
      }
      kept.push_back(sum / num_layers);
    }
  }
  return kept[static_cast<size_t>(random_.Below(static_cast<int>(kept.size())))];
}

}  // namespace moe::simulator
