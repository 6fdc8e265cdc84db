#include "controller/api/layout_decision.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace moe::api {

std::string DescribeChoice(const LayoutChoice& choice) {
  std::string text = choice.layout;
  if (choice.num_gpus > 0) {
    absl::StrAppend(&text, " on ", choice.num_gpus, choice.num_gpus == 1 ? " GPU" : " GPUs");
  }
  if (choice.figures.has_value()) {
    const LayoutFigures& figures = *choice.figures;
    absl::StrAppendFormat(&text,
                          ": %.2f ms a pass, %.0f tokens/s, %.2f requests/s, %.1f GB on a GPU, "
                          "limited by %s",
                          figures.pass_milliseconds, figures.tokens_per_second,
                          figures.requests_per_second,
                          static_cast<double>(figures.gpu_memory_bytes) / 1e9, figures.limited_by);
  }
  if (!choice.needs.empty()) {
    absl::StrAppend(&text, "; needs ", choice.needs);
  }
  return text;
}

bool SameLayout(const LayoutChoice& a, const LayoutChoice& b) {
  return a.expert == b.expert && a.attention_ranks == b.attention_ranks &&
         a.replicated_attention == b.replicated_attention;
}

}  // namespace moe::api
