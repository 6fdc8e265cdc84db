// Step plans of sequences that begin and decode greedily, as a leader would send them. Tokens are
// without a pattern, as in engine_bench.
#ifndef MOE_TESTS_BENCH_PLANS_SEQUENCES_H_
#define MOE_TESTS_BENCH_PLANS_SEQUENCES_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "proto/step.pb.h"

namespace moe::bench {

// Sequences are numbered from 0 and dealt out to the owners in turn. Plans have no step number yet.
class Sequences {
 public:
  Sequences(int vocab_size, int num_owners) : vocab_size_(vocab_size), num_owners_(num_owners) {}

  // `count` more, of `length` tokens, computed in one step.
  engine::v1::StepPlan Add(int count, int length);
  // The first `count` advance by one token.
  engine::v1::StepPlan Decode(int count);
  // Forgets the last one, or all: their numbers are the next ones'.
  void Drop() { lengths_.pop_back(); }
  void Clear() { lengths_.clear(); }
  int length(size_t sequence) const { return lengths_[sequence]; }

 private:
  int32_t Token(uint64_t id, int position) const;
  engine::v1::SequenceSlice* AddSlice(uint64_t id, int start, int count,
                                      engine::v1::StepPlan* plan) const;
  uint32_t Owner(uint64_t id) const { return static_cast<uint32_t>(id) % num_owners_; }

  const int vocab_size_;
  const int num_owners_;
  std::vector<int> lengths_;  // by id
};

}  // namespace moe::bench

#endif  // MOE_TESTS_BENCH_PLANS_SEQUENCES_H_
