// Reflector, store and client together against an API server that misbehaves: whatever happens, the
// store ends up with what the server has.
#include "controller/kube/reflector.h"

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "controller/kube/resource_types.h"
#include "controller/kube/store.h"
#include "gtest/gtest.h"
#include "tests/controller/kube/fake_api_server.h"

namespace moe::kube {
namespace {

using testing::FakeApiServer;
using testing::Fault;

Json Pod(const std::string& name, int version = 0, const std::string& deployment = "d") {
  return {{"metadata",
           {{"namespace", "n"},
            {"name", name},
            {"labels", {{"moe-operator.dev/deployment", deployment}}}}},
          {"spec", {{"version", version}}}};
}

class ReflectorTest : public ::testing::Test {
 protected:
  ReflectorTest() {
    client_ = *Client::Create({.server = server_.url()});
    options_.type = kPods;
    options_.first_backoff = absl::Milliseconds(5);
    options_.max_backoff = absl::Milliseconds(50);
  }
  ~ReflectorTest() override { reflector_ = nullptr; }

  void Start() {
    reflector_ = std::make_unique<Reflector>(*client_, options_, store_);
    reflector_->Start();
    ASSERT_TRUE(Becomes([this] { return reflector_->counters().num_lists > 0; }));
    ASSERT_TRUE(store_.AwaitSynced(absl::Seconds(20)));
  }
  // Also the server has seen the end of its watch.
  void Stop() {
    reflector_ = nullptr;
    ASSERT_TRUE(Becomes([this] { return server_.num_watches() == 0; }));
  }
  void Put(const std::string& name, int version) {
    server_.objects().Put(kPods, Pod(name, version));
  }
  // The store has what the server has, within a while.
  bool CatchesUp() {
    return Becomes([this] {
      const std::vector<Json> there = server_.objects().All(kPods);
      const std::vector<Store::Object> here = store_.List();
      if (there.size() != here.size()) {
        return false;
      }
      for (size_t i = 0; i < there.size(); ++i) {
        if (there[i] != *here[i]) {
          return false;
        }
      }
      return true;
    });
  }
  template <typename Condition>
  static bool Becomes(Condition condition) {
    const absl::Time give_up = absl::Now() + absl::Seconds(30);
    while (!condition()) {
      if (absl::Now() > give_up) {
        return false;
      }
      absl::SleepFor(absl::Milliseconds(2));
    }
    return true;
  }

  FakeApiServer server_;
  std::unique_ptr<Client> client_;
  ReflectorOptions options_;
  Store store_;
  std::unique_ptr<Reflector> reflector_;
};

TEST_F(ReflectorTest, TheStoreFollowsTheServer) {
  Put("a", 1);
  Start();
  EXPECT_EQ(store_.size(), 1);
  Put("b", 1);
  Put("a", 2);
  EXPECT_TRUE(CatchesUp());
  server_.objects().Finish(kPods, {.ns = "n", .name = "a"});
  EXPECT_TRUE(CatchesUp());
  EXPECT_EQ(reflector_->counters().num_lists, 1);
  EXPECT_EQ(reflector_->counters().num_errors, 0);
}

TEST_F(ReflectorTest, ItTriesSoonerWhenTheServerIsBackForOthers) {
  options_.first_backoff = options_.max_backoff = absl::Seconds(40);  // longer than Becomes waits
  server_.Inject({.verb = "list", .plural = "pods", .kind = Fault::kDropped});
  reflector_ = std::make_unique<Reflector>(*client_, options_, store_);
  reflector_->Start();
  ASSERT_TRUE(Becomes([this] { return reflector_->counters().num_errors == 1; }));
  EXPECT_TRUE(absl::IsNotFound(client_->Get(kPods, {.ns = "n", .name = "a"}).status()));
  EXPECT_EQ(client_->num_returns(), 1);
  EXPECT_TRUE(Becomes([this] { return reflector_->counters().num_lists == 1; }));
}

TEST_F(ReflectorTest, ASelectorLetsObjectsComeAndGoByTheirLabels) {
  options_.selector = "moe-operator.dev/deployment=d";
  Put("a", 1);
  server_.objects().Put(kPods, Pod("other", 1, "e"));
  Start();
  EXPECT_EQ(store_.size(), 1);
  server_.objects().Put(kPods, Pod("a", 2, "e"));
  EXPECT_TRUE(Becomes([this] { return store_.size() == 0; }));
  server_.objects().Put(kPods, Pod("other", 2, "d"));
  EXPECT_TRUE(Becomes([this] { return store_.size() == 1; }));
}

TEST_F(ReflectorTest, AWatchThatEndsInOrderGoesOnWithoutAList) {
  Start();
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(Becomes([this] { return server_.num_watches() == 1; }));
    Put("a", i);
    ASSERT_TRUE(CatchesUp());
    const int64_t before = reflector_->counters().num_watches;
    server_.EndWatches();
    ASSERT_TRUE(Becomes([&] { return reflector_->counters().num_watches > before; }));
  }
  Put("b", 1);
  EXPECT_TRUE(CatchesUp());
  EXPECT_EQ(reflector_->counters().num_lists, 1);
}

// Fault 60: each of these on a watch, and no event is lost.
TEST_F(ReflectorTest, NoChangeIsLostWhateverTheStreamDoes) {
  struct Case {
    const char* sentence;
    Fault fault;
    bool lists_again;
  };
  const std::vector<Case> cases = {
      {"half a line", {.verb = "watch", .kind = Fault::kCutLine}, true},
      {"a line that is no JSON",
       {.verb = "watch", .kind = Fault::kText, .text = "{\"type\":\n"},
       true},
      {"an endless line",
       {.verb = "watch", .kind = Fault::kText, .text = std::string(9 << 20, 'x')},
       true},
      {"410 as an event",
       {.verb = "watch",
        .kind = Fault::kText,
        .text = "{\"type\":\"ERROR\",\"object\":{\"kind\":\"Status\",\"code\":410}}\n"},
       true},
      {"410 as the answer", {.verb = "watch", .code = 410, .reason = "Expired"}, true},
      {"500 as the answer", {.verb = "watch", .code = 500}, false},
      {"429 as the answer", {.verb = "watch", .code = 429, .retry_after_seconds = 0}, false},
      {"a broken connection", {.verb = "watch", .kind = Fault::kDropped}, false},
      {"silence", {.verb = "watch", .kind = Fault::kSilent}, false},
  };
  options_.silence = absl::Milliseconds(300);
  for (const Case& c : cases) {
    SCOPED_TRACE(c.sentence);
    Start();
    ASSERT_TRUE(Becomes([this] { return server_.num_watches() == 1; }));
    server_.Inject(c.fault);
    const int64_t lists = reflector_->counters().num_lists;
    // The watch that is open ends; the next one has the fault, and the change comes meanwhile.
    server_.EndWatches();
    Put("a", static_cast<int>(&c - cases.data()));
    server_.objects().Finish(kPods, {.ns = "n", .name = "gone"});
    EXPECT_TRUE(CatchesUp());
    EXPECT_EQ(reflector_->counters().num_lists > lists, c.lists_again);
    Put("gone", 1);
    EXPECT_TRUE(CatchesUp());
    Stop();
  }
}

TEST_F(ReflectorTest, AVersionThatTheServerHasForgottenIsListedAgain) {
  Put("a", 1);
  Start();
  ASSERT_TRUE(Becomes([this] { return server_.num_watches() == 1; }));
  server_.SetOutage(true);
  server_.objects().Finish(kPods, {.ns = "n", .name = "a"});
  Put("b", 1);
  server_.objects().Compact();
  server_.SetOutage(false);
  EXPECT_TRUE(CatchesUp());
  EXPECT_GE(reflector_->counters().num_relists, 1);
}

TEST_F(ReflectorTest, ABookmarkSparesTheListAfterTheHistoryIsForgotten) {
  for (const bool with_bookmark : {true, false}) {
    SCOPED_TRACE(with_bookmark);
    Start();
    ASSERT_TRUE(Becomes([this] { return server_.num_watches() == 1; }));
    // Nothing of this type happens, but versions go on and older ones are forgotten.
    server_.objects().Compact();
    if (with_bookmark) {
      server_.SendBookmarks();
      ASSERT_TRUE(Becomes([this] { return reflector_->counters().num_events > 0; }));
    }
    server_.EndWatches();
    ASSERT_TRUE(Becomes([this] { return reflector_->counters().num_watches >= 2; }));
    Put("a", with_bookmark ? 1 : 2);
    EXPECT_TRUE(CatchesUp());
    EXPECT_EQ(reflector_->counters().num_relists, with_bookmark ? 0 : 1);
    Stop();
  }
}

// Fault 61: a long time of 5xx.
TEST_F(ReflectorTest, AnOutageIsSurvivedWithWhatIsKnown) {
  Put("a", 1);
  Start();
  server_.SetOutage(true);
  ASSERT_TRUE(Becomes([this] { return reflector_->counters().num_errors >= 5; }));
  EXPECT_EQ(store_.size(), 1);
  EXPECT_TRUE(store_.synced());
  Put("b", 1);
  server_.SetOutage(false);
  EXPECT_TRUE(CatchesUp());
}

TEST_F(ReflectorTest, ManyChangesWithManyBreaksEndInTheSameState) {
  Start();
  for (int i = 0; i < 300; ++i) {
    Put(absl::StrCat("p", i % 17), i);
    if (i % 5 == 4) {
      server_.objects().Finish(kPods, {.ns = "n", .name = absl::StrCat("p", i % 13)});
    }
    if (i % 20 == 7) {
      server_.Inject({.verb = "watch", .kind = i % 40 == 7 ? Fault::kCutLine : Fault::kDropped});
    }
    if (i % 20 == 10) {
      server_.EndWatches();
    }
    if (i % 100 == 50) {
      server_.objects().Compact();
    }
  }
  EXPECT_TRUE(CatchesUp());
}

TEST_F(ReflectorTest, StopEndsAWatchThatHasNothingToSay) {
  Start();
  ASSERT_TRUE(Becomes([this] { return server_.num_watches() == 1; }));
  reflector_->Stop();
  // The silence it would have waited for is three minutes; the server sees the end of the stream.
  EXPECT_TRUE(Becomes([this] { return server_.num_watches() == 0; }));
  Put("a", 1);
  EXPECT_EQ(store_.size(), 0);
}

TEST_F(ReflectorTest, StopWorksBetweenTwoTries) {
  server_.SetOutage(true);
  options_.first_backoff = absl::Hours(1);
  options_.max_backoff = absl::Hours(1);
  reflector_ = std::make_unique<Reflector>(*client_, options_, store_);
  reflector_->Start();
  ASSERT_TRUE(Becomes([this] { return reflector_->counters().num_errors == 1; }));
  reflector_->Stop();
  EXPECT_FALSE(store_.synced());
}

}  // namespace
}  // namespace moe::kube
