// The counter-based generator Philox4x32-10 of Salmon et al. 2011
// (https://doi.org/10.1145/2063384.2063405): a fixed function from counter and key to random bits,
// so a draw needs no state that could be lost.
//
// Tested by tests/worker/engine/sampler_test.cc, with the authors' known answers.
#ifndef MOE_WORKER_ENGINE_PHILOX_H_
#define MOE_WORKER_ENGINE_PHILOX_H_

#include <array>
#include <cstdint>

namespace moe::engine {

inline std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter,
                                          std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t product_0 = uint64_t{0xD2511F53u} * counter[0];
    const uint64_t product_2 = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<uint32_t>(product_2 >> 32) ^ counter[1] ^ key[0],
               static_cast<uint32_t>(product_2),
               static_cast<uint32_t>(product_0 >> 32) ^ counter[3] ^ key[1],
               static_cast<uint32_t>(product_0)};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return counter;
}

}  // namespace moe::engine

#endif  // MOE_WORKER_ENGINE_PHILOX_H_
