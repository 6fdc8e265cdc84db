#include "controller/api/status_json.h"

#include <limits>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/controller/api/full_status.h"

namespace moe::api {
namespace {

using Json = nlohmann::json;
using testing::HasSubstr;

const absl::Time kTime = FullStatusTime();

// As the API server gives it back: text, parsed again.
MoEDeploymentStatus Again(const MoEDeploymentStatus& status) {
  const auto read = StatusFromJson(Json::parse(StatusToJson(status).dump()));
  EXPECT_TRUE(read.ok()) << read.status();
  return read.ok() ? *read : MoEDeploymentStatus();
}

MoEDeploymentStatus LargeStatus(int num_groups, int num_slots, int num_not_active) {
  MoEDeploymentStatus status = FullStatus();
  status.groups.clear();
  for (int g = 0; g < num_groups; ++g) {
    GroupStatus& group = status.groups.emplace_back();
    group.index = g;
    group.revision = "0123456789";
    group.phase = "Active";
    group.epoch = 12345;
    for (int r = 0; r < num_slots; ++r) {
      group.incarnations.push_back(r % 3);
      // No two neighbours in order, so that no ranges shorten it.
      group.slot_of_rank.push_back((r * 27 + 11) % num_slots);
      group.ranks.push_back(
          {r, absl::StrCat("a-long-name-of-a-deployment-of-40-bytes-g", g, "-s", r, "-0"),
           std::nullopt, absl::StrCat("a-node-of-some-cluster-pool-", r), absl::StrCat(r),
           r < num_not_active ? "Loading" : "Active"});
    }
  }
  return status;
}

TEST(StatusJson, ComesBackAsItWas) { EXPECT_EQ(Again(FullStatus()), FullStatus()); }

TEST(StatusJson, AnEmptyOneComesBackAsItWas) {
  EXPECT_EQ(Again(MoEDeploymentStatus()), MoEDeploymentStatus());
  EXPECT_EQ(StatusFromJson(Json()).value(), MoEDeploymentStatus());
  EXPECT_EQ(StatusFromJson(Json::object()).value(), MoEDeploymentStatus());
}

TEST(StatusJson, OnlyTheCountsAreWrittenWhenEmpty) {
  EXPECT_EQ(StatusToJson(MoEDeploymentStatus()),
            Json({{"replicas", 0}, {"readyReplicas", 0}, {"updatedReplicas", 0}}));
}

TEST(StatusJson, ListsOfSlotsAreShort) {
  MoEDeploymentStatus status;
  GroupStatus& group = status.groups.emplace_back();
  group.incarnations = std::vector<int>(64, 0);
  group.incarnations[12] = 4;
  for (int i = 0; i < 64; ++i) {
    group.slot_of_rank.push_back(i);
  }
  std::swap(group.slot_of_rank[0], group.slot_of_rank[40]);
  const Json json = StatusToJson(status);
  EXPECT_EQ(json["groups"][0]["incarnations"], "0*12,4,0*51");
  EXPECT_EQ(json["groups"][0]["slotOfRank"], "40,1-39,0,41-63");
  EXPECT_EQ(Again(status), status);
}

TEST(StatusJson, InfiniteTimesComeBack) {
  MoEDeploymentStatus status = FullStatus();
  status.groups[0].gang_retry_at = absl::InfiniteFuture();
  status.groups[0].gang_since = absl::InfinitePast();
  EXPECT_EQ(Again(status), status);
}

TEST(StatusJson, SixteenGroupsOf64WorkersKeepTheRanksThatAreNotActive) {
  const MoEDeploymentStatus status = LargeStatus(16, 64, 9);
  const Json json = StatusToJson(status);
  EXPECT_LT(json.dump().size(), kMaxStatusBytes);
  EXPECT_GT(json.dump().size(), kMaxStatusBytes - 1024) << "the room is not used";
  for (const Json& group : json["groups"]) {
    int num_loading = 0;
    for (const Json& rank : group.value("ranks", Json::array())) {
      num_loading += rank["phase"] == "Loading" ? 1 : 0;
    }
    EXPECT_EQ(num_loading, 9);
  }
  EXPECT_EQ(json["groups"][0]["ranks"].size(), 64) << "the first groups are whole";
  EXPECT_EQ(json["groups"][0].count("ranksLeftOut"), 0);
  EXPECT_EQ(json["groups"][15]["ranksLeftOut"], 55);
}

TEST(StatusJson, WhatWasCutIsTheSameStatus) {
  for (const int num_not_active : {0, 9, 64}) {
    const MoEDeploymentStatus status = LargeStatus(16, 64, num_not_active);
    const MoEDeploymentStatus read = Again(status);
    EXPECT_TRUE(SameStatus(status, read)) << num_not_active;
    EXPECT_EQ(Again(read), read) << num_not_active;
    ASSERT_EQ(read.groups.size(), status.groups.size());
    for (size_t g = 0; g < status.groups.size(); ++g) {
      EXPECT_EQ(read.groups[g].incarnations, status.groups[g].incarnations);
      EXPECT_EQ(read.groups[g].slot_of_rank, status.groups[g].slot_of_rank);
    }
  }
  MoEDeploymentStatus changed = LargeStatus(16, 64, 0);
  changed.groups[15].incarnations[63] = 9;
  EXPECT_FALSE(SameStatus(changed, LargeStatus(16, 64, 0)));
}

TEST(StatusJson, TheLargestThatTheSchemaAllowsFits) {
  for (const auto& [num_groups, num_slots] : {std::pair{64, 32}, {2, 1024}, {32, 64}}) {
    MoEDeploymentStatus status = LargeStatus(num_groups, num_slots, num_slots);
    for (GroupStatus& group : status.groups) {
      group.reason = std::string(5000, '"');
      group.gang_since = kTime;
      group.gang_retry_at = kTime;
    }
    status.last_failure->last_log = std::string(100000, '\n');
    status.conditions =
        std::vector<Condition>(12, Condition{"T", "True", "R", std::string(9000, '"'), kTime, 1});
    EXPECT_LE(StatusToJson(status).dump().size(), kMaxStatusBytes) << num_groups;
    EXPECT_TRUE(SameStatus(status, Again(status))) << num_groups;
  }
}

TEST(StatusJson, OfALogTheEndIsKept) {
  MoEDeploymentStatus status = FullStatus();
  status.last_failure->last_log = std::string(5000, 'x') + "the last line";
  const std::string log = Again(status).last_failure->last_log;
  EXPECT_EQ(log.size(), kMaxLastLogBytes);
  EXPECT_THAT(log, testing::EndsWith("the last line"));
}

TEST(StatusJson, OfAMessageTheBeginningIsKept) {
  MoEDeploymentStatus status = FullStatus();
  status.conditions[0].message = "it says: " + std::string(5000, 'x');
  const std::string message = Again(status).conditions[0].message;
  EXPECT_EQ(message.size(), kMaxMessageBytes);
  EXPECT_THAT(message, testing::StartsWith("it says: "));
}

TEST(StatusJson, TextsOfADecisionAreCut) {
  MoEDeploymentStatus status = FullStatus();
  status.decision->because = std::string(5000, 'x');
  status.decision->alternatives[0].needs = std::string(5000, '"');
  const MoEDeploymentStatus read = Again(status);
  EXPECT_EQ(read.decision->because.size(), 512);
  EXPECT_EQ(read.decision->alternatives[0].needs.size(), 512);
  EXPECT_TRUE(SameStatus(status, read));
}

TEST(StatusJson, AnyBytesOfALogBecomeText) {
  MoEDeploymentStatus status = FullStatus();
  status.last_failure->last_log =
      "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80|\xff\xc3|\xed\xa0\x80|\xc0\x80|a\x01\x7f\tb";
  EXPECT_EQ(Again(status).last_failure->last_log,
            "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80|??|???|??|a \x7f\tb");
  // A cut between the bytes of a character takes the whole character away.
  for (int length = 2040; length < 2060; ++length) {
    std::string text;
    while (static_cast<int>(text.size()) < length) {
      text += "\xe2\x82\xac";
    }
    status.last_failure->last_log = "x" + text;
    status.conditions[0].message = "x" + text;
    EXPECT_TRUE(SameStatus(status, Again(status)));
  }
}

TEST(StatusJson, NumbersOfAnyJsonFormAreRead) {
  const auto status =
      StatusFromJson(Json::parse(R"({"term": 5.0, "expertLoad": {"maxOverMean": 2}})"));
  ASSERT_TRUE(status.ok()) << status.status();
  EXPECT_EQ(status->term, 5);
  EXPECT_EQ(status->expert_load->max_over_mean, 2);
}

TEST(StatusJson, NumbersStayWithinWhatTheApiServerKeeps) {
  MoEDeploymentStatus status;
  status.term = std::numeric_limits<uint64_t>::max();
  status.expert_load.emplace().max_over_mean = std::numeric_limits<double>::infinity();
  const MoEDeploymentStatus read = Again(status);
  EXPECT_EQ(read.term, uint64_t{std::numeric_limits<int64_t>::max()});
  EXPECT_EQ(read.expert_load->max_over_mean, 0);
}

TEST(StatusJson, ErrorsNameTheField) {
  const struct {
    const char* json;
    const char* message;
  } cases[] = {
      {R"({"groups": {}})", "status.groups: must be a list"},
      {R"({"groups": [3]})", "status.groups[0]: must be an object"},
      {R"({"groups": [{"slotOfRank": "0-x"}]})", "status.groups[0].slotOfRank: must be numbers"},
      {R"({"groups": [{"slotOfRank": "0-99999999"}]})", "slotOfRank: must be numbers such as 0-31"},
      {R"({"groups": [{"slotOfRank": "-4"}]})", "slotOfRank: must be numbers such as 0-31"},
      {R"({"groups": [{"incarnations": "0*999999999"}]})",
       "incarnations: must be numbers such as 0*63"},
      {R"({"groups": [{"incarnations": "-2"}]})", "incarnations: must be numbers such as 0*63"},
      {R"({"groups": [{"incarnations": [0, 1]}]})", "incarnations: must be a string"},
      {R"({"lastFailure": {"at": "x"}})", "status.lastFailure.at: 'x' is no time"},
      {R"({"conditions": [{"observedGeneration": -1}]})", "conditions[0].observedGeneration"},
      {R"({"decision": {"chosen": {"expert": "8"}}})", "status.decision.chosen.expert: must be"},
      {R"({"decision": {"alternatives": [{}, {"figures": {"gpuMemoryBytes": -1}}]}})",
       "status.decision.alternatives[1].figures.gpuMemoryBytes"},
      {R"({"decision": {"alternatives": [{}, {}, {}, {}]}})", "status.decision.alternatives"},
      {R"({"model": {"shape": {"hiddenSize": -1}}})", "status.model.shape.hiddenSize"},
      {R"({"expertLoad": {"maxOverMean": "x"}})",
       "status.expertLoad.maxOverMean: must be a number"},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.json);
    const auto status = StatusFromJson(Json::parse(c.json));
    ASSERT_EQ(status.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.status().message()), HasSubstr(c.message));
  }
}

}  // namespace
}  // namespace moe::api
