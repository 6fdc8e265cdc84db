#include "tests/system/in_process_group.h"

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "kernels/numerics.h"
#include "worker/daemon/host_group_exchange.h"
#include "worker/model/forward.h"

namespace moe::testing {
namespace {

constexpr uint64_t kClient = 1;

void Require(const absl::Status& status, const char* what) {
  if (status.ok()) return;
  std::cerr << what << ": " << status << std::endl;
  std::abort();
}

}  // namespace

InProcessGroup::InProcessGroup(const model::Checkpoint* checkpoint, const GroupOptions& options)
    : checkpoint_(checkpoint),
      options_(options),
      // Every rank of this process maps the same files: what a rank reads is read when it is used.
      cpu_backend_({.level = options.level, .spin_microseconds = 0, .read_tensors = false}),
      backend_(options.backend != nullptr ? options.backend : &cpu_backend_) {
  const model::ModelConfig& config = checkpoint->config();
  shape_.num_ranks = options.num_ranks;
  shape_.num_attention_ranks = options.num_attention_ranks;
  shape_.replicated = options.replicated;
  shape_.num_layers = config.num_layers;
  shape_.num_experts = config.num_experts;
  shape_.hidden = config.hidden;
  shape_.top_k = config.top_k;
  shape_.max_rows = options.max_step_tokens;
  for (int expert = 0; expert < config.num_experts; ++expert) {
    shape_.rank_of_expert.push_back(expert * options.num_ranks / config.num_experts);
  }
  for (int rank = 0; rank < options.num_ranks; ++rank) ranks_.push_back(MakeRank(rank));
}

InProcessGroup::~InProcessGroup() { EndEpoch(); }

std::unique_ptr<InProcessGroup::Rank> InProcessGroup::MakeRank(int rank_idx) {
  const model::ModelConfig& config = checkpoint_->config();
  auto rank = std::make_unique<Rank>();
  if (options_.tcp) {
    auto listener = exchange::TcpListener::Start("127.0.0.1:0");
    Require(listener.status(), "listener");
    rank->listener = *std::move(listener);
  }
  std::vector<int> experts;
  for (int expert = 0; expert < config.num_experts; ++expert) {
    if (shape_.rank_of_expert[expert] == rank_idx) experts.push_back(expert);
  }
  auto model = backend_->Load(*checkpoint_,
                              {.rank = rank_idx,
                               .num_ranks = options_.num_ranks,
                               .experts = std::move(experts),
                               .attention = HasAttention(rank_idx),
                               .replicated = options_.replicated,
                               .max_rows = options_.max_step_tokens,
                               .max_positions = config.max_positions,
                               .kv_bytes = model::KvBlockBytes(config) *
                                           static_cast<uint64_t>(options_.kv_blocks_per_owner),
                               .num_threads = options_.num_threads},
                              &rank->times, {});
  Require(model.status(), "loading a rank");
  rank->model = *std::move(model);
  if (options_.ends != nullptr) {
    Require(options_.ends->Take(shape_, rank_idx, rank->model.get()), "the exchange of a rank");
  }
  if (!HasAttention(rank_idx)) return rank;
  rank->blocks =
      std::make_unique<engine::KvBlockPool>(rank->model->num_kv_blocks(), kernels::kKvBlockTokens);
  rank->owner = std::make_unique<engine::Owner>(
      engine::OwnerOptions{.rank = rank_idx,
                           .num_ranks = options_.num_ranks,
                           .replicated = options_.replicated,
                           .samples = !options_.replicated || rank_idx == 0},
      rank->model->decoder(), rank->blocks.get(), rank->model->context(), &rank->times);
  if (rank_idx == 0) {
    engine::LeaderOptions leader;
    leader.limits = {.num_owners = options_.replicated ? 1 : options_.num_attention_ranks,
                     .max_sequences = options_.max_sequences,
                     .max_step_tokens = options_.max_step_tokens,
                     .kv_blocks_per_owner = options_.kv_blocks_per_owner,
                     .kv_block_tokens = kernels::kKvBlockTokens};
    leader.max_queue = 4096;
    leader.max_context = config.max_positions;
    leader.vocab_size = config.vocab_size;
    leader.end_token_ids = config.eos_token_ids;
    auto made = engine::Leader::Create(std::move(leader), epoch_, this);
    Require(made.status(), "leader");
    rank->leader = *std::move(made);
  }
  return rank;
}

absl::StatusOr<std::shared_ptr<worker::GroupExchange>> InProcessGroup::MakeEnd(int rank) {
  constexpr absl::Duration kDeadline = absl::Seconds(60);  // sanitizers are slow
  const std::string bootstrap = rank == 0 ? "" : ranks_[0]->end->bootstrap();
  if (options_.ends != nullptr) return options_.ends->Make(rank, epoch_, bootstrap);
  exchange::LocalExperts* const experts = ranks_[rank]->model->host_experts();
  absl::StatusOr<std::unique_ptr<exchange::EpochExchange>> made;
  if (options_.tcp) {
    exchange::TcpOptions options{.listener = ranks_[rank]->listener.get(),
                                 .step_deadline = kDeadline,
                                 .join_deadline = kDeadline};
    for (const auto& other : ranks_) options.addresses.push_back(other->listener->address());
    made = rank == 0 ? exchange::TcpGroup::Create(shape_, epoch_, experts, options)
                     : exchange::TcpGroup::Open(bootstrap, shape_, epoch_, rank, experts, options);
  } else {
    const exchange::SharedMemoryOptions options{.step_deadline = kDeadline,
                                                .join_deadline = kDeadline};
    made = rank == 0 ? exchange::SharedMemoryGroup::Create(shape_, epoch_, experts, options)
                     : exchange::SharedMemoryGroup::Open(bootstrap, shape_, epoch_, rank, experts,
                                                         options);
  }
  if (!made.ok()) return made.status();
  return std::make_shared<worker::HostGroupExchange>(*std::move(made));
}

absl::Status InProcessGroup::ConnectAll() {
  ++epoch_;
  epoch_over_ = false;
  for (size_t i = 0; i < ranks_.size(); ++i) {
    auto end = MakeEnd(static_cast<int>(i));
    if (!end.ok()) return end.status();
    ranks_[i]->end = *std::move(end);
  }
  std::vector<std::thread> threads;
  std::vector<absl::Status> statuses(ranks_.size());
  for (size_t i = 0; i < ranks_.size(); ++i) {
    threads.emplace_back([this, i, &statuses] { statuses[i] = ranks_[i]->end->Connect(); });
  }
  for (std::thread& thread : threads) thread.join();
  for (size_t i = 0; i < ranks_.size(); ++i) {
    if (!statuses[i].ok()) return statuses[i];
    auto layers = ranks_[i]->model->MakeLayers(ranks_[i]->end->exchange());
    if (!layers.ok()) return layers.status();
    ranks_[i]->layers = *std::move(layers);
  }
  return absl::OkStatus();
}

absl::Status InProcessGroup::StartEpoch(const std::vector<int>& fresh) {
  std::vector<int> lost_owners;
  for (const int rank : fresh) {
    ranks_[rank] = MakeRank(rank);
    if (HasAttention(rank)) lost_owners.push_back(options_.replicated ? 0 : rank);
  }
  const bool leader_lost = std::find(fresh.begin(), fresh.end(), 0) != fresh.end();
  if (leader_lost || (options_.replicated && !lost_owners.empty())) {
    for (auto& rank : ranks_) {
      if (rank->owner != nullptr) rank->owner->DropAll();
    }
  }
  if (absl::Status status = ConnectAll(); !status.ok()) return status;
  ranks_[0]->leader->OnEpochChanged(epoch_, lost_owners);
  for (size_t i = 0; i < ranks_.size(); ++i) {
    Rank* rank = ranks_[i].get();
    const engine::EpochRank epoch_rank{.epoch = epoch_,
                                       .rank = static_cast<int>(i),
                                       .num_ranks = options_.num_ranks,
                                       .replicated = options_.replicated,
                                       .layers = rank->layers.get(),
                                       .control = rank->end->control(),
                                       .owner = rank->owner.get(),
                                       .stop = &epoch_over_,
                                       .current_step = &rank->current_step};
    rank->thread = std::thread([rank, epoch_rank] {
      rank->outcome = rank->leader != nullptr ? engine::LeadEpoch(epoch_rank, rank->leader.get())
                                              : engine::FollowEpoch(epoch_rank);
    });
  }
  return absl::OkStatus();
}

void InProcessGroup::EndEpoch() {
  epoch_over_ = true;
  for (auto& rank : ranks_) {
    if (rank->end != nullptr) rank->end->Abort("the test ends the epoch");
  }
  if (ranks_[0]->leader != nullptr) ranks_[0]->leader->Wake();
  for (auto& rank : ranks_) {
    if (!rank->thread.joinable()) continue;
    rank->thread.join();
    // Its own end, or that it saw another rank's first.
    if (absl::IsAborted(rank->outcome) || absl::IsUnavailable(rank->outcome)) continue;
    Require(rank->outcome, "a rank ended its epoch");
  }
  for (auto& rank : ranks_) {
    rank->layers = nullptr;
    rank->end = nullptr;
  }
}

uint64_t InProcessGroup::Submit(const std::vector<int32_t>& prompt,
                                const engine::v1::SamplingParams& sampling,
                                const std::vector<int32_t>& generated) {
  engine::v1::Submit submit;
  submit.set_request(next_request_++);
  submit.mutable_prompt_tokens()->Add(prompt.begin(), prompt.end());
  submit.mutable_generated_tokens()->Add(generated.begin(), generated.end());
  *submit.mutable_sampling() = sampling;
  const uint64_t request = submit.request();
  {
    absl::MutexLock lock(&mutex_);
    answers_[request].tokens = generated;
  }
  if (auto rejected = leader()->Submit(kClient, std::move(submit), absl::Now())) {
    std::cerr << "rejected: " << rejected->message() << std::endl;
    std::abort();
  }
  return request;
}

void InProcessGroup::OnEvents(uint64_t, engine::v1::StepEvents events) {
  absl::MutexLock lock(&mutex_);
  for (const engine::v1::TokenEvent& event : events.events()) {
    Answer& answer = answers_[event.request()];
    answer.finish = event.finish();
    if (event.finish() == engine::v1::TokenEvent::ERROR) {
      answer.error = event.error();
      continue;
    }
    if (event.position() != answer.tokens.size()) answer.error = "a gap or a doubled token";
    answer.tokens.push_back(event.token());
    answer.logprobs.push_back(event.logprob());
    ++num_tokens_;
  }
}

std::map<uint64_t, Answer> InProcessGroup::WaitAll() {
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(
      +[](std::map<uint64_t, Answer>* answers) {
        return std::all_of(answers->begin(), answers->end(), [](const auto& entry) {
          return entry.second.finish != engine::v1::TokenEvent::NONE;
        });
      },
      &answers_));
  return std::exchange(answers_, {});
}

void InProcessGroup::WaitTokens(int num_tokens) {
  absl::MutexLock lock(&mutex_);
  const auto enough = [this, num_tokens]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return num_tokens_ >= num_tokens;
  };
  mutex_.Await(absl::Condition(&enough));
}

model::StepOutline InProcessGroup::TeachersOutline(uint64_t step, int start, int count) const {
  model::StepOutline outline = {.step = step,
                                .num_rows = std::vector<int>(options_.num_ranks),
                                .num_keys = std::vector<int64_t>(options_.num_ranks),
                                .longest = start + count,
                                .is_decode = count == 1};
  outline.num_rows[0] = count;
  outline.num_keys[0] = start + count;
  return outline;
}

// Where layers are not collective no plan names this rank: it runs experts until the epoch ends.
absl::Status InProcessGroup::FollowTeacher(Rank* rank) {
  for (;;) {
    const auto plan = rank->end->control()->ReceivePlan();
    if (!plan.ok()) return plan.status();
    absl::Status status;
    if (rank->model->decoder() != nullptr) status = rank->model->decoder()->Begin({}, {});
    const std::vector<std::string> numbers = absl::StrSplit(plan->plan, ' ');
    if (status.ok()) {
      status = rank->layers->Run(
          TeachersOutline(plan->step, std::stoi(numbers.at(0)), std::stoi(numbers.at(1))));
    }
    if (status.ok() && rank->model->decoder() != nullptr) {
      status = rank->model->decoder()->Finish({}, [](size_t, const model::LogitResult&) {});
    }
    if (status.ok()) status = rank->end->control()->SendResult(plan->step, "");
    if (!status.ok()) return status;
  }
}

absl::StatusOr<std::vector<float>> InProcessGroup::TeacherForced(const std::vector<int32_t>& tokens,
                                                                 int chunk) {
  const kernels::ScopedFlushDenormals flush_denormals;
  if (absl::Status status = ConnectAll(); !status.ok()) return status;
  std::vector<std::thread> followers;
  for (size_t i = 1; i < ranks_.size(); ++i) {
    followers.emplace_back([this, i] { ranks_[i]->outcome = FollowTeacher(ranks_[i].get()); });
  }
  Rank& rank = *ranks_[0];
  const int num_tokens = static_cast<int>(tokens.size());
  const int vocab_size = checkpoint_->config().vocab_size;
  std::vector<int32_t> block_table((tokens.size() + kernels::kKvBlockTokens - 1) /
                                   kernels::kKvBlockTokens);
  // Descending blocks: nothing may depend on their order.
  std::iota(block_table.rbegin(), block_table.rend(), 0);
  std::vector<int> followers_of_plan;
  for (int other = 1; rank.layers->collective() && other < options_.num_ranks; ++other) {
    followers_of_plan.push_back(other);
  }
  std::vector<float> logits;
  logits.reserve(tokens.size() * vocab_size);

  const auto run = [&]() -> absl::Status {
    uint64_t step = 0;
    for (int start = 0; start < num_tokens; start += chunk) {
      const int count = std::min(chunk, num_tokens - start);
      const kernels::AttentionSlice slice{
          .first_row = 0, .start = start, .count = count, .block_table = block_table.data()};
      absl::Status status =
          rank.end->control()->SendPlan(++step, absl::StrCat(start, " ", count), followers_of_plan);
      if (status.ok()) {
        status = rank.model->decoder()->Begin({&slice, 1},
                                              absl::MakeConstSpan(tokens).subspan(start, count));
      }
      if (status.ok()) status = rank.layers->Run(TeachersOutline(step, start, count));
      if (!status.ok()) return status;
      std::vector<model::LogitRequest> requests(count);
      for (int row = 0; row < count; ++row) requests[row].row = row;
      status =
          rank.model->decoder()->Finish(requests, [&](size_t, const model::LogitResult& result) {
            logits.insert(logits.end(), result.logits.begin(), result.logits.end());
          });
      if (status.ok()) {
        status = rank.end->control()->ReceiveResults(step, followers_of_plan).status();
      }
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  };
  const absl::Status status = run();
  for (auto& other : ranks_) other->end->Abort("the test ends the epoch");
  for (std::thread& follower : followers) follower.join();
  for (auto& other : ranks_) {
    other->layers = nullptr;
    other->end = nullptr;
  }
  if (!status.ok()) return status;
  return logits;
}

}  // namespace moe::testing
