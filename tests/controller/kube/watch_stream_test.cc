#include "controller/kube/watch_stream.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace moe::kube {
namespace {

std::string Line(const std::string& type, const std::string& name, const std::string& version) {
  return Json({{"type", type},
               {"object", {{"metadata", {{"name", name}, {"resourceVersion", version}}}}}})
             .dump() +
         "\n";
}

TEST(WatchStreamTest, EventsAreTheSameHoweverTheBytesAreCut) {
  const std::string bytes = Line("ADDED", "a", "1") + Line("MODIFIED", "b", "2") +
                            Line("DELETED", "c", "3") + Line("BOOKMARK", "", "9");
  for (size_t piece = 1; piece <= bytes.size(); ++piece) {
    WatchStream stream;
    std::vector<WatchEvent> events;
    for (size_t at = 0; at < bytes.size(); at += piece) {
      ASSERT_TRUE(stream.Feed(absl::string_view(bytes).substr(at, piece), &events).ok());
    }
    ASSERT_TRUE(stream.Finish().ok());
    ASSERT_EQ(events.size(), 4);
    EXPECT_EQ(events[0].type, WatchEvent::kAdded);
    EXPECT_EQ(events[0].object["metadata"]["name"], "a");
    EXPECT_EQ(events[1].type, WatchEvent::kModified);
    EXPECT_EQ(events[2].type, WatchEvent::kDeleted);
    EXPECT_EQ(events[2].resource_version, "3");
    EXPECT_EQ(events[3].type, WatchEvent::kBookmark);
    EXPECT_EQ(events[3].resource_version, "9");
  }
}

TEST(WatchStreamTest, AnErrorEventNeedsNoVersion) {
  WatchStream stream;
  std::vector<WatchEvent> events;
  ASSERT_TRUE(
      stream.Feed("{\"type\":\"ERROR\",\"object\":{\"kind\":\"Status\",\"code\":410}}\n", &events)
          .ok());
  ASSERT_EQ(events.size(), 1);
  EXPECT_EQ(events[0].type, WatchEvent::kError);
  EXPECT_EQ(events[0].object["code"], 410);
}

TEST(WatchStreamTest, WhatIsNoEventIsDataLossAndWhatCameBeforeIsKept) {
  struct Case {
    const char* sentence;
    std::string line;
  };
  const std::vector<Case> cases = {
      {"no JSON", "{\"type\":\n"},
      {"an empty line", "\n"},
      {"no object", "{\"type\":\"ADDED\"}\n"},
      {"an object that is none", "{\"type\":\"ADDED\",\"object\":3}\n"},
      {"an unknown type", "{\"type\":\"MOVED\",\"object\":{}}\n"},
      {"a type that is no string", "{\"type\":1,\"object\":{}}\n"},
      {"no version", "{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"name\":\"a\"}}}\n"},
      {"no name", "{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"resourceVersion\":\"1\"}}}\n"},
      {"nested too deep", std::string(100000, '[') + "\n"},
      {"not UTF-8", "{\"type\":\"ADDED\xff\",\"object\":{}}\n"},
      {"endless", std::string(2000, 'x')},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.sentence);
    WatchStream stream(/*max_line_bytes=*/1000);
    std::vector<WatchEvent> events;
    const absl::Status status = stream.Feed(Line("ADDED", "a", "1") + c.line, &events);
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    EXPECT_EQ(events.size(), 1);
  }
}

TEST(WatchStreamTest, AStreamThatEndsWithinALineIsDataLoss) {
  WatchStream stream;
  std::vector<WatchEvent> events;
  const std::string line = Line("ADDED", "a", "1");
  ASSERT_TRUE(stream.Feed(line.substr(0, line.size() - 1), &events).ok());
  EXPECT_EQ(stream.Finish().code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(events.empty());
}

}  // namespace
}  // namespace moe::kube
