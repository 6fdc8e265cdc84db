// What a rank has counted since its epoch began: written by its engine thread, read by any.
#ifndef MOE_WORKER_EXCHANGE_EXCHANGE_COUNTERS_H_
#define MOE_WORKER_EXCHANGE_EXCHANGE_COUNTERS_H_

#include <atomic>
#include <cstdint>

#include "worker/exchange/exchange.h"

namespace moe::exchange {

class Counter {
 public:
  void Add(uint64_t value) { value_.fetch_add(value, std::memory_order_relaxed); }
  uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

struct ExchangeCounters {
  Counter dispatch_ns;
  Counter combine_wait_ns;
  Counter serve_ns;
  Counter dispatch_bytes;
  Counter combine_bytes;

  ExchangeStats stats() const {
    constexpr double kSeconds = 1e-9;
    return {.dispatch_seconds = kSeconds * static_cast<double>(dispatch_ns.value()),
            .combine_wait_seconds = kSeconds * static_cast<double>(combine_wait_ns.value()),
            .serve_seconds = kSeconds * static_cast<double>(serve_ns.value()),
            .dispatch_bytes = dispatch_bytes.value(),
            .combine_bytes = combine_bytes.value()};
  }
};

}  // namespace moe::exchange

#endif  // MOE_WORKER_EXCHANGE_EXCHANGE_COUNTERS_H_
