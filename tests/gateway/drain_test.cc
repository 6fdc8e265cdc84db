#include "gateway/drain.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace moe::gateway {
namespace {

using Phase = Drain::Phase;

// What is so at a second after SIGTERM, and what has to follow.
struct Moment {
  double seconds;
  uint64_t num_taken;
  int num_active;
  Phase phase;
};

struct Case {
  std::string name;
  double quiet;
  double finish;
  std::vector<Moment> moments;
};

TEST(DrainTest, TakesRequestsUntilNoneComes) {
  const std::vector<Case> cases = {
      {"an idle gateway waits for those that have not noticed",
       5,
       20,
       {{0, 7, 0, Phase::kTakes}, {4.9, 7, 0, Phase::kTakes}, {5, 7, 0, Phase::kOver}}},
      {"what runs finishes",
       5,
       20,
       {{1, 7, 3, Phase::kTakes},
        {5, 7, 3, Phase::kFinishes},
        {9, 7, 1, Phase::kFinishes},
        {9.1, 7, 0, Phase::kOver}}},
      {"each request that comes is another five seconds",
       5,
       20,
       {{4, 8, 1, Phase::kTakes},
        {8.9, 8, 0, Phase::kTakes},
        {8.95, 9, 1, Phase::kTakes},
        {12, 9, 1, Phase::kTakes},
        {12.5, 9, 1, Phase::kFinishes}}},
      {"a balancer that never notices leaves half of the time to what runs",
       5,
       20,
       {{3, 8, 1, Phase::kTakes},
        {7, 9, 2, Phase::kTakes},
        {12.4, 10, 2, Phase::kTakes},
        {12.5, 11, 2, Phase::kFinishes},
        {24.9, 11, 2, Phase::kFinishes},
        {25, 11, 2, Phase::kOver}}},
      {"a request that slips in later changes nothing",
       5,
       20,
       {{5, 7, 1, Phase::kFinishes}, {5.1, 8, 1, Phase::kFinishes}}},
      {"no quiet time: nothing is taken",
       0,
       30,
       {{0, 7, 2, Phase::kFinishes}, {1, 7, 0, Phase::kOver}}},
      {"no time to finish", 5, 0, {{4.9, 7, 1, Phase::kTakes}, {5, 7, 1, Phase::kOver}}},
      {"no time at all", 0, 0, {{0, 7, 1, Phase::kOver}}}};
  for (const Case& test : cases) {
    SCOPED_TRACE(test.name);
    const absl::Time start = absl::UnixEpoch();
    Drain drain({.quiet = absl::Seconds(test.quiet), .finish = absl::Seconds(test.finish)}, start,
                /*num_taken=*/7);
    for (const Moment& moment : test.moments) {
      EXPECT_EQ(
          drain.Next(start + absl::Seconds(moment.seconds), moment.num_taken, moment.num_active),
          moment.phase)
          << "at " << moment.seconds << " s";
    }
  }
}

}  // namespace
}  // namespace moe::gateway
