#include "worker/daemon/inspect.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "worker/model/model_files.h"

namespace moe::worker {
namespace {

// The kubelet keeps 4 KiB.
constexpr size_t kMaxTerminationBytes = 4000;

void WriteTerminationLog(const std::string& path, std::string_view text) {
  // The kubelet has made it; elsewhere there is none, and none is wanted.
  const int fd = open(path.c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC);
  if (fd < 0) return;
  text = text.substr(0, kMaxTerminationBytes);
  while (!text.empty()) {
    const ssize_t n = write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    text.remove_prefix(static_cast<size_t>(n));
  }
  close(fd);
}

}  // namespace

absl::StatusOr<ModelFacts> InspectModel(const std::string& model_dir) {
  const absl::StatusOr<model::ModelFiles> files = model::ReadModelFiles(model_dir);
  if (!files.ok()) return files.status();
  ModelFacts facts;
  facts.num_layers = files->config.num_layers;
  facts.num_experts = files->config.num_experts;
  facts.top_k = files->config.top_k;
  facts.hidden = files->config.hidden;
  facts.intermediate = files->config.intermediate;
  facts.num_heads = files->config.num_heads;
  facts.num_kv_heads = files->config.num_kv_heads;
  facts.head_dim = files->config.head_dim;
  facts.vocab_size = files->config.vocab_size;
  facts.max_positions = files->config.max_positions;
  facts.tied_embeddings = files->config.tie_word_embeddings;
  for (const model::ModelTensor& tensor : files->tensors) {
    const uint64_t stored = tensor.info.end - tensor.info.begin;
    facts.weight_bytes += tensor.info.dtype == model::DType::kF32 ? stored / 2 : stored;
  }
  return facts;
}

std::string ToJsonLine(const ModelFacts& facts) {
  return absl::StrCat("{\"num_layers\":", facts.num_layers, ",\"num_experts\":", facts.num_experts,
                      ",\"top_k\":", facts.top_k, ",\"weight_bytes\":", facts.weight_bytes,
                      ",\"shape\":{\"hidden\":", facts.hidden,
                      ",\"intermediate\":", facts.intermediate, ",\"num_heads\":", facts.num_heads,
                      ",\"num_kv_heads\":", facts.num_kv_heads, ",\"head_dim\":", facts.head_dim,
                      ",\"vocab_size\":", facts.vocab_size,
                      ",\"max_positions\":", facts.max_positions,
                      ",\"tied_embeddings\":", facts.tied_embeddings ? "true" : "false", "}}");
}

int RunInspect(const std::string& model_dir, const std::string& termination_log) {
  const absl::StatusOr<ModelFacts> facts = InspectModel(model_dir);
  if (!facts.ok()) {
    const std::string message(facts.status().message());
    std::fprintf(stderr, "%s\n", message.c_str());
    WriteTerminationLog(termination_log, message);
    return 1;
  }
  const std::string line = ToJsonLine(*facts);
  std::printf("%s\n", line.c_str());
  WriteTerminationLog(termination_log, line);
  return 0;
}

}  // namespace moe::worker
