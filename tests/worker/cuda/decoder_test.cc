// Tests worker/cuda/decoder.h and logit_stage.h on the emulator: beside the CPU's decoder, and
// bitwise beside itself.
#include "worker/cuda/decoder.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "kernels/thread_pool.h"
#include "tests/worker/cuda/rank_test.h"
#include "worker/engine/sampler.h"
#include "worker/exchange/shared_memory.h"

namespace moe::cuda {
namespace {

using model::LogitRequest;
using Want = LogitRequest::Want;

std::vector<int32_t> RandomTokens(int count, int vocab_size, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % vocab_size);
  return tokens;
}

// A CPU's rank with the exchange that it needs.
struct CpuRank {
  CpuRank(const model::Checkpoint& checkpoint, const model::RankSpec& spec)
      : backend({.level = kernels::CpuLevel::kPlain, .spin_microseconds = 0}) {
    auto loaded = backend.Load(checkpoint, spec, nullptr, {});
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    rank = *std::move(loaded);
    const model::ModelConfig& config = checkpoint.config();
    const exchange::GroupShape shape = {.num_layers = config.num_layers,
                                        .num_experts = config.num_experts,
                                        .hidden = config.hidden,
                                        .top_k = config.top_k,
                                        .max_rows = spec.max_rows,
                                        .rank_of_expert = std::vector<int>(config.num_experts, 0)};
    auto made = exchange::SharedMemoryGroup::Create(shape, 1, rank->host_experts(), {});
    EXPECT_TRUE(made.ok()) << made.status();
    group = *std::move(made);
    EXPECT_TRUE(group->Connect().ok());
    auto loop = rank->MakeLayers({.host = group.get()});
    EXPECT_TRUE(loop.ok()) << loop.status();
    layers = *std::move(loop);
  }
  // The exchange wants to see every step first.
  std::vector<std::vector<float>> Logits(const std::vector<Rows>& step) {
    EXPECT_TRUE(group->SendPlan(++step_number, "", {}).ok());
    std::vector<kernels::AttentionSlice> slices;
    std::vector<int32_t> tokens;
    std::vector<LogitRequest> requests;
    for (const Rows& rows : step) {
      slices.push_back(
          {static_cast<int>(tokens.size()), rows.start, rows.count, rows.blocks->data()});
      for (int i = 0; i < rows.count; ++i) {
        requests.push_back({.row = static_cast<int>(tokens.size())});
        tokens.push_back((*rows.tokens)[rows.start + i]);
      }
    }
    EXPECT_TRUE(rank->decoder()->Begin(slices, tokens).ok());
    EXPECT_TRUE(layers->Run(OutlineOfStep(step_number, slices)).ok());
    std::vector<std::vector<float>> logits;
    EXPECT_TRUE(rank->decoder()
                    ->Finish(requests,
                             [&](size_t, const model::LogitResult& result) {
                               logits.emplace_back(result.logits.begin(), result.logits.end());
                             })
                    .ok());
    return logits;
  }

  model::CpuBackend backend;
  std::unique_ptr<model::RankModel> rank;
  std::shared_ptr<exchange::EpochExchange> group;
  std::unique_ptr<model::LayerLoop> layers;
  uint64_t step_number = 0;
};

class CudaDecoderTest : public CudaRankTest {
 protected:
  void Make(const model::ModelConfig& config, const CudaOptions& options = {}, int max_rows = 64) {
    Write(config);
    backend_ = MakeBackend(options);
    rank_ = Load(backend_.get(), *checkpoint_, Spec(max_rows));
    ASSERT_NE(rank_, nullptr);
    auto layers = rank_->MakeLayers({});
    ASSERT_TRUE(layers.ok()) << layers.status();
    layers_ = *std::move(layers);
  }
  std::vector<std::vector<float>> Logits(const std::vector<Rows>& step) {
    return LogitsOf(rank_->decoder(), layers_.get(), step);
  }
  // All positions of a sequence, in chunks.
  std::vector<std::vector<float>> InChunks(const std::vector<int32_t>& tokens,
                                           const std::vector<int32_t>& blocks, int chunk) {
    std::vector<std::vector<float>> all;
    const auto size = static_cast<int>(tokens.size());
    for (int start = 0; start < size; start += chunk) {
      for (auto& row : Logits({{&tokens, start, std::min(chunk, size - start), &blocks}})) {
        all.push_back(std::move(row));
      }
    }
    return all;
  }

  std::unique_ptr<CudaBackend> backend_;
  std::unique_ptr<model::RankModel> rank_;
  std::unique_ptr<model::LayerLoop> layers_;
};

struct Shape {
  const char* name;
  void (*change)(model::ModelConfig*);
};
const Shape kShapes[] = {
    {"Tiny", [](model::ModelConfig*) {}},
    {"Clipped", [](model::ModelConfig* c) { c->clip_qkv = 0.5F; }},
    {"NormalisedTopK", [](model::ModelConfig* c) { c->norm_topk_prob = true; }},
    {"Tied", [](model::ModelConfig* c) { c->tie_word_embeddings = true; }},
    {"OddSizes",
     [](model::ModelConfig* c) {
       c->intermediate = 13;
       c->vocab_size = 53;
       c->num_experts = 5;
       c->top_k = 3;
     }},
    {"OneHead",
     [](model::ModelConfig* c) {
       c->hidden = 48;
       c->num_heads = 1;
       c->num_kv_heads = 1;
       c->head_dim = 48;
       c->num_layers = 1;
     }},
};

class CudaDecoderShapeTest : public CudaDecoderTest, public testing::WithParamInterface<Shape> {};

TEST_P(CudaDecoderShapeTest, LogitsAreTheCpusWithinTheRoundingOfBf16) {
  model::ModelConfig config = model::TinyConfig();
  GetParam().change(&config);
  ASSERT_NO_FATAL_FAILURE(Make(config));
  CpuRank cpu(*checkpoint_, Spec());
  const std::vector<int32_t> tokens = RandomTokens(40, config.vocab_size, 3);
  const std::vector<int32_t> blocks = BlocksFrom(9, 2);
  const auto gpu_logits = Logits({{&tokens, 0, 40, &blocks}});
  const auto cpu_logits = cpu.Logits({{&tokens, 0, 40, &blocks}});
  ASSERT_EQ(gpu_logits.size(), cpu_logits.size());
  double errors = 0;
  double values = 0;
  for (size_t row = 0; row < gpu_logits.size(); ++row) {
    for (size_t i = 0; i < gpu_logits[row].size(); ++i) {
      const double difference = double{gpu_logits[row][i]} - double{cpu_logits[row][i]};
      errors += difference * difference;
      values += double{cpu_logits[row][i]} * double{cpu_logits[row][i]};
    }
  }
  // Each of the about ten roundings to bf16 of a layer may fall to the other side, by 2^-8 of a
  // value. An expert that is chosen otherwise would be off by far more.
  EXPECT_LT(std::sqrt(errors / values), 0.01);
  EXPECT_GT(values, 0);
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaDecoderShapeTest, testing::ValuesIn(kShapes),
                         [](const auto& shape) { return std::string(shape.param.name); });

TEST_F(CudaDecoderTest, EveryChunkingGivesTheSameBits) {
  for (const bool graphs : {false, true}) {
    ASSERT_NO_FATAL_FAILURE(Make(model::TinyConfig(), {.graphs = graphs}));
    const std::vector<int32_t> tokens = RandomTokens(45, 100, 5);
    const std::vector<int32_t> blocks = BlocksFrom(7, 2);
    const auto whole = InChunks(tokens, blocks, 45);
    for (const int chunk : {1, 4, 33}) {
      EXPECT_TRUE(InChunks(tokens, blocks, chunk) == whole) << "chunks of " << chunk;
    }
  }
}

TEST_F(CudaDecoderTest, KernelsThatOverlapGiveTheSameBits) {
  const std::vector<int32_t> tokens = RandomTokens(40, 100, 6);
  const std::vector<int32_t> blocks = BlocksFrom(9, 2);
  std::vector<std::vector<float>> expected;
  for (const bool graphs : {false, true}) {
    for (const bool overlap : {false, true}) {
      ASSERT_NO_FATAL_FAILURE(
          Make(model::TinyConfig(), {.graphs = graphs, .overlap_kernels = overlap}));
      // A chunk, then token by token.
      std::vector<std::vector<float>> logits = Logits({{&tokens, 0, 30, &blocks}});
      for (int start = 30; start < 40; ++start) {
        logits.push_back(Logits({{&tokens, start, 1, &blocks}}).front());
      }
      if (expected.empty()) expected = logits;
      EXPECT_TRUE(logits == expected) << "graphs " << graphs << ", overlap " << overlap;
    }
  }
}

TEST_F(CudaDecoderTest, ARowHasTheSameBitsAloneAndInAnyBatch) {
  for (const bool graphs : {false, true}) {
    ASSERT_NO_FATAL_FAILURE(Make(model::TinyConfig(), {.graphs = graphs}));
    constexpr int kSequences = 7;
    std::vector<std::vector<int32_t>> tokens;
    std::vector<std::vector<int32_t>> blocks;
    std::vector<std::vector<float>> alone;  // of the last token of each
    for (int i = 0; i < kSequences; ++i) {
      tokens.push_back(RandomTokens(3 + 6 * i, 100, 20 + i));
      blocks.push_back(BlocksFrom(63 - 2 * i, 2));
      alone.push_back(InChunks(tokens[i], blocks[i], 64).back());
    }
    // The second step of a shape is captured, the third launches the same graph.
    for (int i = 0; i < 3 * kSequences; ++i) {
      const int batch = 1 + i % kSequences;
      std::vector<Rows> step;
      for (int s = 0; s < batch; ++s) {
        const auto length = static_cast<int>(tokens[s].size());
        step.push_back({&tokens[s], length - 1, 1, &blocks[s]});
      }
      const auto together = Logits(step);
      for (int s = 0; s < batch; ++s) {
        EXPECT_TRUE(together[s] == alone[s]) << "sequence " << s << " in a batch of " << batch;
      }
    }
    // Beside a prompt, which is no decode step.
    const std::vector<int32_t> prompt = RandomTokens(20, 100, 99);
    const std::vector<int32_t> prompt_blocks = BlocksFrom(40, 1);
    const auto length = static_cast<int>(tokens[2].size());
    const auto mixed =
        Logits({{&prompt, 0, 20, &prompt_blocks}, {&tokens[2], length - 1, 1, &blocks[2]}});
    EXPECT_TRUE(mixed.back() == alone[2]);
  }
}

TEST_F(CudaDecoderTest, LongSequencesAreSplitWithoutAnotherBit) {
  model::ModelConfig config = model::TinyConfig();
  config.num_layers = 1;
  config.max_positions = 512;
  ASSERT_NO_FATAL_FAILURE(Make(config, {}, 300));
  const std::vector<int32_t> tokens = RandomTokens(290, 100, 6);
  const std::vector<int32_t> blocks = BlocksFrom(20, 10);
  const auto whole = InChunks(tokens, blocks, 290);
  // Three splits, each by a block of its own.
  const auto last = Logits({{&tokens, 289, 1, &blocks}});
  EXPECT_TRUE(last[0] == whole.back());
  // Row by row over the end of a split: graphs of two shapes, each launched often.
  for (int position = 250; position < 265; ++position) {
    const auto row = Logits({{&tokens, position, 1, &blocks}});
    EXPECT_TRUE(row[0] == whole[position]) << "position " << position;
  }
  // Three rows of it, as if they were of three sequences.
  std::vector<Rows> step;
  for (int i = 0; i < 3; ++i) step.push_back({&tokens, 280 + i, 1, &blocks});
  const auto together = Logits(step);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(together[i] == whole[280 + i]);
}

// ---- What is drawn on the GPU

class CudaLogitsTest : public CudaDecoderTest {
 protected:
  void SetUp() override {
    CudaDecoderTest::SetUp();
    ASSERT_NO_FATAL_FAILURE(Make(model::TinyConfig()));
    tokens_ = RandomTokens(30, 100, 8);
    blocks_ = BlocksFrom(5, 1);
    logits_ = Logits({{&tokens_, 0, 30, &blocks_}});
  }
  std::vector<model::LogitResult> Ask(const std::vector<LogitRequest>& requests) {
    host_logits_.clear();
    return RunStep(rank_->decoder(), layers_.get(), {{&tokens_, 0, 30, &blocks_}}, requests,
                   &host_logits_);
  }

  std::vector<int32_t> tokens_;
  std::vector<int32_t> blocks_;
  std::vector<std::vector<float>> logits_;       // of each row
  std::vector<std::vector<float>> host_logits_;  // of each answer
};

TEST_F(CudaLogitsTest, GreedyTokensAreTheLargestLogits) {
  std::vector<LogitRequest> requests;
  for (int row = 0; row < 30; ++row) requests.push_back({.row = row, .want = Want::kDraw});
  const auto answers = Ask(requests);
  for (int row = 0; row < 30; ++row) {
    EXPECT_TRUE(answers[row].logits.empty());
    EXPECT_TRUE(answers[row].finite);
    EXPECT_EQ(answers[row].token,
              std::max_element(logits_[row].begin(), logits_[row].end()) - logits_[row].begin());
  }
}

TEST_F(CudaLogitsTest, EveryKindOfRequestIsAnsweredInItsOwnOrder) {
  kernels::ThreadPool pool({.num_threads = 1, .spin_microseconds = 0});
  const kernels::Context context = {.level = kernels::CpuLevel::kPlain, .pool = &pool};
  std::vector<LogitRequest> requests;
  for (int row = 0; row < 30; ++row) {
    switch (row % 4) {
      case 0:
        requests.push_back({.row = row});
        break;
      case 1:
        requests.push_back({.row = row, .want = Want::kLogprobs, .token = 7, .num_top = row % 3});
        break;
      case 2:
        requests.push_back(
            {.row = row, .want = Want::kDraw, .uniform = 0.3, .temperature = 0.9F, .num_top = 5});
        break;
      default:
        requests.push_back({.row = row, .want = Want::kDraw});
    }
  }
  const auto answers = Ask(requests);
  ASSERT_EQ(answers.size(), 30u);
  for (int row = 0; row < 30; ++row) {
    SCOPED_TRACE(row);
    EXPECT_EQ(answers[row].logits.empty(), row % 4 != 0);
    if (row % 4 == 0) {
      EXPECT_TRUE(host_logits_[row] == logits_[row]);
    }
    if (row % 4 != 1 && row % 4 != 2) continue;
    const auto expected =
        engine::ComputeLogprobs(context, logits_[row], answers[row].token, requests[row].num_top);
    ASSERT_TRUE(expected.ok());
    EXPECT_NEAR(answers[row].logprob, expected->chosen, 1e-5);
    ASSERT_EQ(answers[row].top.size(), expected->top.size());
    for (size_t k = 0; k < expected->top.size(); ++k) {
      EXPECT_EQ(answers[row].top[k].first, expected->top[k].first);
      EXPECT_NEAR(answers[row].top[k].second, expected->top[k].second, 1e-5);
    }
    if (row % 4 == 1) {
      EXPECT_EQ(answers[row].token, 7);
    }
  }
}

TEST_F(CudaLogitsTest, ADrawIsWhereTheWeightsPassTheUniformNumber) {
  for (const double uniform : {0.0, 0.25, 0.5, 0.75, 0.999}) {
    const auto answers =
        Ask({{.row = 11, .want = Want::kDraw, .uniform = uniform, .temperature = 1.5F}});
    double total = 0;
    const float largest = *std::max_element(logits_[11].begin(), logits_[11].end());
    std::vector<double> sums;
    for (const float logit : logits_[11]) {
      total += std::exp((double{logit} - double{largest}) / 1.5);
      sums.push_back(total);
    }
    const auto token = static_cast<size_t>(answers[0].token);
    EXPECT_GE(sums[token], uniform * total * (1 - 1e-5));
    if (token > 0) {
      EXPECT_LE(sums[token - 1], uniform * total * (1 + 1e-5));
    }
  }
}

TEST_F(CudaLogitsTest, MoreLikeliestTokensThanTheGpuListsComeFromTheHost) {
  const auto answers = Ask({{.row = 3, .want = Want::kDraw, .num_top = kMaxDeviceTop + 1},
                            {.row = 4, .want = Want::kDraw, .num_top = kMaxDeviceTop}});
  EXPECT_TRUE(host_logits_[0] == logits_[3]);
  EXPECT_EQ(answers[1].top.size(), static_cast<size_t>(kMaxDeviceTop));
}

TEST_F(CudaLogitsTest, RequestsThatCantBeAreRefused) {
  for (const LogitRequest& request :
       std::vector<LogitRequest>{{.row = 30},
                                 {.row = -1},
                                 {.row = 0, .want = Want::kLogprobs, .token = 100},
                                 {.row = 0, .want = Want::kLogprobs}}) {
    const kernels::AttentionSlice slice = {.count = 30, .block_table = blocks_.data()};
    ASSERT_TRUE(rank_->decoder()->Begin({&slice, 1}, tokens_).ok());
    ASSERT_TRUE(layers_->Run(OutlineOfStep(1, {&slice, 1})).ok());
    const absl::Status status =
        rank_->decoder()->Finish(std::vector<LogitRequest>{request},
                                 [](size_t, const model::LogitResult&) { FAIL() << "an answer"; });
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  }
}

TEST_F(CudaLogitsTest, MoreRowsThanLogitsAreHeldAtOnceAreAnsweredAll) {
  model::ModelConfig config = model::TinyConfig();
  config.num_layers = 1;
  config.vocab_size = 40;
  config.max_positions = 512;
  ASSERT_NO_FATAL_FAILURE(Make(config, {}, 300));
  const std::vector<int32_t> tokens = RandomTokens(300, 40, 9);
  const std::vector<int32_t> blocks = BlocksFrom(30, 10);
  const Rows rows = {&tokens, 0, 300, &blocks};
  const auto all = Logits({rows});
  ASSERT_EQ(all.size(), 300u);
  std::vector<LogitRequest> requests;
  for (int row = 0; row < 300; ++row) requests.push_back({.row = row, .want = Want::kDraw});
  host_logits_.clear();
  const auto drawn = RunStep(rank_->decoder(), layers_.get(), {rows}, requests, &host_logits_);
  for (int row = 0; row < 300; ++row) {
    EXPECT_EQ(drawn[row].token,
              std::max_element(all[row].begin(), all[row].end()) - all[row].begin());
  }
  // Rows for the host in both halves, all in one go.
  for (int row = 0; row < 300; row += 10) requests[row].want = Want::kLogits;
  host_logits_.clear();
  const auto mixed = RunStep(rank_->decoder(), layers_.get(), {rows}, requests, &host_logits_);
  for (int row = 0; row < 300; ++row) {
    if (row % 10 == 0) {
      EXPECT_TRUE(host_logits_[row] == all[row]) << row;
    } else {
      EXPECT_EQ(mixed[row].token, drawn[row].token) << row;
    }
  }
}

// A token whose embedding is NaN, as a broken checkpoint may have one.
TEST_F(CudaDecoderTest, ARowThatIsNotFiniteIsSaidToBeSoAndHarmsNoOther) {
  constexpr int32_t kBroken = 7;
  const model::ModelConfig config = model::TinyConfig();
  Write(config);
  auto tensors = model::RandomTensors(config, 1, {.init_std = 0.2F});
  for (model::TensorBytes& tensor : tensors) {
    if (tensor.tensor.name != "model.embed_tokens.weight") continue;
    for (int i = 0; i < config.hidden; ++i) {
      tensor.data.replace((size_t{kBroken} * config.hidden + i) * 2, 2, "\xc0\x7f");
    }
  }
  ASSERT_TRUE(model::WriteSafetensors(dir_ + "/model.safetensors", tensors).ok());
  auto checkpoint = model::Checkpoint::Open(dir_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  checkpoint_ = *std::move(checkpoint);
  backend_ = MakeBackend();
  rank_ = Load(backend_.get(), *checkpoint_, Spec());
  ASSERT_NE(rank_, nullptr);
  EXPECT_EQ(rank_->report().warnings.size(), 1u);
  layers_ = *rank_->MakeLayers({});

  const std::vector<int32_t> good = {3, 4, 5};
  const std::vector<int32_t> bad = {3, kBroken, 5};
  const std::vector<int32_t> good_blocks = BlocksFrom(4, 1);
  const std::vector<int32_t> bad_blocks = BlocksFrom(5, 1);
  const LogitRequest draw = {.row = 2, .want = Want::kDraw, .num_top = 3};
  std::vector<std::vector<float>> logits;
  const auto alone =
      RunStep(rank_->decoder(), layers_.get(), {{&good, 0, 3, &good_blocks}}, {draw}, &logits);
  LogitRequest second = draw;
  second.row = 5;
  const auto both =
      RunStep(rank_->decoder(), layers_.get(),
              {{&bad, 0, 3, &bad_blocks}, {&good, 0, 3, &good_blocks}}, {draw, second}, &logits);
  EXPECT_FALSE(both[0].finite);
  EXPECT_TRUE(both[1].finite);
  EXPECT_EQ(both[1].token, alone[0].token);
  EXPECT_EQ(both[1].logprob, alone[0].logprob);
  EXPECT_TRUE(both[1].top == alone[0].top);
}

// ---- Steps that can't be

TEST_F(CudaDecoderTest, StepsThatCantBeAreRefusedAndTheNextOneRuns) {
  ASSERT_NO_FATAL_FAILURE(Make(model::TinyConfig()));
  const std::vector<int32_t> blocks = BlocksFrom(5, 3);
  const std::vector<int32_t> outside = {64, 65, 66};
  const std::vector<int32_t> tokens(65, 1);
  const std::vector<int32_t> strange = {100};
  const auto begin = [&](kernels::AttentionSlice slice, const std::vector<int32_t>& row_tokens) {
    return rank_->decoder()->Begin({&slice, 1}, row_tokens).code();
  };
  const std::vector<int32_t> two = {1, 2};
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(begin({0, 0, 65, blocks.data()}, tokens), kInvalid);
  EXPECT_EQ(begin({0, 0, 1, blocks.data()}, strange), kInvalid);
  EXPECT_EQ(begin({0, 0, 1, blocks.data()}, two), kInvalid);
  EXPECT_EQ(begin({1, 0, 2, blocks.data()}, two), kInvalid);
  EXPECT_EQ(begin({0, -1, 2, blocks.data()}, two), kInvalid);
  EXPECT_EQ(begin({0, 0, 2, outside.data()}, two), kInvalid);
  EXPECT_EQ(Logits({{&two, 0, 2, &blocks}}).size(), 2u);
}

TEST_F(CudaDecoderTest, ExpertsCountTheTokensThatTheyRanAndNoPadding) {
  for (const bool graphs : {false, true}) {
    ASSERT_NO_FATAL_FAILURE(Make(model::TinyConfig(), {.graphs = graphs}));
    std::vector<std::vector<int32_t>> tokens;
    std::vector<std::vector<int32_t>> blocks;
    std::vector<Rows> step;
    for (int i = 0; i < 5; ++i) {  // padded to 6
      tokens.push_back(RandomTokens(1, 100, 40 + i));
      blocks.push_back(BlocksFrom(20 + i, 1));
    }
    for (int i = 0; i < 5; ++i) step.push_back({&tokens[i], 0, 1, &blocks[i]});
    Logits(step);
    const model::ExpertCounts& counts = rank_->expert_counts();
    for (int layer = 0; layer < 2; ++layer) {
      uint64_t total = 0;
      for (int e = 0; e < 8; ++e) total += counts.num_tokens(layer, e);
      EXPECT_EQ(total, 5u * 2) << "top-2 of 5 rows, graphs " << graphs;
    }
  }
}

}  // namespace
}  // namespace moe::cuda
