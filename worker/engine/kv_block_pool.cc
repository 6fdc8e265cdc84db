#include "worker/engine/kv_block_pool.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "worker/engine/scheduler.h"

namespace moe::engine {
namespace {

// The finalizer of SplitMix64 (Steele et al. 2014, https://doi.org/10.1145/2714064.2660195).
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// Of all tokens up to a block's end: chained from the hash of the block before.
uint64_t HashBlock(uint64_t previous, absl::Span<const int32_t> tokens) {
  uint64_t hash = Mix(previous);
  for (const int32_t token : tokens) hash = Mix(hash ^ static_cast<uint32_t>(token));
  return hash;
}

}  // namespace

KvBlockPool::KvBlockPool(int num_blocks, int block_tokens)
    : num_blocks_(num_blocks), block_tokens_(block_tokens) {
  ReleaseAll();
}

absl::Status KvBlockPool::Reserve(uint64_t sequence_id, int num_tokens) {
  const auto it = sequences_.find(sequence_id);
  const int num_held = it == sequences_.end() ? 0 : static_cast<int>(it->second.blocks.size());
  const int num_new = NumKvBlocks(num_tokens, block_tokens_) - num_held;
  if (num_new <= 0) return absl::OkStatus();
  if (num_new > num_free()) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("sequence %d needs %d more KV blocks for %d tokens, but %d of %d are free",
                        sequence_id, num_new, num_tokens, num_free(), num_blocks_));
  }
  std::vector<int32_t>& blocks = sequences_[sequence_id].blocks;
  blocks.insert(blocks.end(), free_.rbegin(), free_.rbegin() + num_new);
  free_.resize(free_.size() - static_cast<size_t>(num_new));
  return absl::OkStatus();
}

void KvBlockPool::Commit(uint64_t sequence_id, absl::Span<const int32_t> tokens) {
  const auto it = sequences_.find(sequence_id);
  if (it == sequences_.end()) return;
  Sequence& sequence = it->second;
  tokens = tokens.first(
      std::min(tokens.size(), sequence.blocks.size() * static_cast<size_t>(block_tokens_)));
  const auto [changed, kept_end] =
      std::mismatch(tokens.begin(), tokens.end(), sequence.tokens.begin(), sequence.tokens.end());
  const size_t block_tokens = static_cast<size_t>(block_tokens_);
  const size_t num_kept_tokens = static_cast<size_t>(changed - tokens.begin());
  sequence.tokens.resize(num_kept_tokens);
  sequence.tokens.insert(sequence.tokens.end(), changed, tokens.end());
  sequence.hashes.resize(std::min(sequence.hashes.size(), num_kept_tokens / block_tokens));
  while ((sequence.hashes.size() + 1) * block_tokens <= tokens.size()) {
    const uint64_t previous = sequence.hashes.empty() ? 0 : sequence.hashes.back();
    sequence.hashes.push_back(
        HashBlock(previous, tokens.subspan(sequence.hashes.size() * block_tokens, block_tokens)));
  }
}

void KvBlockPool::Release(uint64_t sequence_id) {
  const auto it = sequences_.find(sequence_id);
  if (it == sequences_.end()) return;
  free_.insert(free_.end(), it->second.blocks.rbegin(), it->second.blocks.rend());
  sequences_.erase(it);
}

void KvBlockPool::ReleaseAll() {
  sequences_.clear();
  free_.resize(static_cast<size_t>(num_blocks_));
  for (int i = 0; i < num_blocks_; ++i) free_[i] = num_blocks_ - 1 - i;
}

absl::Span<const int32_t> KvBlockPool::block_table(uint64_t sequence_id) const {
  const auto it = sequences_.find(sequence_id);
  if (it == sequences_.end()) return {};
  return it->second.blocks;
}

absl::Span<const uint64_t> KvBlockPool::block_hashes(uint64_t sequence_id) const {
  const auto it = sequences_.find(sequence_id);
  if (it == sequences_.end()) return {};
  return it->second.hashes;
}

}  // namespace moe::engine
