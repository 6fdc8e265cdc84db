#include "planner/feasibility.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "planner/memory.h"

namespace moe::planner {
namespace {

// Layouts with the same expert width, or as near as the GPUs allow, that use what exists.
std::string WhatFits(const Layout& layout, const ModelShape& model, int num_gpus) {
  std::vector<std::string> names;
  const auto add = [&](int expert, int tensor) {
    const int data = num_gpus / (expert * tensor);
    if (data < 1) return;
    const Layout fits{.expert = expert, .tensor = tensor, .data = data};
    const std::string name = absl::StrFormat("%s (%s GPUs)", StrategyName(fits),
                                             WithThousands(static_cast<double>(fits.num_gpus())));
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  };
  int expert = std::min({layout.expert, num_gpus, model.num_experts});
  while (model.num_experts % expert != 0) --expert;
  add(expert, 1);
  for (int half = expert; half > 1; half /= 2) {
    if (model.num_experts % half != 0 || layout.tensor < 2 || num_gpus % half != 0) continue;
    const int tensor = std::min(layout.tensor, num_gpus / half);
    if (tensor > 1 && model.num_heads % tensor == 0 && tensor <= 8) {
      add(half, tensor);
      break;
    }
  }
  add(1, 1);
  return absl::StrJoin(names, ", ");
}

std::string Gigabytes(double bytes) { return absl::StrFormat("%.1f GB", bytes / 1e9); }

}  // namespace

std::string WithThousands(double number) {
  std::string text = absl::StrFormat("%.0f", number);
  for (size_t at = text.size(); at > 3 && text[at - 4] != '-'; at -= 3) text.insert(at - 3, ",");
  return text;
}

absl::Status CheckSizes(const Layout& layout, const ModelShape& model, const Network& network,
                        int num_gpus) {
  const std::string name = LayoutName(layout);
  const auto refuse = [&name](const std::string& why) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": ", why));
  };
  if (layout.num_gpus() > num_gpus) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "EP%d x TP%d x PP%d x DP%d%s needs %s GPUs where %s exist; what fits: %s", layout.expert,
        layout.tensor, layout.pipeline, layout.data,
        layout.spares > 0 ? absl::StrFormat(" and %d spares for each group", layout.spares) : "",
        WithThousands(static_cast<double>(layout.num_gpus())), WithThousands(num_gpus),
        WhatFits(layout, model, num_gpus)));
  }
  const int64_t instances = int64_t{model.num_experts} * layout.copies;
  if (layout.expert > instances) {
    return refuse(absl::StrFormat(
        "%d expert ranks, but %s has %d experts in a layer%s", layout.expert, model.name,
        model.num_experts,
        layout.copies > 1 ? absl::StrFormat(" and %d copies of each", layout.copies) : ""));
  }
  if (instances % layout.expert != 0) {
    return refuse(absl::StrFormat("%d experts of a layer cannot be shared evenly by %d ranks",
                                  instances, layout.expert));
  }
  if (layout.copies > layout.expert) {
    return refuse(absl::StrFormat("%d copies of an expert need as many ranks; there are %d",
                                  layout.copies, layout.expert));
  }
  if (layout.tensor > network.gpus_per_node || network.gpus_per_node % layout.tensor != 0) {
    return refuse(
        absl::StrFormat("the %d GPUs of a tensor-parallel rank must lie in one node; nodes have %d",
                        layout.tensor, network.gpus_per_node));
  }
  if (model.num_heads % layout.tensor != 0) {
    return refuse(absl::StrFormat("%d heads cannot be shared evenly by %d GPUs", model.num_heads,
                                  layout.tensor));
  }
  if (model.expert_intermediate % layout.tensor != 0) {
    return refuse(absl::StrFormat("an expert's width of %d cannot be shared evenly by %d GPUs",
                                  model.expert_intermediate, layout.tensor));
  }
  if (model.num_layers % layout.pipeline != 0) {
    return refuse(absl::StrFormat("%d layers cannot be cut into %d equal stages", model.num_layers,
                                  layout.pipeline));
  }
  const int ranks_in_node = network.gpus_per_node / layout.tensor;
  if (network.library.within_node_only && (layout.expert > ranks_in_node || layout.pipeline > 1)) {
    return refuse(absl::StrFormat(
        "a group would span nodes of %d ranks, and library %s was measured within one only: give "
        "--gpus-per-node %d for ranks on one machine, or another --library",
        ranks_in_node, network.library.name, layout.expert * layout.tensor));
  }
  return absl::OkStatus();
}

absl::Status CheckSharing(const Layout& layout, const Device& device, const Network& network) {
  if (!device.shared_cores.has_value()) return absl::OkStatus();
  const auto refuse = [&](const char* why) {
    return absl::InvalidArgumentError(absl::StrCat(LayoutName(layout), ": ", why, " on ",
                                                   device.name, ", whose ranks share its cores"));
  };
  if (layout.tensor > 1) return refuse("tensor parallelism is not modelled");
  if (layout.pipeline > 1) return refuse("pipeline stages are not modelled");
  if (layout.copies > 1 || layout.spares > 0) return refuse("copies and spares are not modelled");
  if (layout.data > 1 && layout.gpus_per_group() < network.gpus_per_node) {
    return refuse("several groups on one machine are not modelled");
  }
  return absl::OkStatus();
}

absl::Status CheckMemory(const Layout& layout, const ModelShape& model, const Device& device,
                         const Assumptions& assumptions, double tokens) {
  const MemoryUse use = MemoryOf(model, layout, assumptions, 1, tokens);
  if (use.total_bytes() <= device.memory_bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrFormat(
      "%s: a GPU would hold %s of weights, %s of KV cache for one sequence of %s tokens and %s of "
      "buffers and reserve, %s together, where one %s has %s",
      LayoutName(layout), Gigabytes(use.weight_bytes()), Gigabytes(use.kv_bytes),
      WithThousands(tokens), Gigabytes(use.buffer_bytes + use.reserved_bytes),
      Gigabytes(use.total_bytes()), device.name, Gigabytes(device.memory_bytes)));
}

}  // namespace moe::planner
