// The simulator's random numbers: SplitMix64 (Steele et al. 2014, "Fast splittable pseudorandom
// number generators"), so that a seed gives the same run on every machine. What is drawn for one
// purpose has a stream of its own: more arrivals do not change the routes.
//
// Tested by tests/simulator/random_test.cc.
#ifndef MOE_SIMULATOR_RANDOM_H_
#define MOE_SIMULATOR_RANDOM_H_

#include <cmath>
#include <cstdint>

namespace moe::simulator {

enum class Stream : uint64_t { kArrivals = 1, kLengths, kRouterSetup, kRoutes };

// Not thread-safe.
class Random {
 public:
  Random(uint64_t seed, Stream stream) : state_(Mix(seed) ^ Mix(~static_cast<uint64_t>(stream))) {}

  uint64_t Next() { return Mix(state_ += kStep); }
  // In [0, 1): 53 bits.
  double Uniform() { return static_cast<double>(Next() >> 11) * 0x1p-53; }
  // In [0, n). REQUIRES: 0 < n.
  int Below(int n) { return static_cast<int>(((Next() >> 32) * static_cast<uint64_t>(n)) >> 32); }
  // Of mean 1.
  double Exponential() { return -std::log1p(-Uniform()); }
  // Of mean 0 and deviation 1 (Box and Muller 1958).
  double Normal() {
    const double radius = std::sqrt(2 * Exponential());
    return radius * std::cos(2 * kPi * Uniform());
  }

 private:
  static constexpr uint64_t kStep = 0x9e3779b97f4a7c15u;
  static constexpr double kPi = 3.14159265358979323846;

  static uint64_t Mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
  }

  uint64_t state_;
};

}  // namespace moe::simulator

#endif  // MOE_SIMULATOR_RANDOM_H_
