#include "worker/membership/session_state.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::membership {
namespace {

using coordinator::v1::ControllerMessage;
using coordinator::v1::Hello;
using coordinator::v1::WorkerMessage;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class SessionStateTest : public ::testing::Test {
 protected:
  // "assign", "prepare 2", ... for each callback that is due; "refused" for a refusal.
  std::vector<std::string> Receive(const ControllerMessage& message) {
    using Delivery = SessionState::Delivery;
    const SessionState::Received received = state_.Receive(message);
    refusal_ = received.refusal;
    answers_ = received.answers;
    std::vector<std::string> result;
    for (const Delivery& delivery : received.deliveries) {
      const ControllerMessage& m = delivery.message;
      switch (delivery.kind) {
        case Delivery::kAssign:
          result.push_back("assign");
          break;
        case Delivery::kPrepare:
          result.push_back(absl::StrCat("prepare ", m.prepare().epoch()));
          break;
        case Delivery::kJoin:
          result.push_back(absl::StrCat("join ", m.join().epoch()));
          break;
        case Delivery::kActivate:
          result.push_back(absl::StrCat("activate ", m.activate().epoch()));
          break;
        case Delivery::kAbort:
          result.push_back(absl::StrCat("abort ", m.abort().epoch()));
          break;
        case Delivery::kDismiss:
          result.push_back("dismiss");
          break;
      }
    }
    if (!received.refusal.empty()) result.push_back("refused");
    return result;
  }

  static ControllerMessage Assign(uint64_t term, uint32_t slot = 3) {
    ControllerMessage message;
    message.mutable_assign()->set_term(term);
    message.mutable_assign()->set_slot(slot);
    message.mutable_assign()->mutable_spec()->set_num_slots(8);
    return message;
  }
  static ControllerMessage Prepare(uint64_t term, uint64_t epoch) {
    ControllerMessage message;
    message.mutable_prepare()->set_term(term);
    message.mutable_prepare()->set_epoch(epoch);
    return message;
  }
  static ControllerMessage Join(uint64_t term, uint64_t epoch) {
    ControllerMessage message;
    message.mutable_join()->set_term(term);
    message.mutable_join()->set_epoch(epoch);
    return message;
  }
  static ControllerMessage Activate(uint64_t term, uint64_t epoch) {
    ControllerMessage message;
    message.mutable_activate()->set_term(term);
    message.mutable_activate()->set_epoch(epoch);
    return message;
  }
  static ControllerMessage Abort(uint64_t term, uint64_t epoch) {
    ControllerMessage message;
    message.mutable_abort()->set_term(term);
    message.mutable_abort()->set_epoch(epoch);
    return message;
  }

  bool SayPrepared(uint64_t epoch, const std::string& bootstrap = "") {
    coordinator::v1::Prepared prepared;
    prepared.set_epoch(epoch);
    prepared.set_bootstrap(bootstrap);
    return state_.SayPrepared(prepared);
  }
  bool SayEpochFailed(uint64_t epoch) {
    coordinator::v1::EpochFailed failed;
    failed.set_epoch(epoch);
    return state_.SayEpochFailed(failed);
  }
  void Activate(uint64_t epoch) {
    Receive(Assign(1));
    Receive(Prepare(1, epoch));
    SayPrepared(epoch);
    Receive(Join(1, epoch));
    state_.SayJoined(epoch);
    ASSERT_THAT(Receive(Activate(1, epoch)), SizeIs(1));
  }
  std::vector<WorkerMessage::MessageCase> ReplayCases() const {
    std::vector<WorkerMessage::MessageCase> cases;
    for (const WorkerMessage& message : state_.Replay()) cases.push_back(message.message_case());
    return cases;
  }

  SessionState state_;
  std::string refusal_;
  std::vector<WorkerMessage> answers_;
};

TEST_F(SessionStateTest, AnEpochIsDeliveredStageByStage) {
  EXPECT_THAT(Receive(Assign(1)), ElementsAre("assign"));
  EXPECT_THAT(Receive(Prepare(1, 2)), ElementsAre("prepare 2"));
  EXPECT_THAT(Receive(Join(1, 2)), ElementsAre("join 2"));
  EXPECT_EQ(state_.running_epoch(), 0u);
  EXPECT_THAT(Receive(Activate(1, 2)), ElementsAre("activate 2"));
  EXPECT_EQ(state_.running_epoch(), 2u);
  EXPECT_THAT(Receive(Abort(1, 2)), ElementsAre("abort 2"));
  EXPECT_EQ(state_.running_epoch(), 0u);
}

TEST_F(SessionStateTest, RepeatedMessagesAreDeliveredOnce) {
  for (const ControllerMessage& message :
       {Assign(1), Prepare(1, 2), Join(1, 2), Activate(1, 2), Abort(1, 2)}) {
    EXPECT_THAT(Receive(message), SizeIs(1));
    EXPECT_THAT(Receive(message), IsEmpty());
  }
  EXPECT_THAT(Receive(Prepare(1, 2)), IsEmpty()) << "an epoch that is over does not come back";
}

TEST_F(SessionStateTest, StagesOutOfOrderAreNotDelivered) {
  EXPECT_THAT(Receive(Prepare(1, 1)), ElementsAre("refused"));
  EXPECT_THAT(Receive(Assign(1)), ElementsAre("assign"));
  EXPECT_THAT(Receive(Join(1, 2)), IsEmpty());
  EXPECT_THAT(Receive(Activate(1, 2)), IsEmpty());
  EXPECT_THAT(Receive(Abort(1, 2)), IsEmpty());
  EXPECT_THAT(Receive(Prepare(1, 3)), ElementsAre("prepare 3"));
  EXPECT_THAT(Receive(Activate(1, 3)), IsEmpty());
}

TEST_F(SessionStateTest, ANewEpochAbortsTheOneBefore) {
  Activate(2);
  EXPECT_THAT(Receive(Prepare(1, 3)), ElementsAre("abort 2", "prepare 3"));
  EXPECT_THAT(Receive(Prepare(1, 5)), ElementsAre("abort 3", "prepare 5"));
}

TEST_F(SessionStateTest, LowerTermsAndEpochsAreRefused) {
  Receive(Assign(2));
  Receive(Prepare(2, 10));
  const struct {
    const char* name;
    ControllerMessage message;
  } kCases[] = {
      {"an older epoch is prepared", Prepare(2, 9)},
      {"an older epoch is joined", Join(2, 9)},
      {"an older epoch is activated", Activate(2, 9)},
      {"an older epoch is aborted", Abort(2, 9)},
      {"an older term prepares a newer epoch", Prepare(1, 11)},
      {"an older term joins this epoch", Join(1, 10)},
      {"an older term activates this epoch", Activate(1, 10)},
      {"an older term aborts this epoch", Abort(1, 10)},
      {"an older term assigns", Assign(1)},
  };
  for (const auto& c : kCases) EXPECT_THAT(Receive(c.message), ElementsAre("refused")) << c.name;
  EXPECT_THAT(Receive(Join(2, 10)), ElementsAre("join 10")) << "the epoch itself goes on";
}

// Fault 56: whatever an old Join brings, it does not reach the exchange.
TEST_F(SessionStateTest, AnOldBootstrapIsNotDelivered) {
  ControllerMessage old = Join(1, 4);
  old.mutable_join()->set_bootstrap("old secret");
  Receive(Assign(1));
  EXPECT_THAT(Receive(old), IsEmpty()) << "without Prepare";
  Receive(Prepare(1, 5));
  EXPECT_THAT(Receive(old), ElementsAre("refused"));
  EXPECT_THAT(refusal_, HasSubstr("epoch 4 is below"));
  EXPECT_THAT(refusal_, testing::Not(HasSubstr("secret")));
  EXPECT_THAT(Receive(Join(1, 5)), ElementsAre("join 5"));
  EXPECT_THAT(Receive(old), ElementsAre("refused")) << "after its own";
}

TEST_F(SessionStateTest, ANewTermTakesTheRunningEpochOver) {
  Activate(4);
  EXPECT_THAT(Receive(Assign(2)), IsEmpty());
  EXPECT_EQ(state_.running_epoch(), 4u);
  EXPECT_THAT(Receive(Abort(1, 4)), ElementsAre("refused"));
  EXPECT_THAT(Receive(Prepare(2, 3)), ElementsAre("refused")) << "epochs do not begin again";
  EXPECT_THAT(Receive(Abort(2, 4)), ElementsAre("abort 4"));
}

TEST_F(SessionStateTest, ASecondAssignmentCannotBeCarriedOut) {
  Receive(Assign(1, 3));
  EXPECT_THAT(Receive(Assign(1, 4)), ElementsAre("refused"));
  ASSERT_THAT(answers_, SizeIs(1));
  EXPECT_THAT(answers_[0].unable().reason(), HasSubstr("already serves slot 3"));
}

TEST_F(SessionStateTest, HelloNamesWhatRuns) {
  Hello hello;
  hello.set_slot_hint(-1);
  state_.FillHello(&hello);
  EXPECT_EQ(hello.epoch(), 0u);
  EXPECT_EQ(hello.slot_hint(), -1);
  Activate(4);
  state_.FillHello(&hello);
  EXPECT_EQ(hello.term(), 1u);
  EXPECT_EQ(hello.epoch(), 4u);
  EXPECT_EQ(hello.slot_hint(), 3);
  SayEpochFailed(4);
  state_.FillHello(&hello);
  EXPECT_EQ(hello.epoch(), 0u);
}

TEST_F(SessionStateTest, WhatIsStillTrueIsReplayedInOrder) {
  Receive(Assign(1));
  EXPECT_THAT(ReplayCases(), IsEmpty());
  state_.SayLoaded({});
  Receive(Prepare(1, 2));
  EXPECT_THAT(ReplayCases(), ElementsAre(WorkerMessage::kLoaded));
  SayPrepared(2, "secret");
  EXPECT_THAT(ReplayCases(), ElementsAre(WorkerMessage::kLoaded, WorkerMessage::kPrepared));
  Receive(Join(1, 2));
  state_.SayJoined(2);
  EXPECT_THAT(ReplayCases(), ElementsAre(WorkerMessage::kLoaded, WorkerMessage::kPrepared,
                                         WorkerMessage::kJoined));
  Receive(Activate(1, 2));
  EXPECT_THAT(ReplayCases(), ElementsAre(WorkerMessage::kLoaded)) << "the secret is forgotten";
  SayEpochFailed(2);
  EXPECT_THAT(ReplayCases(), ElementsAre(WorkerMessage::kLoaded, WorkerMessage::kEpochFailed));
  Receive(Abort(1, 2));
  EXPECT_THAT(ReplayCases(), ElementsAre(WorkerMessage::kLoaded));
  state_.SayUnable("no");
  EXPECT_THAT(ReplayCases(), ElementsAre(WorkerMessage::kLoaded, WorkerMessage::kUnable));
}

TEST_F(SessionStateTest, AnswersForOtherEpochsAreNotSent) {
  Receive(Assign(1));
  EXPECT_FALSE(SayPrepared(0));
  EXPECT_FALSE(SayEpochFailed(0));
  Receive(Prepare(1, 2));
  EXPECT_FALSE(SayPrepared(1));
  EXPECT_FALSE(state_.SayJoined(2)) << "before Join";
  EXPECT_TRUE(SayPrepared(2));
  Receive(Join(1, 2));
  EXPECT_FALSE(state_.SayJoined(1));
  EXPECT_TRUE(state_.SayJoined(2));
  EXPECT_FALSE(SayEpochFailed(1));
  EXPECT_TRUE(SayEpochFailed(2));
  EXPECT_FALSE(SayEpochFailed(2)) << "once is enough";
  Receive(Abort(1, 2));
  EXPECT_FALSE(SayEpochFailed(2)) << "it is over";
}

TEST_F(SessionStateTest, AnEpochThatThisRankFailedGoesNoFurther) {
  Receive(Assign(1));
  Receive(Prepare(1, 2));
  SayEpochFailed(2);
  EXPECT_FALSE(SayPrepared(2));
  EXPECT_THAT(Receive(Join(1, 2)), IsEmpty());
  EXPECT_THAT(Receive(Abort(1, 2)), ElementsAre("abort 2"));
}

TEST_F(SessionStateTest, AnEmptyMessageIsRefused) {
  EXPECT_THAT(Receive(ControllerMessage()), ElementsAre("refused"));
}

}  // namespace
}  // namespace moe::membership
