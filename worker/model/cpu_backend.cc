#include "worker/model/cpu_backend.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "kernels/numerics.h"
#include "kernels/thread_pool.h"
#include "worker/model/forward.h"

namespace moe::model {
namespace {

constexpr uint64_t kMaxKvBlocks = uint64_t{1} << 24;

// Members are built in this order and point to earlier ones.
class CpuRank : public RankModel {
 public:
  CpuRank(const Checkpoint& checkpoint, const RankSpec& spec, const CpuBackend::Options& options,
          StepTimes* times, LoadReport report)
      : report_(std::move(report)),
        times_(times),
        pool_({.num_threads = spec.attention ? std::max(1, spec.num_threads) : 1,
               // Every replicated rank attends, each with one thread: they outnumber the cores.
               .spin_microseconds =
                   spec.replicated && spec.num_ranks > 1 ? 0 : options.spin_microseconds}),
        context_{.level = options.level, .pool = &pool_},
        experts_(checkpoint.config(), checkpoint.weights(), spec.experts, context_) {}

  absl::Status MakeDecoder(const Checkpoint& checkpoint, const RankSpec& spec) {
    const ModelConfig& config = checkpoint.config();
    const uint64_t block_bytes = KvBlockBytes(config);
    const uint64_t num_blocks = spec.kv_bytes / block_bytes;
    if (num_blocks < 1) {
      return absl::InvalidArgumentError(
          absl::StrFormat("a KV cache of %d bytes holds nothing: one block of %d tokens takes %d",
                          spec.kv_bytes, kernels::kKvBlockTokens, block_bytes));
    }
    auto cache = KvCache::Create(config, static_cast<int>(std::min(num_blocks, kMaxKvBlocks)));
    if (!cache.ok()) return cache.status();
    kv_cache_ = *std::move(cache);
    decoder_ = std::make_unique<CpuDecoder>(
        config, checkpoint.weights(), kv_cache_.get(),
        CpuDecoder::Options{
            .max_rows = spec.max_rows, .max_positions = spec.max_positions, .times = times_},
        context_);
    return absl::OkStatus();
  }

  const LoadReport& report() const override { return report_; }
  std::string description() const override { return ""; }
  Decoder* decoder() override { return decoder_.get(); }
  int num_kv_blocks() const override { return kv_cache_ == nullptr ? 0 : kv_cache_->num_blocks(); }
  const kernels::Context& context() const override { return context_; }
  const ExpertCounts& expert_counts() const override { return experts_.counts(); }
  exchange::LocalExperts* host_experts() override { return &experts_; }

  absl::StatusOr<std::unique_ptr<LayerLoop>> MakeLayers(const RankExchange& exchange) override {
    if (exchange.host == nullptr) {
      return absl::FailedPreconditionError(
          "the CPU backend has no experts in the memory of GPUs: its exchange has to be "
          "SharedMemory or Tcp");
    }
    return std::make_unique<HostLayerLoop>(decoder_.get(), exchange.host, times_);
  }

 private:
  const LoadReport report_;
  StepTimes* const times_;
  kernels::ThreadPool pool_;
  const kernels::Context context_;
  RankExperts experts_;
  std::unique_ptr<KvCache> kv_cache_;
  std::unique_ptr<CpuDecoder> decoder_;
};

}  // namespace

std::string CpuBackend::numerics_id() const { return std::string(kernels::kNumericsId); }

absl::StatusOr<std::unique_ptr<RankModel>> CpuBackend::Load(const Checkpoint& checkpoint,
                                                            const RankSpec& spec, StepTimes* times,
                                                            const Checkpoint::Progress& progress) {
  LoadReport report;
  if (options_.read_tensors) {
    const auto tensors = checkpoint.SelectTensors(spec.experts, spec.attention);
    if (!tensors.ok()) return tensors.status();
    auto loaded = checkpoint.Load(*tensors, progress);
    if (!loaded.ok()) return loaded.status();
    report = *std::move(loaded);
  }
  auto rank = std::make_unique<CpuRank>(checkpoint, spec, options_, times, std::move(report));
  if (spec.attention) {
    absl::Status status = rank->MakeDecoder(checkpoint, spec);
    if (!status.ok()) return status;
  }
  return rank;
}

}  // namespace moe::model
