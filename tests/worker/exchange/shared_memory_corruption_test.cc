// A peer that writes nonsense into the shared memory: others get a status, never a crash.
#include <cstdint>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker/exchange/fake_group.h"

namespace moe::exchange {
namespace {

using ::testing::HasSubstr;

// Rank 1 of 3 waits for a plan; the segment holds what a broken rank 0 wrote.

struct Corruption {
  std::string what;
  std::function<void(Segment&)> write;
  std::string message;
};

// A good request of rank 0 for rank 1, to be spoilt.
void WriteGoodRequest(Segment& segment, int layer = 0) {
  segment.plan_head().step.store(1);
  segment.plan_head().number.store(1);
  segment.unanswered(0)[0].store(2);
  segment.pairs(0)[0] = {1, 0, 1};
  segment.pairs(0)[1] = {1, 1, 4};
  segment.request(0, 1) = {1, layer, 2, 0, 0};
}

TEST(SharedMemoryCorruptionTest, APeersNonsenseGivesAStatusNotACrash) {
  const auto post = [](Segment& segment) { segment.requests(1)[0].fetch_add(1); };
  const std::vector<Corruption> cases = {
      {"a request number from nowhere",
       [](Segment& s) { s.requests(1)[0].store(0xdeadbeefdeadbeef); }, "corrupt: request"},
      {"a request number that goes back", [](Segment& s) { s.requests(1)[0].store(0); },
       "corrupt: request"},
      {"an older step",
       [&](Segment& s) {
         s.request(0, 1).step = 0;
         post(s);
       },
       "unexpected step"},
      {"a later step",
       [&](Segment& s) {
         s.request(0, 1).step = 2;
         post(s);
       },
       "unexpected step"},
      {"a step before any plan",
       [&](Segment& s) {
         s.plan_head().number.store(0);
         post(s);
       },
       "unexpected step"},
      {"a layer that is none",
       [&](Segment& s) {
         s.request(0, 1).layer = 2;
         post(s);
       },
       "unexpected step"},
      {"a negative layer",
       [&](Segment& s) {
         s.request(0, 1).layer = -1;
         post(s);
       },
       "unexpected step"},
      {"a canary after joining",
       [&](Segment& s) {
         s.request(0, 1).step = ~uint64_t{0};
         post(s);
       },
       "canary"},
      {"no pairs",
       [&](Segment& s) {
         s.request(0, 1).num_pairs = 0;
         post(s);
       },
       "corrupt"},
      {"negative pairs",
       [&](Segment& s) {
         s.request(0, 1).num_pairs = -1;
         post(s);
       },
       "corrupt"},
      {"too many pairs",
       [&](Segment& s) {
         s.request(0, 1).num_pairs = 10;
         post(s);
       },
       "corrupt"},
      {"huge numbers of pairs",
       [&](Segment& s) {
         s.request(0, 1).num_pairs = INT32_MAX;
         post(s);
       },
       "corrupt"},
      {"pairs past the end",
       [&](Segment& s) {
         s.request(0, 1).first_pair = INT32_MAX;
         post(s);
       },
       "corrupt"},
      {"pairs before the start",
       [&](Segment& s) {
         s.request(0, 1).first_pair = -1;
         post(s);
       },
       "corrupt"},
      {"an input row past the end",
       [&](Segment& s) {
         s.pairs(0)[1].x_row = 3;
         post(s);
       },
       "corrupt"},
      {"an output row past the end",
       [&](Segment& s) {
         s.pairs(0)[1].out_row = 9;
         post(s);
       },
       "corrupt"},
      {"a negative output row",
       [&](Segment& s) {
         s.pairs(0)[0].out_row = -1;
         post(s);
       },
       "corrupt"},
      {"another rank's expert",
       [&](Segment& s) {
         s.pairs(0)[0].expert = 2;
         post(s);
       },
       "corrupt: expert 2"},
      {"an expert that is none",
       [&](Segment& s) {
         s.pairs(0)[0].expert = 3;
         post(s);
       },
       "corrupt: expert 3"},
      {"a negative expert",
       [&](Segment& s) {
         s.pairs(0)[0].expert = -7;
         post(s);
       },
       "corrupt: expert -7"},
      {"rows out of order",
       [&](Segment& s) {
         std::swap(s.pairs(0)[0], s.pairs(0)[1]);
         post(s);
       },
       "out of order"},
      {"a row twice",
       [&](Segment& s) {
         s.pairs(0)[1] = s.pairs(0)[0];
         post(s);
       },
       "out of order"},
      {"a plan number from nowhere", [](Segment& s) { s.plan_for(1).store(77); },
       "unexpected step"},
      {"a plan that is too large",
       [](Segment& s) {
         s.plan_head().num_bytes = ~uint64_t{0};
         s.plan_for(1).store(1);
       },
       "corrupt: 18446744073709551615 bytes"},
  };
  for (const Corruption& corruption : cases) {
    SCOPED_TRACE(corruption.what);
    ThreadGroup threads(SmallShape(3, 2));
    threads.ConnectAll();
    WriteGoodRequest(*threads.segment);
    corruption.write(*threads.segment);
    const absl::Status status = threads.ranks[1]->ReceivePlan().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
    EXPECT_THAT(status.ToString(), HasSubstr(corruption.message));
    EXPECT_EQ(threads.ranks[1]->ReceivePlan().status(), status);
    EXPECT_EQ(threads.experts[1]->num_runs, 0);
  }
}

TEST(SharedMemoryCorruptionTest, TheRequestThatTheOthersSpoilIsServedWhenWhole) {
  ThreadGroup threads(SmallShape(3, 2));
  threads.ConnectAll();
  WriteGoodRequest(*threads.segment);
  threads.segment->requests(1)[0].fetch_add(1);
  std::thread server([&] {
    EXPECT_EQ(threads.ranks[1]->ReceivePlan().status().code(), absl::StatusCode::kAborted);
  });
  while (threads.segment->unanswered(0)[0].load() != 0) std::this_thread::yield();
  threads.ranks[1]->Abort("done");
  server.join();
  EXPECT_EQ(threads.experts[1]->num_rows, 2);
}

TEST(SharedMemoryCorruptionTest, ALayerThatGoesBackIsRefused) {
  ThreadGroup threads(SmallShape(3, 2));
  threads.ConnectAll();
  WriteGoodRequest(*threads.segment, /*layer=*/1);
  threads.segment->requests(1)[0].fetch_add(1);
  absl::Status status;
  std::thread server([&] { status = threads.ranks[1]->ReceivePlan().status(); });
  while (threads.segment->unanswered(0)[0].load() != 0) std::this_thread::yield();
  WriteGoodRequest(*threads.segment, /*layer=*/1);
  threads.segment->requests(1)[0].fetch_add(1);
  threads.ranks[0]->Abort("unused");
  Doorbells(threads.segment->bells()).Ring(1);
  server.join();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(status.ToString(), HasSubstr("sent layer 1 of step 1 after layer 1"));
}

TEST(SharedMemoryCorruptionTest, AResultThatIsTooLargeIsRefused) {
  ThreadGroup threads(SmallShape(2, 1));
  threads.ConnectAll();
  ASSERT_TRUE(threads.ranks[0]->SendPlan(1, "", {1}).ok());
  threads.segment->result_head(1).num_bytes = kMaxResultBytes + 1;
  threads.segment->result_head(1).number.store(1);
  EXPECT_EQ(threads.ranks[0]->ReceiveResults(1, {1}).status().code(), absl::StatusCode::kInternal);
}

TEST(SharedMemoryCorruptionTest, ReplicatedRanksThatDivergeAreDetected) {
  GroupShape shape = SmallShape(3, 1);
  shape.replicated = true;
  shape.top_k = 1;
  ThreadGroup threads(shape);
  threads.ConnectAll();
  threads.RunAll([&](int rank, EpochExchange& group) {
    if (rank == 0) {
      ASSERT_TRUE(group.SendPlan(1, "", {}).ok());
    } else {
      ASSERT_TRUE(group.ReceivePlan().ok());
    }
    const std::vector<int32_t> ids = {rank == 2 ? 1 : 0};
    ASSERT_TRUE(group.Dispatch(1, 0, 1, ids.data()).ok());
    const absl::Status status = group.Combine().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
  });
}

}  // namespace
}  // namespace moe::exchange
