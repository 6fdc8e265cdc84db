// The KV blocks of one owner: which are free, and which a sequence holds.
//
// Every full block carries a hash of the tokens up to its end, so that equal prefixes can be found
// later; nothing looks them up yet.
//
// Tested by tests/worker/engine/kv_block_pool_test.cc.
#ifndef MOE_WORKER_ENGINE_KV_BLOCK_POOL_H_
#define MOE_WORKER_ENGINE_KV_BLOCK_POOL_H_

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/types/span.h"

namespace moe::engine {

// Not thread-safe: lives on the engine thread.
class KvBlockPool {
 public:
  KvBlockPool(int num_blocks, int block_tokens);

  // Makes the sequence hold blocks for `num_tokens` tokens (never fewer than it holds).
  // ResourceExhausted, with nothing changed, when too few are free.
  absl::Status Reserve(uint64_t sequence_id, int num_tokens);
  // Records that the sequence's first tokens.size() tokens are in its blocks, and hashes full ones.
  // Tokens that differ from an earlier call's (a step that did not commit) replace them.
  void Commit(uint64_t sequence_id, absl::Span<const int32_t> tokens);
  // Gives all blocks back. Nothing for an unknown sequence.
  void Release(uint64_t sequence_id);
  void ReleaseAll();

  // Blocks in token order; empty for an unknown sequence. Valid until the next change.
  absl::Span<const int32_t> block_table(uint64_t sequence_id) const;
  // Hashes of the full committed blocks, in token order.
  absl::Span<const uint64_t> block_hashes(uint64_t sequence_id) const;

  int num_blocks() const { return num_blocks_; }
  int num_free() const { return static_cast<int>(free_.size()); }
  int block_tokens() const { return block_tokens_; }

 private:
  struct Sequence {
    std::vector<int32_t> blocks;
    std::vector<int32_t> tokens;  // committed
    std::vector<uint64_t> hashes;
  };

  int num_blocks_;
  int block_tokens_;
  std::vector<int32_t> free_;  // a stack: the block freed last is warm in the cache
  absl::flat_hash_map<uint64_t, Sequence> sequences_;
};

}  // namespace moe::engine

#endif  // MOE_WORKER_ENGINE_KV_BLOCK_POOL_H_
