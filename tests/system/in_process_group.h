// A whole group in one process: one thread for each rank, over the real exchange of either kind.
// What the controller and membership do with processes is done here by hand.
#ifndef MOE_TESTS_SYSTEM_IN_PROCESS_GROUP_H_
#define MOE_TESTS_SYSTEM_IN_PROCESS_GROUP_H_

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "proto/engine.pb.h"
#include "worker/daemon/group_exchange.h"
#include "worker/engine/epoch_loop.h"
#include "worker/engine/leader.h"
#include "worker/engine/owner.h"
#include "worker/exchange/exchange.h"
#include "worker/exchange/shared_memory.h"
#include "worker/exchange/tcp.h"
#include "worker/model/backend.h"
#include "worker/model/checkpoint.h"
#include "worker/model/cpu_backend.h"

namespace moe::testing {

// What makes the ends of ranks beside the two exchanges that are built in.
class EndMaker {
 public:
  virtual ~EndMaker() = default;
  // A new process has taken the rank: `model` is what it has loaded, and outlives its ends.
  virtual absl::Status Take(const exchange::GroupShape& shape, int rank,
                            model::RankModel* model) = 0;
  virtual absl::StatusOr<std::shared_ptr<worker::GroupExchange>> Make(
      int rank, uint64_t epoch, const std::string& bootstrap) = 0;
};

struct GroupOptions {
  int num_ranks = 1;
  int num_attention_ranks = 1;
  bool replicated = false;
  bool tcp = false;          // the exchange; else shared memory
  EndMaker* ends = nullptr;  // or what this makes; not owned
  int num_threads = 1;       // of each attention rank
  kernels::CpuLevel level = kernels::DetectCpuLevel();
  model::Backend* backend = nullptr;  // null: a CpuBackend of that level; else not owned
  int max_step_tokens = 512;
  int max_sequences = 64;
  int kv_blocks_per_owner = 256;
};

// What came of one request.
struct Answer {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
  engine::v1::TokenEvent::Finish finish = engine::v1::TokenEvent::NONE;
  std::string error;
};

class InProcessGroup : public engine::EventSink {
 public:
  // `checkpoint` must outlive the group.
  InProcessGroup(const model::Checkpoint* checkpoint, const GroupOptions& options);
  ~InProcessGroup() override;

  // Begins an epoch in which the ranks of `fresh` are new processes: they know nothing.
  absl::Status StartEpoch(const std::vector<int>& fresh = {});
  // Ends the epoch at whatever instruction the ranks are at.
  void EndEpoch();

  // Number of the request, or dies.
  uint64_t Submit(const std::vector<int32_t>& prompt, const engine::v1::SamplingParams& sampling,
                  const std::vector<int32_t>& generated = {});
  // Waits until every submitted request has ended.
  std::map<uint64_t, Answer> WaitAll();
  // Waits until `num_tokens` tokens came in all.
  void WaitTokens(int num_tokens);

  // Logits of every position of `tokens`, computed by rank 0 in chunks with the experts of all
  // ranks. [tokens.size(), vocab_size]. Needs no epoch; makes one of its own.
  absl::StatusOr<std::vector<float>> TeacherForced(const std::vector<int32_t>& tokens, int chunk);

  engine::Leader* leader() { return ranks_[0]->leader.get(); }
  void OnEvents(uint64_t client, engine::v1::StepEvents events) override;

 private:
  struct Rank {
    model::StepTimes times;
    std::unique_ptr<model::RankModel> model;
    std::unique_ptr<engine::KvBlockPool> blocks;
    std::unique_ptr<engine::Owner> owner;
    std::unique_ptr<engine::Leader> leader;
    std::unique_ptr<exchange::TcpListener> listener;  // of the Tcp exchange
    std::shared_ptr<worker::GroupExchange> end;       // of the epoch
    std::unique_ptr<model::LayerLoop> layers;         // of the epoch
    std::atomic<uint64_t> current_step{0};
    std::thread thread;
    absl::Status outcome;
  };

  bool HasAttention(int rank) const {
    return options_.replicated || rank < options_.num_attention_ranks;
  }
  std::unique_ptr<Rank> MakeRank(int rank);
  absl::StatusOr<std::shared_ptr<worker::GroupExchange>> MakeEnd(int rank);
  absl::Status ConnectAll();
  // Of TeacherForced, whose rows are all rank 0's.
  // Of a step of one sequence, rank 0's.
  model::StepOutline TeachersOutline(uint64_t step, int start, int count) const;
  absl::Status FollowTeacher(Rank* rank);

  const model::Checkpoint* checkpoint_;
  const GroupOptions options_;
  model::CpuBackend cpu_backend_;
  model::Backend* const backend_;
  exchange::GroupShape shape_;
  std::vector<std::unique_ptr<Rank>> ranks_;
  uint64_t epoch_ = 0;
  std::atomic<bool> epoch_over_{false};
  uint64_t next_request_ = 1;

  absl::Mutex mutex_;
  std::map<uint64_t, Answer> answers_ ABSL_GUARDED_BY(mutex_);
  int num_tokens_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace moe::testing

#endif  // MOE_TESTS_SYSTEM_IN_PROCESS_GROUP_H_
