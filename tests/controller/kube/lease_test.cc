#include "controller/kube/lease.h"

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "controller/kube/resource_types.h"
#include "gtest/gtest.h"
#include "tests/controller/kube/fake_api.h"

namespace moe::kube {
namespace {

using testing::FakeApi;
using testing::FakeObjects;

const absl::Time kStart = absl::UnixEpoch();
const ObjectKey kKey{.ns = "moe-system", .name = "moe-operator"};

LeaseRecord HeldBy(const std::string& holder) {
  return {.holder = holder,
          .duration = absl::Seconds(15),
          .acquire_time = "2026-01-01T00:00:00.000000Z",
          .renew_time = "2026-01-01T00:00:00.000000Z",
          .transitions = 3};
}

TEST(DecideLeaseTest, OnlyAFreeOrExpiredLeaseIsTaken) {
  struct Case {
    const char* sentence;
    std::optional<LeaseRecord> record;
    absl::Duration unchanged_for;
    LeaseAction expected;
  };
  const std::vector<Case> cases = {
      {"there is none", std::nullopt, absl::ZeroDuration(), LeaseAction::kCreate},
      {"it is released", HeldBy(""), absl::ZeroDuration(), LeaseAction::kAcquire},
      {"it is ours", HeldBy("me"), absl::ZeroDuration(), LeaseAction::kRenew},
      {"it is ours and old", HeldBy("me"), absl::Hours(1), LeaseAction::kRenew},
      {"another one renewed it just now", HeldBy("other"), absl::ZeroDuration(),
       LeaseAction::kWait},
      {"another one renewed it 14.9 s ago", HeldBy("other"), absl::Milliseconds(14900),
       LeaseAction::kWait},
      {"another one's has run out", HeldBy("other"), absl::Seconds(15), LeaseAction::kAcquire},
  };
  for (const Case& c : cases) {
    EXPECT_EQ(DecideLease(c.record, kStart, "me", kStart + c.unchanged_for), c.expected)
        << c.sentence;
  }
}

TEST(DecideLeaseTest, TheDatesInALeaseDoNotMatter) {
  // A holder whose clock is an hour behind, or ahead, is judged by when its record changed here.
  for (const char* date : {"2020-01-01T00:00:00.000000Z", "2099-01-01T00:00:00.000000Z"}) {
    LeaseRecord record = HeldBy("other");
    record.renew_time = date;
    EXPECT_EQ(DecideLease(record, kStart, "me", kStart + absl::Seconds(1)), LeaseAction::kWait);
  }
}

TEST(LeaseSpecTest, TransitionsCountChangesOfTheHolder) {
  const LeaseOptions options{.key = kKey, .identity = "me"};
  const absl::Time date = absl::FromUnixSeconds(1800000000);
  EXPECT_EQ(LeaseSpec(LeaseAction::kCreate, std::nullopt, options, date)["leaseTransitions"], 0);
  const Json acquired = LeaseSpec(LeaseAction::kAcquire, HeldBy("other"), options, date);
  EXPECT_EQ(acquired["leaseTransitions"], 4);
  EXPECT_EQ(acquired["holderIdentity"], "me");
  EXPECT_EQ(acquired["leaseDurationSeconds"], 15);
  EXPECT_EQ(acquired["renewTime"], "2027-01-15T08:00:00.000000Z");
  const Json renewed = LeaseSpec(LeaseAction::kRenew, HeldBy("me"), options, date);
  EXPECT_EQ(renewed["leaseTransitions"], 3);
  EXPECT_EQ(renewed["acquireTime"], "2026-01-01T00:00:00.000000Z");
  EXPECT_EQ(ParseLease({{"spec", renewed}}).holder, "me");
  EXPECT_EQ(ParseLease({{"spec", 7}}).holder, "");
}

// One process that takes part, with a clock of its own.
class Candidate {
 public:
  Candidate(
      FakeObjects& objects, const std::string& identity,
      absl::Duration renew_deadline = absl::Seconds(10), std::function<void()> on_started = [] {})
      : api_(objects),
        elector_(api_, {.key = kKey, .identity = identity, .renew_deadline = renew_deadline},
                 {.started =
                      [this, on_started = std::move(on_started)] {
                        Note("started");
                        on_started();
                      },
                  .stopped = [this] { Note("stopped"); },
                  .leader = nullptr},
                 [this] { return kStart + absl::Milliseconds(millis_.load()); }) {}

  LeaseElector& elector() { return elector_; }
  FakeApi& api() { return api_; }
  // Moves the clock and lets the elector see it.
  void Pass(absl::Duration time) {
    millis_.fetch_add(absl::ToInt64Milliseconds(time));
    elector_.ClockMoved();
  }
  // Moves the clock in steps until the callbacks were called in this order.
  bool PassUntil(const std::vector<std::string>& notes, absl::Duration step = absl::Seconds(1)) {
    const absl::Time give_up = absl::Now() + absl::Seconds(60);
    while (absl::Now() < give_up) {
      {
        absl::MutexLock lock(&mutex_);
        const auto reached = [&] {
          mutex_.AssertHeld();
          return notes_ == notes;
        };
        if (mutex_.AwaitWithTimeout(absl::Condition(&reached), absl::Milliseconds(20))) {
          return true;
        }
      }
      Pass(step);
    }
    return false;
  }
  // Moves the clock in steps until it has happened: when a pause begins is for the elector to say.
  void PassUntilNotified(const absl::Notification& happened) {
    while (!happened.WaitForNotificationWithTimeout(absl::Milliseconds(20))) {
      Pass(absl::Milliseconds(500));
    }
  }
  std::vector<std::string> notes() {
    absl::MutexLock lock(&mutex_);
    return notes_;
  }

 private:
  void Note(const std::string& what) {
    absl::MutexLock lock(&mutex_);
    notes_.push_back(what);
  }

  FakeApi api_;
  std::atomic<int64_t> millis_{0};
  absl::Mutex mutex_;
  std::vector<std::string> notes_ ABSL_GUARDED_BY(mutex_);
  LeaseElector elector_;
};

std::string HolderOf(const FakeObjects& objects) {
  const std::optional<Json> lease = objects.Find(kLeases, kKey);
  return lease.has_value() ? ParseLease(*lease).holder : "(none)";
}

using Notes = std::vector<std::string>;

TEST(LeaseElectorTest, TheFirstOneLeadsAndTheSecondFollowsWhenItIsReleased) {
  FakeObjects objects;
  Candidate a(objects, "a");
  Candidate b(objects, "b");
  a.elector().Start();
  ASSERT_TRUE(a.PassUntil({"started"}, absl::ZeroDuration()));
  EXPECT_TRUE(a.elector().is_leader());
  b.elector().Start();
  b.Pass(absl::Seconds(5));
  EXPECT_FALSE(b.elector().is_leader());
  a.elector().Stop();
  EXPECT_EQ(a.notes(), (Notes{"started", "stopped"}));
  EXPECT_FALSE(a.elector().is_leader());
  EXPECT_EQ(HolderOf(objects), "");
  // Without waiting for 15 seconds.
  ASSERT_TRUE(b.PassUntil({"started"}, absl::Milliseconds(100)));
  EXPECT_EQ(HolderOf(objects), "b");
}

TEST(LeaseElectorTest, ALeaderThatCannotRenewStopsAtItsDeadlineBeforeAnotherOneStarts) {
  FakeObjects objects;
  Candidate a(objects, "a");
  a.elector().Start();
  ASSERT_TRUE(a.PassUntil({"started"}, absl::ZeroDuration()));
  a.api().SetBefore([](const std::string&, const ResourceType&) {
    return absl::UnavailableError("the API server is away");
  });
  a.Pass(absl::Milliseconds(9900));
  EXPECT_TRUE(a.elector().is_leader());
  a.Pass(absl::Milliseconds(200));
  EXPECT_FALSE(a.elector().is_leader());
  ASSERT_TRUE(a.PassUntil({"started", "stopped"}, absl::ZeroDuration()));
  // The outage ends and nobody else was there.
  a.api().SetBefore(nullptr);
  ASSERT_TRUE(a.PassUntil({"started", "stopped", "started"}));
}

TEST(LeaseElectorTest, ALeaderWhoseRequestHangsStillStopsAtItsDeadline) {
  FakeObjects objects;
  absl::Notification hanging;
  absl::Notification go_on;
  Candidate a(objects, "a");
  a.elector().Start();
  ASSERT_TRUE(a.PassUntil({"started"}, absl::ZeroDuration()));
  a.api().SetBefore([&](const std::string&, const ResourceType&) {
    if (!hanging.HasBeenNotified()) {
      hanging.Notify();
    }
    go_on.WaitForNotification();
    return absl::OkStatus();
  });
  a.PassUntilNotified(hanging);
  EXPECT_TRUE(a.PassUntil({"started", "stopped"}));
  go_on.Notify();
}

TEST(LeaseElectorTest, ALapseWhileStartedIsBusyIsToldAfterwards) {
  FakeObjects objects;
  absl::Notification begun;
  absl::Notification go_on;
  absl::Notification hanging;
  absl::Notification answer;
  Candidate a(objects, "a", absl::Seconds(10), [&] {
    if (!begun.HasBeenNotified()) {
      begun.Notify();
      go_on.WaitForNotification();
    }
  });
  a.elector().Start();
  begun.WaitForNotification();
  a.api().SetBefore([&](const std::string& verb, const ResourceType&) {
    if (verb == "update" && !hanging.HasBeenNotified()) {
      hanging.Notify();
      answer.WaitForNotification();
    }
    return absl::OkStatus();
  });
  a.PassUntilNotified(hanging);
  a.Pass(absl::Seconds(9));
  EXPECT_FALSE(a.elector().is_leader()) << "`started` may give up here";
  answer.Notify();
  // The renewal counts from before it was sent, so this process would lead again at once.
  while (ParseLease(*objects.Find(kLeases, kKey)).renew_time ==
         ParseLease(*objects.Find(kLeases, kKey)).acquire_time) {
    absl::SleepFor(absl::Milliseconds(5));
  }
  go_on.Notify();
  EXPECT_TRUE(a.PassUntil({"started", "stopped", "started"}, absl::ZeroDuration()));
}

// Fault 62, the lease's part: a leader stopped past its lease, then resumed.
TEST(LeaseElectorTest, ALeaderThatSleptWhileAnotherOneLedStopsFirst) {
  FakeObjects objects;
  Candidate a(objects, "a");
  Candidate b(objects, "b");
  a.elector().Start();
  ASSERT_TRUE(a.PassUntil({"started"}, absl::ZeroDuration()));
  // `a` sleeps: neither its clock nor its threads move, but time passes for `b`.
  b.elector().Start();
  ASSERT_TRUE(b.PassUntil({"started"}));
  EXPECT_EQ(HolderOf(objects), "b");
  // `a` wakes up: it does not believe in itself for a moment.
  a.Pass(absl::Seconds(20));
  EXPECT_FALSE(a.elector().is_leader());
  ASSERT_TRUE(a.PassUntil({"started", "stopped"}, absl::ZeroDuration()));
  EXPECT_EQ(HolderOf(objects), "b");
}

TEST(LeaseElectorTest, ALeaderThatSleptThroughAnothersWholeTermIsToldThatItStopped) {
  FakeObjects objects;
  Candidate a(objects, "a");
  a.elector().Start();
  ASSERT_TRUE(a.PassUntil({"started"}, absl::ZeroDuration()));
  // Meanwhile another one led and released the lease.
  ASSERT_TRUE(objects.Edit(kLeases, kKey, [](Json& lease) {
    lease["spec"]["holderIdentity"] = "";
    lease["spec"]["leaseTransitions"] = 7;
  }));
  EXPECT_TRUE(a.PassUntil({"started", "stopped", "started"}));
  EXPECT_EQ(ParseLease(*objects.Find(kLeases, kKey)).transitions, 8);
}

TEST(LeaseElectorTest, ALostAnswerToARenewalCostsNothing) {
  FakeObjects objects;
  std::atomic<int> num_updates{0};
  Candidate a(objects, "a", /*renew_deadline=*/absl::Hours(10));
  a.elector().Start();
  ASSERT_TRUE(a.PassUntil({"started"}, absl::ZeroDuration()));
  a.api().SetAfter([&num_updates](const std::string& verb, const ResourceType&) {
    const bool lost = verb == "update" && num_updates.fetch_add(1) < 2;
    return lost ? absl::UnavailableError("the answer broke off") : absl::OkStatus();
  });
  while (num_updates.load() < 4) {
    a.Pass(absl::Milliseconds(500));
    absl::SleepFor(absl::Milliseconds(5));
  }
  EXPECT_TRUE(a.elector().is_leader());
  EXPECT_EQ(a.notes(), Notes{"started"});
}

TEST(LeaseElectorTest, OfManyCandidatesOneLeads) {
  FakeObjects objects;
  std::vector<std::unique_ptr<Candidate>> all;
  for (int i = 0; i < 5; ++i) {
    all.push_back(std::make_unique<Candidate>(objects, absl::StrCat("c", i)));
  }
  for (const auto& candidate : all) {
    candidate->elector().Start();
  }
  ASSERT_TRUE(objects.Await(kLeases, kKey, [](const Json* lease) { return lease != nullptr; }));
  // Each of them reads the lease at least once more.
  for (const auto& candidate : all) {
    candidate->Pass(absl::Seconds(3));
  }
  const std::string holder = HolderOf(objects);
  for (int i = 0; i < 5; ++i) {
    if (holder == absl::StrCat("c", i)) {
      EXPECT_TRUE(all[static_cast<size_t>(i)]->PassUntil({"started"}, absl::ZeroDuration()));
    } else {
      EXPECT_FALSE(all[static_cast<size_t>(i)]->elector().is_leader());
    }
  }
}

}  // namespace
}  // namespace moe::kube
