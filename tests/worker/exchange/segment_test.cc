#include "worker/exchange/segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker/exchange/fake_group.h"

namespace moe::exchange {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kEpoch = 12;

std::string SecretOf(const std::string& bootstrap) {
  return std::vector<std::string>(absl::StrSplit(bootstrap, ':')).at(3);
}

TEST(SegmentTest, OpensWhatWasCreatedAsTheSameMemory) {
  const GroupShape shape = SmallShape(3, 2);
  auto created = Segment::Create(shape, kEpoch);
  ASSERT_TRUE(created.ok()) << created.status();
  auto opened = Segment::Open((*created)->bootstrap(), shape, kEpoch);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ((*opened)->bootstrap(), "");
  (*created)->arrival(2).store(5);
  EXPECT_EQ((*opened)->arrival(2).load(), 5u);
  (*opened)->result_bytes(2)[kMaxResultBytes - 1] = 'z';
  EXPECT_EQ((*created)->result_bytes(2)[kMaxResultBytes - 1], 'z');
}

TEST(SegmentTest, NobodyCanShrinkOrGrowTheFile) {
  auto created = Segment::Create(SmallShape(2, 1), kEpoch);
  ASSERT_TRUE(created.ok()) << created.status();
  const std::vector<std::string> parts = absl::StrSplit((*created)->bootstrap(), ':');
  const std::string path = absl::StrCat("/proc/", parts[1], "/fd/", parts[2]);
  const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  EXPECT_NE(ftruncate(fd, 4096), 0);
  EXPECT_NE(ftruncate(fd, off_t{1} << 40), 0);
  close(fd);
}

TEST(SegmentTest, BadBootstrapsAreRefusedWithoutTellingTheSecret) {
  const GroupShape shape = SmallShape(2, 1);
  auto created = Segment::Create(shape, kEpoch);
  ASSERT_TRUE(created.ok()) << created.status();
  const std::string good = (*created)->bootstrap();
  const std::string secret = SecretOf(good);
  const std::vector<std::string> parts = absl::StrSplit(good, ':');
  const std::string zeros(32, '0');
  const int plain = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  const int foreign = memfd_create("something-else", MFD_CLOEXEC);
  const int fake = memfd_create("moe-exchange", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  ASSERT_EQ(ftruncate(fake, 1 << 20), 0);
  const auto with = [&](const std::string& pid, const std::string& fd, const std::string& key) {
    return absl::StrCat(parts[0], ":", pid, ":", fd, ":", key);
  };

  struct Case {
    std::string what;
    std::string bootstrap;
    absl::StatusCode code;
  };
  const absl::StatusCode invalid = absl::StatusCode::kInvalidArgument;
  const absl::StatusCode unavailable = absl::StatusCode::kUnavailable;
  for (const Case& c : std::vector<Case>{
           {"nothing", "", invalid},
           {"garbage", std::string("\0\xff%s%n", 6), invalid},
           {"long garbage", std::string(1 << 20, ':'), invalid},
           {"another tag", absl::StrCat("tcp:", parts[1], ":", parts[2], ":", secret), invalid},
           {"a negative process", with("-1", parts[2], secret), invalid},
           {"process 0", with("0", parts[2], secret), invalid},
           {"a path for a process", with("../1", parts[2], secret), invalid},
           {"a huge process", with("99999999999999999999", parts[2], secret), invalid},
           {"a negative file", with(parts[1], "-3", secret), invalid},
           {"a short secret", with(parts[1], parts[2], secret.substr(1)), invalid},
           {"a secret that is no number", with(parts[1], parts[2], std::string(32, 'g')), invalid},
           {"one part too many", good + ":", invalid},
           {"a process that is not there", with("2147483647", parts[2], secret), unavailable},
           {"a file that is not there", with(parts[1], "987654", secret), unavailable},
           {"a plain file", with(parts[1], absl::StrCat(plain), secret), unavailable},
           {"another memory file", with(parts[1], absl::StrCat(foreign), secret), unavailable},
           {"an unsealed memory file", with(parts[1], absl::StrCat(fake), secret), unavailable},
           {"another secret", with(parts[1], parts[2], zeros), absl::StatusCode::kPermissionDenied},
       }) {
    const auto opened = Segment::Open(c.bootstrap, shape, kEpoch);
    EXPECT_EQ(opened.status().code(), c.code) << c.what << ": " << opened.status();
    EXPECT_FALSE(absl::StrContains(opened.status().ToString(), secret)) << c.what;
    EXPECT_FALSE(absl::StrContains(opened.status().ToString(), zeros)) << c.what;
  }
  ASSERT_EQ(fcntl(fake, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), 0);
  EXPECT_EQ(
      Segment::Open(with(parts[1], absl::StrCat(fake), secret), shape, kEpoch).status().code(),
      invalid);
  close(plain);
  close(foreign);
  close(fake);
}

TEST(SegmentTest, AnotherEpochOrShapeIsRefusedByName) {
  const GroupShape shape = SmallShape(3, 2);
  auto created = Segment::Create(shape, kEpoch);
  ASSERT_TRUE(created.ok()) << created.status();
  const std::string bootstrap = (*created)->bootstrap();
  EXPECT_THAT(Segment::Open(bootstrap, shape, kEpoch + 1).status().ToString(),
              HasSubstr("epoch 12, not 13"));

  struct Case {
    std::string named;
    void (*change)(GroupShape&);
  };
  for (const Case& c : std::vector<Case>{
           {"num_attention_ranks", [](GroupShape& s) { s.num_attention_ranks = 3; }},
           {"replicated", [](GroupShape& s) { s.replicated = true; }},
           {"num_ranks", [](GroupShape& s) { s.num_ranks = 4; }},
           {"num_layers", [](GroupShape& s) { s.num_layers = 3; }},
           {"num_experts",
            [](GroupShape& s) {
              s.num_experts = 4;
              s.rank_of_expert.push_back(0);
            }},
           {"hidden", [](GroupShape& s) { s.hidden = 5; }},
           {"top_k", [](GroupShape& s) { s.top_k = 2; }},
           {"max_rows", [](GroupShape& s) { s.max_rows = 4; }},
           {"placed", [](GroupShape& s) { std::swap(s.rank_of_expert[0], s.rank_of_expert[1]); }},
       }) {
    GroupShape other = shape;
    c.change(other);
    const absl::Status status = Segment::Open(bootstrap, other, kEpoch).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << c.named;
    // Replicated groups have no owners, so either field may be named.
    if (c.named != "replicated") {
      EXPECT_THAT(status.ToString(), HasSubstr(c.named));
    }
  }
}

TEST(SegmentTest, ImpossibleShapesAreRefused) {
  struct Case {
    std::string named;
    void (*change)(GroupShape&);
  };
  for (const Case& c : std::vector<Case>{
           {"num_ranks", [](GroupShape& s) { s.num_ranks = 0; }},
           {"num_ranks", [](GroupShape& s) { s.num_ranks = kMaxRanks + 1; }},
           {"num_attention_ranks", [](GroupShape& s) { s.num_attention_ranks = 0; }},
           {"num_attention_ranks", [](GroupShape& s) { s.num_attention_ranks = 4; }},
           {"num_layers", [](GroupShape& s) { s.num_layers = 0; }},
           {"num_experts", [](GroupShape& s) { s.num_experts = -1; }},
           {"hidden", [](GroupShape& s) { s.hidden = 1 << 30; }},
           {"top_k", [](GroupShape& s) { s.top_k = 4; }},
           {"max_rows", [](GroupShape& s) { s.max_rows = 1 << 30; }},
           {"max_rows * top_k", [](GroupShape& s) { s.max_rows = 1 << 20; }},
           {"rank_of_expert", [](GroupShape& s) { s.rank_of_expert.pop_back(); }},
           {"rank_of_expert", [](GroupShape& s) { s.rank_of_expert[1] = 3; }},
           {"rank_of_expert", [](GroupShape& s) { s.rank_of_expert[1] = -1; }},
       }) {
    GroupShape shape = SmallShape(3, 2);
    c.change(shape);
    const absl::Status status = Segment::Create(shape, kEpoch).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.named;
    EXPECT_THAT(status.ToString(), HasSubstr(c.named));
  }
}

TEST(SegmentTest, NoPartOverlapsAnother) {
  std::mt19937 random(3);
  for (int round = 0; round < 200; ++round) {
    const int num_ranks = std::uniform_int_distribution<int>(1, 130)(random);
    GroupShape shape =
        RandomShape(num_ranks, std::uniform_int_distribution<int>(1, num_ranks)(random), random);
    shape.replicated = round % 4 == 0;
    const SegmentLayout l = SegmentLayout::Of(shape);
    const size_t n = shape.num_ranks;
    const size_t a = shape.replicated ? 0 : shape.num_attention_ranks;
    const size_t pairs = static_cast<size_t>(shape.max_rows) * shape.top_k;
    const size_t words = (n + 63) / 64;
    const std::vector<std::pair<size_t, size_t>> parts = {
        {l.bells, 64 * ((n + 31) / 32)},
        {l.arrivals, 8 * n},
        {l.digests, 16 * n},
        {l.requests, l.request_stride * n},
        {l.plan_head, sizeof(PlanHead)},
        {l.plan_for, 8 * n},
        {l.plan_taken, 8 * n},
        {l.awaited, 8 * words},
        {l.result_heads, 64 * n},
        {l.owners, l.owner_stride * a},
        {l.shared_results, shape.replicated ? 2 * l.shared_results_stride : 0},
        {l.plan_bytes, kMaxPlanBytes},
        {l.result_bytes, kMaxResultBytes * n},
        {l.total, 0}};
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      EXPECT_LE(parts[i].first + parts[i].second, parts[i + 1].first) << i;
    }
    EXPECT_LE(8 * words, l.owner_requests);
    EXPECT_LE(l.owner_requests + sizeof(Request) * n, l.owner_pairs);
    EXPECT_LE(l.owner_pairs + sizeof(RoutedRow) * pairs, l.owner_rows);
    EXPECT_LE(l.owner_rows + 2 * pairs / shape.top_k * shape.hidden, l.owner_results);
    EXPECT_LE(l.owner_results + 2 * pairs * shape.hidden, l.owner_stride);
    EXPECT_LE(8 * a, l.request_stride);
    EXPECT_LE(2 * pairs * shape.hidden, l.shared_results_stride);
  }
}

}  // namespace
}  // namespace moe::exchange
