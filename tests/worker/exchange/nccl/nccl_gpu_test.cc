// The NCCL exchange on GPUs: whole groups, a process for each rank as in production, over the real
// NCCL. Outputs have to have the bits that a rank with all experts gives, in every pattern, eager
// and from a captured graph.
//
// NCCL refuses two ranks on one GPU ("Duplicate GPU detected"), which it knows by the host and the
// bus id. So where there are fewer GPUs than ranks each rank gets an NCCL_HOSTID of its own: then
// they count as different hosts, and traffic goes over sockets on the loopback device. (From NCCL
// 2.30 on NCCL_MULTI_RANK_GPU_ENABLE=1 allows it, too.) Their kernels wait for each other on one
// GPU, so groups stay small.
//
// This program starts itself again for each rank, with what it has to know in the environment.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "device/device.h"
#include "device/graph.h"
#include "device/status.h"
#include "gtest/gtest.h"
#include "tests/worker/exchange/nccl/device_ranks.h"
#include "tests/worker/exchange/nccl/kernel_experts.h"
#include "worker/exchange/nccl/nccl_library.h"

namespace moe::exchange {
namespace {

constexpr const char* kRank = "MOE_NCCL_TEST_RANK";
constexpr const char* kNumRanks = "MOE_NCCL_TEST_RANKS";
constexpr const char* kFolder = "MOE_NCCL_TEST_FOLDER";
constexpr const char* kReplicated = "MOE_NCCL_TEST_REPLICATED";

constexpr int kBucket = 8;

GroupShape Shape(int num_ranks, bool replicated) {
  GroupShape shape{.num_ranks = num_ranks,
                   .num_attention_ranks = num_ranks,
                   .replicated = replicated,
                   .num_layers = 3,
                   .num_experts = 16,
                   .hidden = 256,
                   .top_k = 4,
                   .max_rows = 64,
                   .rank_of_expert = {}};
  for (int e = 0; e < shape.num_experts; ++e) {
    shape.rank_of_expert.push_back(e * num_ranks / shape.num_experts);
  }
  return shape;
}

// ---- What ranks tell each other before they are connected: files of a folder of this user

void Write(const std::string& name, const std::string& text) {
  const std::string path = absl::StrCat(std::getenv(kFolder), "/", name);
  std::ofstream(path + ".part", std::ios::binary) << text;
  std::filesystem::rename(path + ".part", path);
}

std::string AwaitFile(const std::string& name) {
  const std::string path = absl::StrCat(std::getenv(kFolder), "/", name);
  const Clock::time_point deadline = After(absl::Minutes(2));
  while (!std::filesystem::exists(path)) {
    if (Clock::now() > deadline) {
      ADD_FAILURE() << "no rank wrote " << name;
      return "";
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// ---- One rank, in its own process

class GpuRank {
 public:
  GpuRank(const GroupShape& shape, int rank) : self_(shape, rank, kBucket) {
    experts_ = std::make_unique<KernelExperts>(shape, rank, &stream());
    all_ = std::make_unique<KernelExperts>(Alone(shape), 0, &stream());
  }

  void Connect(NcclApi* api) {
    auto listener = TcpListener::Start("127.0.0.1:0");
    ASSERT_TRUE(listener.ok()) << listener.status();
    listener_ = *std::move(listener);
    NcclEpochOptions options;
    options.control.listener = listener_.get();
    options.control.join_deadline = absl::Minutes(1);
    options.control.step_deadline = absl::Minutes(1);
    Write(absl::StrCat("address", self_.rank), listener_->address());
    for (int rank = 0; rank < self_.shape.num_ranks; ++rank) {
      options.control.addresses.push_back(AwaitFile(absl::StrCat("address", rank)));
    }
    auto epoch = self_.rank == 0 ? NcclEpoch::Create(self_.shape, 1, api, options)
                                 : NcclEpoch::Open(AwaitFile("bootstrap"), self_.shape, 1,
                                                   self_.rank, api, options);
    ASSERT_TRUE(epoch.ok()) << epoch.status();
    epoch_ = *std::move(epoch);
    if (self_.rank == 0) Write("bootstrap", epoch_->bootstrap());
    const absl::Status status = epoch_->Connect();
    ASSERT_TRUE(status.ok()) << status;
  }

  // A new exchange on the same epoch would register twice, so both kinds of step use one.
  void MakeExchange(const PatternThresholds& thresholds) {
    auto made = NcclExchange::Create({.epoch = epoch_.get(),
                                      .buffers = self_.buffers.get(),
                                      .stream = &stream(),
                                      .num_sms = 132,
                                      .experts = experts_.get()},
                                     thresholds);
    ASSERT_TRUE(made.ok()) << made.status();
    self_.exchange = *std::move(made);
    const absl::Status status = self_.exchange->Connect();
    ASSERT_TRUE(status.ok()) << status;
  }

  void RunEagerStep(uint64_t step, const std::vector<int>& num_rows, Pattern expected) {
    const absl::Status begun = self_.exchange->BeginStep(step, num_rows, 0);
    ASSERT_TRUE(begun.ok()) << begun;
    EXPECT_EQ(PatternName(self_.exchange->pattern()), PatternName(expected));
    std::mt19937 random = RandomOfRank(self_.shape, self_.rank, static_cast<uint32_t>(step));
    for (int layer = 0; layer < self_.shape.num_layers; ++layer) {
      FillRows(num_rows[self_.rank], random);
      const auto result = self_.exchange->RunLayer(layer);
      ASSERT_TRUE(result.ok()) << result.status();
      CheckOutputs(*result, num_rows[self_.rank]);
    }
    const absl::Status ended = self_.exchange->FinishStep();
    ASSERT_TRUE(ended.ok()) << ended;
  }

  // Steps of a bucket with one layer: the first run, the second captured, all later ones launched.
  void RunBucketSteps(uint64_t step, const std::vector<int>& num_rows) {
    std::vector<device::Graph> graph;  // one
    const kernels::BFloat16* outputs = nullptr;
    const auto run = [&] {
      const auto result = self_.exchange->RunLayer(0);
      if (result.ok()) outputs = *result;
      return result.status();
    };
    std::mt19937 random = RandomOfRank(self_.shape, self_.rank, static_cast<uint32_t>(step));
    for (int i = 0; i < 6; ++i) {
      FillRows(kBucket, random);
      const absl::Status begun = self_.exchange->BeginStep(step + i, num_rows, kBucket);
      ASSERT_TRUE(begun.ok()) << begun;
      absl::Status status;
      if (i == 0) {
        status = run();
      } else {
        if (graph.empty()) {
          auto captured = device::Graph::Capture(stream(), run);
          ASSERT_TRUE(captured.ok()) << captured.status();
          graph.push_back(*std::move(captured));
        }
        status = graph.front().Launch(stream());
      }
      ASSERT_TRUE(status.ok()) << status;
      const absl::Status ended = self_.exchange->FinishStep();
      ASSERT_TRUE(ended.ok()) << ended;
      CheckOutputs(outputs, num_rows[self_.rank]);
    }
  }

  void Close() {
    self_.exchange.reset();
    const absl::Status status = epoch_->Close();
    ASSERT_TRUE(status.ok()) << status;
    // Nobody leaves before all have closed: a connection that ends would be a loss to the others.
    Write(absl::StrCat("closed", self_.rank), "");
    for (int rank = 0; rank < self_.shape.num_ranks; ++rank)
      AwaitFile(absl::StrCat("closed", rank));
  }

  const device::Stream& stream() const { return self_.stream.front(); }

 private:
  void FillRows(int num_rows, std::mt19937& random) {
    rows_.resize(size_t{1} * num_rows * self_.shape.hidden);
    for (kernels::BFloat16& value : rows_) value = KernelExperts::RandomValue(random);
    ids_ = SkewedRouting(self_.shape, num_rows, Skew::kNone, random);
    ASSERT_TRUE(
        device::CopyToDevice<kernels::BFloat16>(rows_, self_.exchange->rows(), stream()).ok());
    ASSERT_TRUE(device::CopyToDevice<int32_t>(ids_, self_.exchange->expert_ids(), stream()).ok());
    ASSERT_TRUE(stream().Synchronize().ok());
  }
  void CheckOutputs(const kernels::BFloat16* result, int num_rows) {
    const std::vector<kernels::BFloat16> expected = all_->RunAll(rows_, ids_);
    if (num_rows == 0) return;
    std::vector<kernels::BFloat16> outputs(size_t{1} * num_rows * self_.shape.top_k *
                                           self_.shape.hidden);
    ASSERT_TRUE(
        device::CopyToHost<kernels::BFloat16>(result, absl::MakeSpan(outputs), stream()).ok());
    // Not the stream's own wait, which a lost rank would make endless.
    ASSERT_TRUE(epoch_
                    ->Await([&]() -> absl::StatusOr<bool> {
                      const cudaError_t state = cudaStreamQuery(stream().get());
                      if (state == cudaErrorNotReady) return false;
                      absl::Status status = device::ToStatus(state, "asking for a stream");
                      if (!status.ok()) return status;
                      return true;
                    })
                    .ok());
    EXPECT_EQ(
        std::memcmp(outputs.data(), expected.data(), outputs.size() * sizeof(kernels::BFloat16)),
        0);
  }

  DeviceRank self_;
  std::unique_ptr<KernelExperts> experts_, all_;
  std::unique_ptr<TcpListener> listener_;
  std::unique_ptr<NcclEpoch> epoch_;
  std::vector<kernels::BFloat16> rows_;
  std::vector<int32_t> ids_;
};

// What the processes of the ranks run.
TEST(NcclGpuRank, RunsItsPart) {
  if (std::getenv(kRank) == nullptr) GTEST_SKIP() << "the tests below start the ranks";
  const int rank = std::atoi(std::getenv(kRank));
  const int num_ranks = std::atoi(std::getenv(kNumRanks));
  const bool replicated = std::getenv(kReplicated) != nullptr;
  const auto devices = device::QueryDevices();
  ASSERT_TRUE(devices.ok()) << devices.status();
  ASSERT_TRUE(device::UseDevice(rank % static_cast<int>(devices->size())).ok());
  const auto functions = LoadNccl();
  ASSERT_TRUE(functions.ok()) << functions.status();

  const GroupShape shape = Shape(num_ranks, replicated);
  GpuRank self(shape, rank);
  const std::unique_ptr<NcclApi> api = MakeNccl(*functions, self.stream().get());
  ASSERT_NO_FATAL_FAILURE(self.Connect(api.get()));
  // Slots up to the bucket, exact numbers above.
  PatternThresholds thresholds;
  thresholds.surplus_bytes_over_network = std::numeric_limits<int64_t>::max();
  ASSERT_NO_FATAL_FAILURE(self.MakeExchange(thresholds));
  const auto rows = [&](int of_rank_0, int of_others) {
    std::vector<int> num_rows(num_ranks, replicated ? of_rank_0 : of_others);
    num_rows[0] = of_rank_0;
    return num_rows;
  };
  const Pattern slots = replicated ? Pattern::kReplicatedSlots : Pattern::kSlots;
  const Pattern exact = replicated ? Pattern::kReplicatedExact : Pattern::kAllToAll;
  ASSERT_NO_FATAL_FAILURE(self.RunEagerStep(1, rows(kBucket, 1), slots));
  ASSERT_NO_FATAL_FAILURE(self.RunEagerStep(2, rows(64, 0), exact));
  ASSERT_NO_FATAL_FAILURE(self.RunEagerStep(3, rows(33, 64), exact));
  ASSERT_NO_FATAL_FAILURE(self.RunBucketSteps(10, rows(kBucket, 3)));
  ASSERT_NO_FATAL_FAILURE(self.RunEagerStep(20, rows(1, 0), slots));
  ASSERT_NO_FATAL_FAILURE(self.Close());
}

// ---- Starting them

pid_t Start(int rank, int num_ranks, bool replicated, const std::string& folder, bool shares_gpus) {
  const pid_t child = fork();
  if (child != 0) return child;
  setenv(kRank, absl::StrCat(rank).c_str(), 1);
  setenv(kNumRanks, absl::StrCat(num_ranks).c_str(), 1);
  setenv(kFolder, folder.c_str(), 1);
  if (replicated) setenv(kReplicated, "1", 1);
  setenv("NCCL_SOCKET_IFNAME", "lo", 1);
  if (shares_gpus) setenv("NCCL_HOSTID", absl::StrCat("rank-", rank).c_str(), 1);
  const std::string program = std::filesystem::read_symlink("/proc/self/exe").string();
  const char* const filter = "--gtest_filter=NcclGpuRank.*";
  // Under a loader of its own (tools/test-gpu) this program is that loader's argument.
  const char* const loaded = std::getenv("MOE_STAGED_PROGRAM");
  const char* const libraries = std::getenv("MOE_STAGED_LIBRARIES");
  if (loaded != nullptr && libraries != nullptr) {
    execl(program.c_str(), program.c_str(), "--library-path", libraries, loaded, filter, nullptr);
  } else {
    execl(program.c_str(), program.c_str(), filter, nullptr);
  }
  _exit(127);
}

void RunGroup(int num_ranks, bool replicated) {
  const auto devices = device::QueryDevices();
  ASSERT_TRUE(devices.ok()) << devices.status();
  const bool shares_gpus = static_cast<int>(devices->size()) < num_ranks;
  std::string folder = (std::filesystem::temp_directory_path() / "moe-nccl-XXXXXX").string();
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  std::vector<pid_t> ranks;
  for (int rank = 0; rank < num_ranks; ++rank) {
    ranks.push_back(Start(rank, num_ranks, replicated, folder, shares_gpus));
    ASSERT_GT(ranks.back(), 0);
  }
  for (size_t i = 0; i < ranks.size(); ++i) {
    int status = 0;
    ASSERT_EQ(waitpid(ranks[i], &status, 0), ranks[i]);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0)
        << "rank " << i << " of " << num_ranks << " failed; its output is above";
  }
  std::filesystem::remove_all(folder);
}

class NcclGpuTest : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, NcclGpuTest, testing::Values(1, 2, 4, 8));

TEST_P(NcclGpuTest, RanksThatOwnTheirRowsGetTheBitsOfOneRank) { RunGroup(GetParam(), false); }
TEST_P(NcclGpuTest, ReplicasGetTheBitsOfOneRank) { RunGroup(GetParam(), true); }

}  // namespace
}  // namespace moe::exchange
