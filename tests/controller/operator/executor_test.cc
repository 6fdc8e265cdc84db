#include "controller/operator/executor.h"

#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "controller/api/parse.h"
#include "controller/kube/answer.h"
#include "controller/kube/resource_types.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/controller/kube/fake_api.h"

namespace moe::controller {
namespace {

using kube::Json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

class FakeGroups : public GroupControl {
 public:
  absl::Status Start(const api::MoEDeployment&, uint64_t term, const reconcile::StartGroup& action,
                     const std::vector<reconcile::ObservedPod>&, uint32_t threads) override {
    calls.push_back(absl::StrCat("start ", action.index, " term ", term, " threads ", threads));
    return absl::OkStatus();
  }
  void Drain(const kube::ObjectKey&, int index) override {
    calls.push_back(absl::StrCat("drain ", index));
  }
  void Stop(const kube::ObjectKey&, int index) override {
    calls.push_back(absl::StrCat("stop ", index));
  }
  std::vector<std::string> calls;
};

class ExecutorTest : public ::testing::Test {
 protected:
  ExecutorTest() {
    Json object = Json::parse(R"({
      "apiVersion": "moe-operator.dev/v1alpha1", "kind": "MoEDeployment",
      "metadata": {"namespace": "models", "name": "olmoe"},
      "spec": {"model": {"name": "m", "uri": "pvc://weights/m"}, "parallelism": {"expert": 4},
               "backend": "CPU"},
      "status": {"replicas": 1, "readyReplicas": 0, "updatedReplicas": 0, "term": 3,
                 "groups": [{"index": 0, "phase": "Scheduling", "incarnations": "0*4"}]}})");
    objects_.Put(kube::kMoeDeployments, object);
    Observe();
  }

  void Observe() {
    object_ =
        std::make_shared<const Json>(*objects_.Find(kube::kMoeDeployments, {"models", "olmoe"}));
    const absl::StatusOr<api::ParsedDeployment> parsed = api::ParseMoEDeployment(*object_);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    ASSERT_TRUE(parsed->spec_status.ok()) << parsed->spec_status;
    observed_.deployment = parsed->deployment;
    observed_.term = 3;
  }

  Executor MakeExecutor() {
    return Executor(
        &api_, &groups_,
        {.leads = [this] { return leads_.load(); },
         .written =
             [this](const kube::ResourceType& type, const Json& object) {
               absl::MutexLock lock(&mu_);
               written_.push_back(
                   absl::StrCat(type.kind, " ", kube::MetadataString(object, "name")));
             },
         .event = [this](const api::MoEDeployment&,
                         const reconcile::Event& event) { events_.push_back(event.reason); }},
        4);
  }

  Execution MakeExecution() {
    Execution execution;
    execution.object = object_;
    execution.observed = &observed_;
    execution.applied = &applied_;
    execution.children = children_;
    execution.context = {.operator_namespace = "moe-system",
                         .coordinator_address = "c.moe-system.svc:7700",
                         .worker_image = "worker:1",
                         .gateway_image = "gateway:1",
                         .ca_bundle_pem = "pem"};
    execution.find_pod = [this](const std::string& name) {
      auto pod = objects_.Find(kube::kPods, {"models", name});
      return pod.has_value() ? std::make_shared<const Json>(*std::move(pod)) : nullptr;
    };
    return execution;
  }

  Outcome Carry(std::vector<reconcile::Action> actions) {
    reconcile::Plan plan;
    plan.actions = std::move(actions);
    return MakeExecutor().Carry(plan, MakeExecution());
  }

  std::vector<std::string> PodNames() {
    std::vector<std::string> names;
    for (const Json& pod : objects_.All(kube::kPods)) {
      names.push_back(pod["metadata"]["name"]);
    }
    return names;
  }
  static reconcile::CreatePod Create(int slot, int incarnation = 0, bool gated = true) {
    return {.group = 0, .slot = slot, .incarnation = incarnation, .revision = "r", .gated = gated};
  }
  static reconcile::Event MakeEvent(const std::string& reason) {
    reconcile::Event event;
    event.reason = reason;
    return event;
  }
  static reconcile::StartGroup MakeStart(int index) {
    reconcile::StartGroup start;
    start.index = index;
    return start;
  }
  std::string UidOf(const std::string& pod) {
    return kube::MetadataString(*objects_.Find(kube::kPods, {"models", pod}), "uid");
  }
  void LoseAnswersOf(const std::string& verb, int times) {
    api_.SetAfter([this, verb, times](const std::string& v, const kube::ResourceType&) {
      absl::MutexLock lock(&mu_);
      return v == verb && num_lost_++ < times ? absl::UnavailableError("the answer was lost")
                                              : absl::OkStatus();
    });
  }

  kube::testing::FakeObjects objects_;
  kube::testing::FakeApi api_{objects_};
  FakeGroups groups_;
  std::atomic<bool> leads_ = true;
  std::shared_ptr<const Json> object_;
  reconcile::Observed observed_;
  AppliedChildren applied_;
  AppliedChildren::Difference children_;
  absl::Mutex mu_;
  int num_lost_ = 0;
  std::vector<std::string> written_;
  std::vector<std::string> events_;
};

TEST_F(ExecutorTest, CreatesThePodsOfAGangGated) {
  const Outcome outcome = Carry({Create(0), Create(1), Create(2), Create(3)});
  EXPECT_EQ(outcome.status, absl::OkStatus());
  EXPECT_EQ(outcome.create_status, absl::OkStatus());
  EXPECT_EQ(outcome.created.size(), 4u);
  EXPECT_TRUE(outcome.acted);
  EXPECT_THAT(PodNames(), UnorderedElementsAre("olmoe-g0-s0-0", "olmoe-g0-s1-0", "olmoe-g0-s2-0",
                                               "olmoe-g0-s3-0"));
  for (const Json& pod : objects_.All(kube::kPods)) {
    EXPECT_EQ(pod["spec"]["schedulingGates"].size(), 1u);
    EXPECT_EQ(pod["metadata"]["ownerReferences"][0]["uid"], observed_.deployment.uid);
  }
}

TEST_F(ExecutorTest, ACreateWhoseAnswerWasLostMakesNoSecondPod) {
  LoseAnswersOf("create", 1);
  EXPECT_TRUE(absl::IsUnavailable(Carry({Create(0)}).status));
  const std::string uid = UidOf("olmoe-g0-s0-0");
  const Outcome again = Carry({Create(0)});
  EXPECT_EQ(again.status, absl::OkStatus());
  ASSERT_EQ(again.created.size(), 1u);
  EXPECT_EQ(kube::MetadataString(again.created[0], "uid"), uid);
  EXPECT_EQ(PodNames().size(), 1u);
}

TEST_F(ExecutorTest, APodOfAnEarlierDeploymentOfTheNameIsNotTakenForOurs) {
  objects_.Put(kube::kPods, Json::parse(R"({"metadata": {"namespace": "models",
      "name": "olmoe-g0-s0-0", "ownerReferences": [{"uid": "earlier", "controller": true}]}})"));
  const Outcome outcome = Carry({Create(0)});
  EXPECT_TRUE(absl::IsFailedPrecondition(outcome.status)) << outcome.status;
  EXPECT_THAT(outcome.created, IsEmpty());
}

TEST_F(ExecutorTest, StopsAtTheFirstActionThatFails) {
  api_.SetBefore([](const std::string& verb, const kube::ResourceType& type) {
    return verb == "create" && type.plural == "pods"
               ? absl::ResourceExhaustedError("exceeded quota")
               : absl::OkStatus();
  });
  const Outcome outcome =
      Carry({reconcile::DrainGroup{1}, Create(0), Create(1), reconcile::StopGroup{2}});
  EXPECT_TRUE(absl::IsResourceExhausted(outcome.status));
  ASSERT_TRUE(outcome.create_status.has_value());
  EXPECT_THAT(std::string(outcome.create_status->message()), HasSubstr("exceeded quota"));
  EXPECT_THAT(groups_.calls, ElementsAre("drain 1"));
}

TEST_F(ExecutorTest, WritesAStatusAgainstTheVersionThatItWasDecidedFrom) {
  reconcile::WriteStatus write{observed_.deployment.status};
  write.status.term = 4;
  Outcome outcome = Carry({write});
  EXPECT_EQ(outcome.status, absl::OkStatus());
  EXPECT_EQ(outcome.term, 4u);
  EXPECT_THAT(written_, ElementsAre("MoEDeployment olmoe"));
  const Json stored = *objects_.Find(kube::kMoeDeployments, {"models", "olmoe"});
  EXPECT_EQ(stored["status"]["term"], 4);
  EXPECT_EQ(stored["spec"], (*object_)["spec"]);

  // A controller that was stopped past its lease resumes with what it had observed.
  write.status.term = 3;
  write.status.groups.clear();
  outcome = Carry({write, reconcile::StopGroup{0}});
  EXPECT_TRUE(absl::IsAborted(outcome.status)) << outcome.status;
  EXPECT_FALSE(outcome.term.has_value());
  EXPECT_THAT(groups_.calls, IsEmpty());
  EXPECT_EQ(*objects_.Find(kube::kMoeDeployments, {"models", "olmoe"}), stored);
}

TEST_F(ExecutorTest, ALateDeleteLeavesTheSuccessorOfThePodAlone) {
  ASSERT_TRUE(Carry({Create(0)}).status.ok());
  const std::string stale = UidOf("olmoe-g0-s0-0");
  objects_.Finish(kube::kPods, {"models", "olmoe-g0-s0-0"});
  ASSERT_TRUE(Carry({Create(0)}).status.ok());
  EXPECT_EQ(Carry({reconcile::DeletePod{"olmoe-g0-s0-0", stale, "late"}}).status, absl::OkStatus());
  const auto pod = objects_.Find(kube::kPods, {"models", "olmoe-g0-s0-0"});
  ASSERT_TRUE(pod.has_value());
  EXPECT_FALSE((*pod)["metadata"].contains("deletionTimestamp"));

  // On a node it gets its grace; without one it is gone at once.
  objects_.Edit(kube::kPods, {"models", "olmoe-g0-s0-0"},
                [](Json& object) { object["spec"]["nodeName"] = "node-0"; });
  EXPECT_EQ(
      Carry({reconcile::DeletePod{"olmoe-g0-s0-0", UidOf("olmoe-g0-s0-0"), "given up"}}).status,
      absl::OkStatus());
  const auto leaving = objects_.Find(kube::kPods, {"models", "olmoe-g0-s0-0"});
  ASSERT_TRUE(leaving.has_value());
  EXPECT_EQ((*leaving)["metadata"]["deletionGracePeriodSeconds"], 1);
  objects_.Finish(kube::kPods, {"models", "olmoe-g0-s0-0"});
  EXPECT_EQ(Carry({reconcile::DeletePod{"olmoe-g0-s0-0", stale, "gone"}}).status, absl::OkStatus());
}

TEST_F(ExecutorTest, RemovesItsOwnGateAlone) {
  ASSERT_TRUE(Carry({Create(0), Create(1)}).status.ok());
  const Json other = Json::parse(R"({"name": "queue"})");
  objects_.Edit(kube::kPods, {"models", "olmoe-g0-s0-0"},
                [&other](Json& pod) { pod["spec"]["schedulingGates"].push_back(other); });
  objects_.Edit(kube::kPods, {"models", "olmoe-g0-s1-0"}, [](Json& pod) {
    pod["metadata"]["managedFields"] = Json::parse(R"([{"manager": "moe-operator"}])");
  });
  EXPECT_EQ(Carry({reconcile::RemoveGate{"olmoe-g0-s0-0", UidOf("olmoe-g0-s0-0")},
                   reconcile::RemoveGate{"olmoe-g0-s1-0", UidOf("olmoe-g0-s1-0")},
                   reconcile::RemoveGate{"olmoe-g0-s2-0", "gone"}})
                .status,
            absl::OkStatus());
  EXPECT_EQ((*objects_.Find(kube::kPods, {"models", "olmoe-g0-s0-0"}))["spec"]["schedulingGates"],
            Json::parse(R"([{"name": "queue"}])"));
  const auto last = objects_.Find(kube::kPods, {"models", "olmoe-g0-s1-0"});
  EXPECT_FALSE((*last)["spec"].contains("schedulingGates"));
  // Nor is it kept account of who wrote what.
  EXPECT_FALSE((*last)["metadata"].contains("managedFields"));
}

TEST_F(ExecutorTest, OfAThousandPodsThePlanCreatesTheFirst) {
  observed_.deployment.status.groups[0].incarnations.assign(1024, 0);
  std::vector<reconcile::Action> actions;
  for (int slot = 0; slot < 1024; ++slot) actions.emplace_back(Create(slot));
  actions.emplace_back(reconcile::StopGroup{0});
  const Outcome outcome = Carry(std::move(actions));
  EXPECT_EQ(outcome.status, absl::OkStatus());
  EXPECT_TRUE(outcome.acted);
  EXPECT_EQ(outcome.created.size(), 128u);
  EXPECT_TRUE(objects_.Find(kube::kPods, {"models", "olmoe-g0-s127-0"}).has_value());
  // What would follow is decided anew.
  EXPECT_THAT(groups_.calls, IsEmpty());
}

TEST_F(ExecutorTest, AGroupThatServesHasItsRanksWrittenOnItsPods) {
  ASSERT_TRUE(Carry({Create(0), Create(1)}).status.ok());
  for (int slot : {0, 1}) {
    reconcile::ObservedPod pod;
    pod.name = absl::StrCat("olmoe-g0-s", slot, "-0");
    pod.uid = UidOf(pod.name);
    pod.slot = slot;
    observed_.pods.push_back(pod);
  }
  observed_.deployment.status.groups[0].incarnations = {0, 0};
  observed_.deployment.status.groups[0].slot_of_rank = {1, 0};
  const auto rank_of = [this](const std::string& pod) {
    return (*objects_.Find(kube::kPods,
                           {"models", pod}))["metadata"]["annotations"]["moe-operator.dev/rank"];
  };
  EXPECT_EQ(MakeExecutor().NoteRanks(MakeExecution()), absl::OkStatus());
  EXPECT_TRUE(rank_of("olmoe-g0-s0-0").is_null()) << "before it serves there is better to do";
  observed_.deployment.status.groups[0].active = true;
  EXPECT_EQ(MakeExecutor().NoteRanks(MakeExecution()), absl::OkStatus());
  EXPECT_EQ(rank_of("olmoe-g0-s0-0"), "1");
  EXPECT_EQ(rank_of("olmoe-g0-s1-0"), "0");
  // A controller that takes over finds them written.
  written_.clear();
  EXPECT_EQ(MakeExecutor().NoteRanks(MakeExecution()), absl::OkStatus());
  EXPECT_THAT(written_, IsEmpty());
}

TEST_F(ExecutorTest, AppliesAndRemovesChildren) {
  objects_.Put(kube::kIngresses, Json::parse(R"({"metadata": {"namespace": "models",
      "name": "olmoe-gateway", "uid": "i1"}})"));
  manifests::Child child;
  child.type = kube::kServices;
  child.object = Json::parse(R"({"apiVersion": "v1", "kind": "Service",
      "metadata": {"namespace": "models", "name": "olmoe-gateway",
                   "annotations": {"moe-operator.dev/content-hash": "h"}}})");
  children_.apply.push_back(child);
  children_.remove.push_back({kube::kIngresses, {"models", "olmoe-gateway"}, "i1"});
  const Outcome outcome = Carry({reconcile::ApplyChildren{}});
  EXPECT_EQ(outcome.status, absl::OkStatus());
  EXPECT_EQ(outcome.children_status, absl::OkStatus());
  EXPECT_TRUE(objects_.Find(kube::kServices, {"models", "olmoe-gateway"}).has_value());
  EXPECT_THAT(objects_.All(kube::kIngresses), IsEmpty());
}

TEST_F(ExecutorTest, AChildThatCantBeAppliedStopsNothing) {
  for (const kube::ResourceType& type : {kube::kIngresses, kube::kServices}) {
    manifests::Child child;
    child.type = type;
    child.object = Json{{"apiVersion", type.ApiVersion()},
                        {"kind", type.kind},
                        {"metadata", {{"namespace", "models"}, {"name", "olmoe-gateway"}}}};
    children_.apply.push_back(child);
  }
  api_.SetBefore([](const std::string& verb, const kube::ResourceType& type) {
    return verb == "apply" && type.plural == "ingresses"
               ? absl::InvalidArgumentError("no such ingress class")
               : absl::OkStatus();
  });
  const Outcome outcome =
      Carry({reconcile::ApplyChildren{}, reconcile::StopGroup{2}, Create(0, 1, /*gated=*/false)});
  EXPECT_EQ(outcome.status, absl::OkStatus());
  ASSERT_TRUE(outcome.children_status.has_value());
  EXPECT_TRUE(absl::IsInvalidArgument(*outcome.children_status)) << *outcome.children_status;
  EXPECT_TRUE(objects_.Find(kube::kServices, {"models", "olmoe-gateway"}).has_value());
  EXPECT_THAT(groups_.calls, ElementsAre("stop 2"));
  EXPECT_THAT(PodNames(), ElementsAre("olmoe-g0-s0-1"));
}

TEST_F(ExecutorTest, AServerThatDoesNotAnswerIsNotAskedForEveryChild) {
  manifests::Child child;
  child.type = kube::kServices;
  child.object = Json::parse(R"({"apiVersion": "v1", "kind": "Service",
      "metadata": {"namespace": "models", "name": "olmoe-gateway"}})");
  children_.apply = {child, child, child};
  int num_asked = 0;
  api_.SetBefore([&num_asked](const std::string&, const kube::ResourceType&) {
    ++num_asked;
    return absl::UnavailableError("nobody there");
  });
  const Outcome outcome = Carry({reconcile::ApplyChildren{}});
  EXPECT_TRUE(absl::IsUnavailable(outcome.children_status.value_or(absl::OkStatus())));
  EXPECT_EQ(num_asked, 1);
}

TEST_F(ExecutorTest, TheInspectPodComesWithItsAccount) {
  EXPECT_EQ(Carry({reconcile::CreateInspection{}}).status, absl::OkStatus());
  EXPECT_TRUE(objects_.Find(kube::kServiceAccounts, {"models", "olmoe-worker"}).has_value());
  EXPECT_THAT(PodNames(), ElementsAre("olmoe-inspect"));
  EXPECT_EQ(Carry({reconcile::DeleteInspection{UidOf("olmoe-inspect")}}).status, absl::OkStatus());
}

TEST_F(ExecutorTest, ActsNoMoreWithoutTheLease) {
  leads_ = false;
  const Outcome outcome = Carry({Create(0), reconcile::StopGroup{0}});
  EXPECT_TRUE(absl::IsFailedPrecondition(outcome.status));
  EXPECT_THAT(PodNames(), IsEmpty());
  EXPECT_THAT(groups_.calls, IsEmpty());
}

TEST_F(ExecutorTest, ALeaseThatIsLostBetweenTwoRequestsEndsThePlan) {
  api_.SetAfter([this](const std::string& verb, const kube::ResourceType&) {
    if (verb == "create") leads_ = false;
    return absl::OkStatus();
  });
  std::vector<reconcile::Action> actions;
  for (int slot = 0; slot < 4; ++slot) actions.emplace_back(Create(slot));
  actions.emplace_back(reconcile::StopGroup{0});
  EXPECT_TRUE(absl::IsFailedPrecondition(Carry(std::move(actions)).status));
  EXPECT_THAT(groups_.calls, IsEmpty());
}

TEST_F(ExecutorTest, TellsTheCoordinatorAndPeople) {
  observed_.deployment.spec.worker.pod_template = Json::parse(
      R"({"spec": {"containers": [{"name": "worker", "resources": {"requests": {"cpu": "3"}}}]}})");
  const Outcome outcome = Carry({MakeEvent("Started"), MakeStart(1), reconcile::StopGroup{0}});
  EXPECT_EQ(outcome.status, absl::OkStatus());
  EXPECT_THAT(events_, ElementsAre("Started"));
  EXPECT_THAT(groups_.calls, ElementsAre("start 1 term 3 threads 3", "stop 0"));
  EXPECT_FALSE(Carry({MakeEvent("Again")}).acted);
}

TEST_F(ExecutorTest, AGroupIsStartedWithTheThreadsOfItsOwnPods) {
  const auto template_with = [](const char* cpu) {
    return Json{
        {"spec",
         {{"containers", Json::array({Json{{"name", "worker"},
                                           {"resources", {{"requests", {{"cpu", cpu}}}}}}})}}}};
  };
  observed_.deployment.spec.worker.pod_template = template_with("3");
  ASSERT_TRUE(Carry({Create(0)}).status.ok());
  reconcile::ObservedPod pod;
  pod.name = "olmoe-g0-s0-0";
  pod.uid = UidOf(pod.name);
  pod.revision = "r";
  observed_.pods.push_back(pod);
  reconcile::StartGroup start = MakeStart(0);
  start.slot_of_rank = {0};
  start.revision = "r";
  // A rollout is under way, and another controller takes over.
  observed_.deployment.spec.worker.pod_template = template_with("8");
  EXPECT_EQ(Carry({start}).status, absl::OkStatus());
  EXPECT_THAT(groups_.calls, ElementsAre("start 0 term 3 threads 3"));
}

}  // namespace
}  // namespace moe::controller
