// Groups of ranks on emulated GPUs, their rows over a fake NCCL: the same tokens and
// log-probabilities at every width, by every way that rows travel, and whichever rank is lost.
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/kernels/emulator/runtime.h"
#include "tests/system/fake_nccl_group.h"
#include "tests/system/in_process_group.h"
#include "tests/system/requests.h"
#include "tests/worker/exchange/nccl/only_pattern.h"
#include "worker/cuda/backend.h"
#include "worker/model/checkpoint.h"

namespace moe::testing {
namespace {

using engine::v1::SamplingParams;
using exchange::Only;

std::vector<Request> MakeRequests(const model::ModelConfig& config, int num_requests) {
  std::mt19937 random(11);
  std::vector<Request> requests;
  for (int i = 0; i < num_requests; ++i) {
    const int length = 1 + static_cast<int>(random() % (i == 0 ? 60 : 12));
    Request request = MakeRequest(config, length, /*max_tokens=*/3 + i % 4, random);
    SamplingParams& sampling = request.sampling;
    sampling.set_top_p(i % 3 == 2 ? 0.9f : 1.0f);
    sampling.set_num_logprobs(1);
    sampling.set_temperature(i % 2 == 1 ? 0.8f : 0.0f);
    sampling.set_seed(1000 + i);
    requests.push_back(std::move(request));
  }
  return requests;
}

class CudaGroupTest : public ::testing::Test {
 protected:
  void SetUp() override {
    emulator::SetDeviceMemory(size_t{1} << 30, size_t{1} << 30);
    auto backend = cuda::CudaBackend::Create({});
    ASSERT_TRUE(backend.ok()) << backend.status();
    backend_ = *std::move(backend);
    auto checkpoint = model::Checkpoint::Open("tests/data/checkpoints/gqa");
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    checkpoint_ = *std::move(checkpoint);
    requests_ = MakeRequests(checkpoint_->config(), 7);
    // Each request alone, on one GPU, launched kernel by kernel: what all others must equal.
    const auto plain = cuda::CudaBackend::Create({.graphs = false});
    ASSERT_TRUE(plain.ok()) << plain.status();
    InProcessGroup group(checkpoint_.get(), {.backend = plain->get()});
    ASSERT_TRUE(group.StartEpoch().ok());
    baseline_ = AnswerEachAlone(&group, requests_);
  }

  GroupOptions Options(int num_ranks, int num_attention_ranks, FakeNcclGroup* nccl) {
    return {.num_ranks = num_ranks,
            .num_attention_ranks = num_attention_ranks,
            .ends = nccl,
            .backend = backend_.get(),
            .max_step_tokens = 64,
            .kv_blocks_per_owner = 32};
  }

  void ExpectBaseline(InProcessGroup* group, bool exact) {
    const absl::Status started = group->StartEpoch();
    ASSERT_TRUE(started.ok()) << started;
    const int64_t launches = emulator::Counts().num_graph_launches;
    ExpectSame(Collect(group, SubmitAll(group, requests_)), baseline_, "over NCCL");
    // Whether steps of a batch have a shape twice depends on when its requests come. Of a request
    // that decodes alone each step has the same.
    ExpectSame(AnswerEachAlone(group, {requests_[3]}), {baseline_[3]}, "alone");
    // Graphs only hold slots.
    EXPECT_EQ(emulator::Counts().num_graph_launches > launches, !exact);
  }

  std::unique_ptr<cuda::CudaBackend> backend_;
  std::unique_ptr<model::Checkpoint> checkpoint_;
  std::vector<Request> requests_;
  std::vector<Answer> baseline_;
};

TEST_F(CudaGroupTest, EveryWidthAndEveryWayOfRowsGivesWhatOneGpuGives) {
  for (const auto& [num_ranks, num_attention_ranks] :
       std::vector<std::pair<int, int>>{{2, 1}, {2, 2}, {3, 2}, {4, 4}}) {
    for (const bool exact : {false, true}) {
      SCOPED_TRACE(std::to_string(num_ranks) + " ranks, " + std::to_string(num_attention_ranks) +
                   " with attention" + (exact ? ", exact" : ", slots"));
      FakeNcclGroup nccl(num_ranks, Only(exact));
      InProcessGroup group(checkpoint_.get(), Options(num_ranks, num_attention_ranks, &nccl));
      ASSERT_NO_FATAL_FAILURE(ExpectBaseline(&group, exact));
      EXPECT_GT(nccl.num_bytes_received(), 0);
    }
  }
}

TEST_F(CudaGroupTest, ReplicatedAttentionGivesWhatOneGpuGives) {
  for (const int num_ranks : {2, 3}) {
    for (const bool exact : {false, true}) {
      SCOPED_TRACE(std::to_string(num_ranks) + " ranks" + (exact ? ", exact" : ", slots"));
      FakeNcclGroup nccl(num_ranks, Only(exact));
      GroupOptions options = Options(num_ranks, num_ranks, &nccl);
      options.replicated = true;
      InProcessGroup group(checkpoint_.get(), options);
      ASSERT_NO_FATAL_FAILURE(ExpectBaseline(&group, exact));
      EXPECT_GT(nccl.num_bytes_received(), 0);
    }
  }
}

TEST_F(CudaGroupTest, ALostOwnerAndALostHolderOfExpertsChangeNothing) {
  for (const int lost : {1, 2}) {
    SCOPED_TRACE("rank " + std::to_string(lost) + " is lost");
    FakeNcclGroup nccl(3, Only(/*exact=*/lost == 1));
    InProcessGroup group(checkpoint_.get(), Options(3, 2, &nccl));
    ASSERT_TRUE(group.StartEpoch().ok());
    const std::vector<uint64_t> ids = SubmitAll(&group, requests_);
    group.WaitTokens(5);
    group.EndEpoch();
    ASSERT_TRUE(group.StartEpoch({lost}).ok());
    ExpectSame(Collect(&group, ids), baseline_, "after the loss");
  }
}

}  // namespace
}  // namespace moe::testing
