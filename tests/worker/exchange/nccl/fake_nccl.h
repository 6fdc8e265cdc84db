// NCCL between threads of one process, on host memory: what nccl_api.h promises, held strictly.
//
// Without streams, a group is under way until all its transfers have been matched by the other
// ranks' and their bytes are copied; so a rank that never comes leaves the others waiting, as with
// NCCL, until they abort. With a stream, a group is under way until it has been given to it, which
// takes two polls; it is there that ranks then wait for each other. One that a graph captures is
// run by each of its launches, and an abort waits until no graph has such a group any more. What
// callers may not do (a call while something is under way, two calls at once, sizes that differ, an
// id used twice, ...) is noted as a violation, which tests expect not to find.
#ifndef MOE_TESTS_WORKER_EXCHANGE_NCCL_FAKE_NCCL_H_
#define MOE_TESTS_WORKER_EXCHANGE_NCCL_FAKE_NCCL_H_

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "worker/exchange/nccl/nccl_api.h"
#include "worker/exchange/nccl/nccl_session.h"

namespace moe::exchange {

enum class NcclCall {
  kMakeId,
  kConnect,
  kPoll,
  kGroupStart,
  kSend,
  kReceive,
  kAllGather,
  kBroadcast,
  kGroupEnd,
  kRegister,
  kDeregister,
  kFinalize,
  kDestroy,
  kAbort,
};

class FakeNccl;

// A rank's stream.
struct FakeStream {
  std::function<void(std::function<void()> work)> enqueue;
  std::function<bool()> is_capturing;  // a graph, which keeps what is enqueued
};

// One rank's NCCL.
class FakeNcclApi final : public NcclApi {
 public:
  FakeNcclApi(FakeNccl* world, int rank) : world_(world), rank_(rank) {}

  // Of the communicators that are made from now on; without a call there is none.
  void UseStream(FakeStream stream) { stream_ = std::move(stream); }

  absl::StatusOr<NcclId> MakeId() override;
  absl::StatusOr<std::unique_ptr<NcclCommunicator>> Connect(const NcclId& id, int num_ranks,
                                                            int rank) override;

 private:
  FakeNccl* world_;
  int rank_;
  FakeStream stream_;
};

// All ranks' NCCL. Thread-safe.
class FakeNccl {
 public:
  // What a call of a rank gives instead of doing anything; nth counts the rank's calls of that kind
  // from 0. Set before ranks run.
  std::function<absl::Status(int rank, NcclCall call, int nth)> fail;
  // Ranks whose communicators never get ready.
  std::set<int> never_ready;

  // From now on Poll of this rank's communicators tells the error.
  void Break(int rank, absl::Status error);

  // Of all ranks, now.
  int num_communicators();
  // An epoch's communicator is aborted by another thread than the one whose calls have returned.
  void AwaitNoCommunicators();
  int num_registrations();
  std::vector<std::string> violations();
  std::vector<NcclCall> calls(int rank);  // in order; without kPoll
  // Bytes that transfers brought from other ranks, of all ranks.
  int64_t num_bytes_received();

 private:
  friend class FakeNcclApi;
  friend class FakeCommunicator;

  struct Pending {
    Transfer transfer;
    int rank = 0;
    bool is_done = false;
  };
  struct Collective {
    std::vector<std::shared_ptr<Pending>> of_rank;  // [num_ranks]
  };
  // The communicators of one id.
  struct Clique {
    int num_ranks = 0;
    std::set<int> connected;
    // By (from, to): what waits for its other end.
    std::map<std::pair<int, int>, std::deque<std::shared_ptr<Pending>>> sends;
    std::map<std::pair<int, int>, std::deque<std::shared_ptr<Pending>>> receives;
    std::map<int64_t, Collective> collectives;  // by their number
    std::vector<int64_t> num_collectives;       // [num_ranks]
  };

  // Counts the call; what `fail` says of it.
  absl::Status Note(int rank, NcclCall call);
  void Violation(int rank, const std::string& what);
  void Post(Clique& clique, const std::shared_ptr<Pending>& pending);
  void MatchPair(Clique& clique, const std::pair<int, int>& ends);
  void MatchCollective(Clique& clique, int64_t number);
  void Forget(Clique& clique, int rank);

  std::recursive_mutex mutex_;
  std::map<std::string, Clique> cliques_;  // by id
  int num_ids_ = 0;
  int num_communicators_ = 0;
  int num_registrations_ = 0;
  int64_t num_bytes_received_ = 0;
  std::vector<std::string> violations_;
  std::map<int, std::vector<NcclCall>> calls_;
  std::map<std::pair<int, NcclCall>, int> num_calls_;
  std::map<int, absl::Status> broken_;
};

}  // namespace moe::exchange

#endif  // MOE_TESTS_WORKER_EXCHANGE_NCCL_FAKE_NCCL_H_
