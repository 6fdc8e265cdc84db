// What is asked, and when. Values and their text.
//
//   arrivals   poisson:200/s    independent requests, 200 each second on average
//              steady:200/s     one each 5 ms
//              bursts:64/10s    64 at once, each 10 seconds, from the start on
//   lengths    512              all the same
//              uniform:128-1024 each number as likely
//              lognormal:512:0.8  median and deviation of the logarithm
//
// Tested by tests/simulator/workload_test.cc.
#ifndef MOE_SIMULATOR_WORKLOAD_H_
#define MOE_SIMULATOR_WORKLOAD_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace moe::simulator {

inline constexpr int kMaxTokens = 1 << 24;         // of a prompt, or of an answer
inline constexpr double kMaxRequests = 5'000'000;  // of one run: each takes some memory

struct Arrivals {
  enum class Kind { kPoisson, kSteady, kBursts };
  Kind kind = Kind::kPoisson;
  double per_second = 1;  // of kPoisson and kSteady
  int burst = 1;          // of kBursts
  absl::Duration every = absl::Seconds(1);
};
// InvalidArgument says what can be written.
absl::StatusOr<Arrivals> ParseArrivals(absl::string_view text);
std::string DescribeArrivals(const Arrivals& arrivals);

struct Length {
  enum class Kind { kFixed, kUniform, kLognormal };
  Kind kind = Kind::kFixed;
  int tokens = 1;    // kFixed; the least of kUniform; the median of kLognormal
  int most = 1;      // of kUniform
  double sigma = 0;  // of kLognormal
};
// InvalidArgument says what can be written; `option` names what was given, such as
// "--input-tokens".
absl::StatusOr<Length> ParseLength(absl::string_view option, absl::string_view text);
std::string DescribeLength(const Length& length);

// One request of a run.
struct Request {
  absl::Duration arrival;  // since the start
  int input_tokens = 1;
  int output_tokens = 1;
};

// Those that arrive in [0, duration), by arrival. ResourceExhausted: more than kMaxRequests.
absl::StatusOr<std::vector<Request>> DrawRequests(const Arrivals& arrivals, const Length& input,
                                                  const Length& output, absl::Duration duration,
                                                  uint64_t seed);

}  // namespace moe::simulator

#endif  // MOE_SIMULATOR_WORKLOAD_H_
