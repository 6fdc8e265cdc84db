#include "worker/cuda/rank.h"

#include <algorithm>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "worker/cuda/layer_loop.h"
#include "worker/cuda/weight_loader.h"
#include "worker/model/forward.h"

namespace moe::cuda {
namespace {

int MaxPositions(const model::ModelConfig& config, const model::RankSpec& spec) {
  return spec.max_positions > 0 ? std::min(spec.max_positions, config.max_positions)
                                : config.max_positions;
}

RankSizes SizesOf(const model::ModelConfig& config, const model::RankSpec& spec) {
  return SizesFor(config, spec.max_rows, MaxPositions(config, spec),
                  MaxPairs(config, static_cast<int>(spec.experts.size()), spec.max_rows,
                           NumSources(spec.num_ranks, spec.replicated)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<CudaRank>> CudaRank::Create(
    const model::Checkpoint& checkpoint, const model::RankSpec& spec, const CudaOptions& options,
    const device::DeviceInfo& info, model::StepTimes* times,
    const model::Checkpoint::Progress& progress) {
  const model::ModelConfig& config = checkpoint.config();
  absl::Status status = CheckModel(config);
  if (!status.ok()) return status;
  auto stream = device::Stream::Create();
  if (!stream.ok()) return stream.status();
  const auto free = device::QueryMemory();
  if (!free.ok()) return free.status();
  const DeviceMemory memory = {.name = absl::StrCat("GPU ", info.ordinal, " (", info.name, ")"),
                               .free_bytes = free->free_bytes,
                               .total_bytes = free->total_bytes,
                               .share = options.memory_share};
  const auto plan = PlanMemory(config,
                               {.num_local_experts = static_cast<int>(spec.experts.size()),
                                .attention = spec.attention,
                                .num_ranks = spec.num_ranks,
                                .replicated = spec.replicated,
                                .max_rows = spec.max_rows,
                                .max_positions = MaxPositions(config, spec),
                                .kv_bytes = spec.kv_bytes,
                                .exchange_bytes = spec.exchange_bytes},
                               memory);
  if (!plan.ok()) return plan.status();
  Bump counted;
  LayOut(checkpoint, spec, *plan, &counted);
  if (counted.num_bytes() + spec.exchange_bytes > plan->num_bytes()) {
    return absl::InternalError(
        absl::StrFormat("the parts of a rank take %d bytes of a GPU, where %d were planned",
                        counted.num_bytes(), plan->num_bytes()));
  }
  auto allocated =
      device::DeviceBuffer<std::byte>::Create(static_cast<int64_t>(counted.num_bytes()));
  if (!allocated.ok()) return allocated.status();

  const auto may_overlap = kernels::cuda::KernelsMayOverlap();
  if (!may_overlap.ok()) return may_overlap.status();
  auto rank = absl::WrapUnique(new CudaRank(checkpoint, spec, options, info,
                                            options.overlap_kernels && *may_overlap, *plan,
                                            *std::move(stream), *std::move(allocated)));
  rank->description_ = Describe(*plan, memory);
  Bump laid_out(rank->memory_.data());
  const Layout layout = LayOut(checkpoint, spec, *plan, &laid_out);
  status = rank->LoadWeights(layout, progress);
  if (status.ok()) status = rank->Build(layout, times);
  if (!status.ok()) return status;
  return rank;
}

CudaRank::CudaRank(const model::Checkpoint& checkpoint, const model::RankSpec& spec,
                   const CudaOptions& options, const device::DeviceInfo& info,
                   bool overlaps_kernels, const MemoryPlan& plan, device::Stream stream,
                   device::DeviceBuffer<std::byte> memory)
    : checkpoint_(checkpoint),
      spec_(spec),
      graphs_(options.graphs),
      plan_(plan),
      sizes_(SizesOf(checkpoint.config(), spec)),
      pool_({.num_threads = std::max(1, spec.num_threads), .spin_microseconds = 0}),
      context_{.level = options.cpu_level, .pool = &pool_},
      stream_(std::move(stream)),
      gpu_{.stream = stream_.get(), .num_sms = info.num_sms, .overlaps_kernels = overlaps_kernels},
      memory_(std::move(memory)) {}

// What is still in the stream reads memory that goes away. An error has been told by a step.
CudaRank::~CudaRank() { static_cast<void>(stream_.Synchronize()); }

CudaRank::Layout CudaRank::LayOut(const model::Checkpoint& checkpoint, const model::RankSpec& spec,
                                  const MemoryPlan& plan, Bump* memory) {
  const model::ModelConfig& config = checkpoint.config();
  const RankSizes sizes = SizesOf(config, spec);
  const auto num_local_experts = static_cast<int>(spec.experts.size());
  Layout layout;
  layout.weights =
      LayOutWeights(config, checkpoint.weights(), spec.experts, spec.attention, memory);
  layout.experts = LayOutExperts(config, sizes, num_local_experts, memory);
  if (spec.num_ranks == 1) layout.exchange = LayOutLocalExchange(config, sizes, memory);
  if (!spec.attention) return layout;
  layout.decoder.buffers = LayOutDecoder(config, sizes, memory);
  layout.decoder.upload = memory->Take<std::byte>(
      static_cast<int64_t>(StepBytes(LargestStep(sizes), plan.num_kv_blocks)));
  const auto block_elements =
      static_cast<int64_t>(model::KvBlockBytes(config) / sizeof(kernels::BFloat16));
  layout.decoder.kv =
      memory->Take<kernels::BFloat16>((int64_t{plan.num_kv_blocks} + 1) * block_elements);
  return layout;
}

absl::Status CudaRank::LoadWeights(const Layout& layout,
                                   const model::Checkpoint::Progress& progress) {
  weights_ = layout.weights.weights;
  auto loader = WeightLoader::Create(layout.weights.copies, &stream_);
  if (!loader.ok()) return loader.status();
  const auto tensors = checkpoint_.SelectTensors(spec_.experts, spec_.attention);
  if (!tensors.ok()) return tensors.status();
  auto report = checkpoint_.Load(
      *tensors, progress,
      [&](absl::Span<const kernels::BFloat16> values) { return (*loader)->Add(values); });
  if (!report.ok()) return report.status();
  report_ = *std::move(report);
  absl::Status status = device::CopyToDevice<kernels::ExpertWeights>(layout.weights.expert_table,
                                                                     weights_.experts, stream_);
  if (!status.ok()) return status;
  return (*loader)->Finish();
}

absl::Status CudaRank::Build(const Layout& layout, model::StepTimes* times) {
  const model::ModelConfig& config = checkpoint_.config();
  auto experts = RankDeviceExperts::Create(config, spec_.experts, &weights_, layout.experts,
                                           sizes_.max_pairs, gpu_, &stream_);
  if (!experts.ok()) return experts.status();
  experts_ = *std::move(experts);
  if (spec_.num_ranks == 1) {
    auto event = device::Event::Create();
    if (!event.ok()) return event.status();
    local_exchange_ = std::make_unique<LocalDeviceExchange>(
        config, experts_.get(), layout.exchange,
        LocalDeviceExchange::Options{.max_rows = spec_.max_rows,
                                     .step_deadline = spec_.step_deadline},
        gpu_, &stream_, *std::move(event));
  }
  if (!spec_.attention) return absl::OkStatus();
  auto decoder = CudaDecoder::Create(
      config, &weights_, layout.decoder, experts_.get(),
      {.sizes = sizes_, .num_kv_blocks = plan_.num_kv_blocks, .times = times}, gpu_, &stream_);
  if (!decoder.ok()) return decoder.status();
  decoder_ = *std::move(decoder);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<model::LayerLoop>> CudaRank::MakeLayers(
    const model::RankExchange& exchange) {
  if (local_exchange_ == nullptr && exchange.device == nullptr) {
    return absl::FailedPreconditionError(
        "the experts of this rank lie in the memory of a GPU: a group of more than one needs the "
        "NCCL exchange");
  }
  return std::make_unique<CudaLayerLoop>(
      checkpoint_.config(), decoder_.get(), experts_.get(),
      exchange.device == nullptr ? local_exchange_.get() : exchange.device, &stream_,
      CudaLayerLoop::Options{.rank = spec_.rank, .sizes = sizes_, .graphs = graphs_});
}

}  // namespace moe::cuda
