#include "controller/operator/observe.h"

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace moe::controller {
namespace {

using coordinator::v1::GroupState;
using kube::Json;
using reconcile::ObservedGateway;
using reconcile::ObservedGroup;
using reconcile::ObservedInspection;
using reconcile::ObservedPod;

Json Pod(const char* spec, const char* status) {
  Json pod = Json::parse(R"({
    "metadata": {"name": "olmoe-g1-s3-2", "uid": "u1", "creationTimestamp": "2026-11-28T10:00:00Z",
      "labels": {"app.kubernetes.io/component": "worker", "moe-operator.dev/group": "1",
                 "moe-operator.dev/slot": "3", "moe-operator.dev/revision": "r1"},
      "annotations": {"moe-operator.dev/incarnation": "2"},
      "ownerReferences": [{"uid": "owner", "controller": true}, {"uid": "other"}]}})");
  pod["spec"] = Json::parse(spec);
  pod["status"] = Json::parse(status);
  return pod;
}

TEST(ObservePodTest, ReadsWhoItIs) {
  const std::optional<ObservedPod> pod =
      ObservePod(Pod(R"({"nodeName": "node-1"})", R"({"phase": "Running", "podIP": "10.0.0.1",
           "conditions": [{"type": "Ready", "status": "True"}]})"));
  ASSERT_TRUE(pod.has_value());
  EXPECT_EQ(pod->name, "olmoe-g1-s3-2");
  EXPECT_EQ(pod->uid, "u1");
  EXPECT_EQ(pod->group, 1);
  EXPECT_EQ(pod->slot, 3);
  EXPECT_EQ(pod->incarnation, 2);
  EXPECT_EQ(pod->revision, "r1");
  EXPECT_EQ(pod->node, "node-1");
  EXPECT_EQ(pod->ip, "10.0.0.1");
  EXPECT_EQ(pod->phase, ObservedPod::Phase::kRunning);
  EXPECT_TRUE(pod->ready);
  EXPECT_FALSE(pod->gated);
  EXPECT_FALSE(pod->terminating);
  EXPECT_EQ(absl::FormatTime(pod->created_at, absl::UTCTimeZone()), "2026-11-28T10:00:00+00:00");
}

TEST(ObservePodTest, TellsWhyAPodDoesNotRun) {
  struct Case {
    const char* name;
    const char* spec;
    const char* status;
    std::string waiting;
    std::string unschedulable;
    bool gated = false;
  };
  const Case cases[] = {
      {"gated", R"({"schedulingGates": [{"name": "other"}, {"name": "moe-operator.dev/gang"}]})",
       R"({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
           "reason": "SchedulingGated"}]})",
       "", "", true},
      {"no room", "{}",
       R"({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
           "reason": "Unschedulable", "message": "0/3 nodes are available"}]})",
       "", "0/3 nodes are available"},
      {"image missing", "{}",
       R"({"phase": "Pending", "containerStatuses": [{"name": "worker",
           "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}]})",
       "ErrImagePull", ""},
      {"init container's image missing", "{}",
       R"({"phase": "Pending",
           "containerStatuses": [{"name": "worker",
             "state": {"waiting": {"reason": "PodInitializing"}}}],
           "initContainerStatuses": [{"name": "fetch",
             "state": {"waiting": {"reason": "ImagePullBackOff"}}}]})",
       "ImagePullBackOff", ""},
      {"starting", "{}",
       R"({"phase": "Pending", "containerStatuses": [{"name": "worker",
           "state": {"waiting": {"reason": "ContainerCreating"}}}]})",
       "", ""},
  };
  for (const Case& test : cases) {
    const std::optional<ObservedPod> pod = ObservePod(Pod(test.spec, test.status));
    ASSERT_TRUE(pod.has_value()) << test.name;
    EXPECT_EQ(pod->waiting_reason, test.waiting) << test.name;
    EXPECT_EQ(pod->unschedulable, test.unschedulable) << test.name;
    EXPECT_EQ(pod->gated, test.gated) << test.name;
    EXPECT_FALSE(pod->exit_code.has_value()) << test.name;
  }
}

TEST(ObservePodTest, TellsHowAPodEnded) {
  struct Case {
    const char* name;
    const char* status;
    std::optional<int> exit_code;
    std::string reason;
    std::string message;
  };
  const Case cases[] = {
      {"killed for memory",
       R"({"phase": "Failed", "containerStatuses": [{"name": "worker", "state": {"terminated":
           {"exitCode": 137, "reason": "OOMKilled", "message": "last words"}}}]})",
       137, "OOMKilled", "last words"},
      {"another container ended, not the worker",
       R"({"phase": "Running", "containerStatuses": [{"name": "proxy", "state": {"terminated":
           {"exitCode": 1, "reason": "Error"}}}]})",
       std::nullopt, "", ""},
      {"evicted before it ran",
       R"({"phase": "Failed", "reason": "Evicted", "message": "the node was low on memory"})",
       std::nullopt, "Evicted", "the node was low on memory"},
      {"evicted while it ran",
       R"({"phase": "Failed", "reason": "Evicted", "message": "the node was low on memory",
           "containerStatuses": [{"name": "worker", "state": {"terminated":
           {"exitCode": 137, "reason": "Error", "message": "last words"}}}]})",
       137, "Evicted", "last words"},
      {"the model could not be fetched",
       R"({"phase": "Failed", "initContainerStatuses": [
           {"name": "first", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}},
           {"name": "fetch", "state": {"terminated":
             {"exitCode": 22, "reason": "Error", "message": "404"}}}]})",
       22, "Error", "init container fetch failed: 404"},
  };
  for (const Case& test : cases) {
    const std::optional<ObservedPod> pod = ObservePod(Pod("{}", test.status));
    ASSERT_TRUE(pod.has_value()) << test.name;
    EXPECT_EQ(pod->exit_code, test.exit_code) << test.name;
    EXPECT_EQ(pod->exit_reason, test.reason) << test.name;
    EXPECT_EQ(pod->termination_message, test.message) << test.name;
  }
}

TEST(ObservePodTest, LeavesOutWhatIsNoWorkerOfOurs) {
  Json no_slot = Pod("{}", "{}");
  no_slot["metadata"]["labels"].erase("moe-operator.dev/slot");
  Json bad_slot = Pod("{}", "{}");
  bad_slot["metadata"]["labels"]["moe-operator.dev/slot"] = "-1";
  Json gateway = Pod("{}", "{}");
  gateway["metadata"]["labels"]["app.kubernetes.io/component"] = "gateway";
  for (const Json& object :
       {no_slot, bad_slot, gateway, Json(), Json::array(), Json("pod"), Json{{"metadata", 3}}}) {
    EXPECT_EQ(ObservePod(object), std::nullopt) << object.dump();
  }
}

TEST(ObservePodTest, FieldsOfAnotherTypeAreAbsent) {
  const std::optional<ObservedPod> pod = ObservePod(
      Pod(R"({"nodeName": 3, "schedulingGates": {"name": "moe-operator.dev/gang"}})",
          R"({"phase": 7, "conditions": [null, 3, {"type": 3}], "containerStatuses": "none",
              "podIP": ["10.0.0.1"]})"));
  ASSERT_TRUE(pod.has_value());
  EXPECT_EQ(pod->node, "");
  EXPECT_EQ(pod->ip, "");
  EXPECT_FALSE(pod->gated);
  EXPECT_EQ(pod->phase, ObservedPod::Phase::kPending);
}

TEST(OwnedByTest, OnlyTheControllerOwns) {
  const Json pod = Pod("{}", "{}");
  EXPECT_TRUE(OwnedBy(pod, "owner"));
  EXPECT_FALSE(OwnedBy(pod, "other"));
  EXPECT_FALSE(OwnedBy(Json::object(), "owner"));
}

TEST(ObserveInspectionTest, ReadsTheReportOrTheProblem) {
  struct Case {
    const char* name;
    const char* status;
    bool done;
    bool result;
    std::string problem;
  };
  const Case cases[] = {
      {"a report",
       R"({"phase": "Succeeded", "containerStatuses": [{"name": "worker", "state": {"terminated":
           {"exitCode": 0, "message": "{\"num_layers\":16,\"num_experts\":64,\"top_k\":8,\"weight_bytes\":100}\n"}}}]})",
       true, true, ""},
      {"a report that is none",
       R"({"phase": "Succeeded", "containerStatuses": [{"name": "worker", "state": {"terminated":
           {"exitCode": 0, "message": "hello"}}}]})",
       true, false, "the inspect pod ended without a report: hello"},
      {"a report of nonsense",
       R"({"phase": "Succeeded", "containerStatuses": [{"name": "worker", "state": {"terminated":
           {"exitCode": 0, "message": "{\"num_layers\":0,\"num_experts\":64,\"top_k\":8,\"weight_bytes\":1}"}}}]})",
       true, false,
       "the inspect pod ended without a report: "
       "{\"num_layers\":0,\"num_experts\":64,\"top_k\":8,\"weight_bytes\":1}"},
      {"a model that can't be read",
       R"({"phase": "Failed", "containerStatuses": [{"name": "worker", "state": {"terminated":
           {"exitCode": 1, "reason": "Error", "message": "config.json: no such file"}}}]})",
       true, false, "config.json: no such file"},
      {"no words", R"({"phase": "Failed"})", true, false, "the inspect pod failed"},
      {"no claim",
       R"({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
           "reason": "Unschedulable", "message": "claim \"models\" not found"}]})",
       false, false, "not scheduled: claim \"models\" not found"},
      {"running", R"({"phase": "Running"})", false, false, ""},
  };
  for (const Case& test : cases) {
    Json pod = Pod("{}", test.status);
    pod["metadata"]["annotations"]["moe-operator.dev/model-uri"] = "pvc://models/a";
    const ObservedInspection inspection = ObserveInspection(&pod);
    EXPECT_TRUE(inspection.exists) << test.name;
    EXPECT_EQ(inspection.uri, "pvc://models/a") << test.name;
    EXPECT_EQ(inspection.done, test.done) << test.name;
    EXPECT_EQ(inspection.result.has_value(), test.result) << test.name;
    EXPECT_EQ(inspection.problem, test.problem) << test.name;
    if (inspection.result.has_value()) {
      EXPECT_EQ(inspection.result->num_experts, 64);
      EXPECT_EQ(inspection.result->weight_bytes, 100u);
      EXPECT_EQ(inspection.result->uri, "pvc://models/a");
    }
  }
  EXPECT_FALSE(ObserveInspection(nullptr).exists);
}

TEST(ObserveInspectionTest, AReportHasTheShapeOrSaysThatItIsMissing) {
  const Json whole = Json::parse(
      R"({"num_layers":16,"num_experts":64,"top_k":8,"weight_bytes":100,
          "shape":{"hidden":2048,"intermediate":1024,"num_heads":16,"num_kv_heads":4,"head_dim":128,
                   "vocab_size":50304,"max_positions":4096,"tied_embeddings":true}})");
  const auto observe = [](const Json& report) {
    Json pod = Pod("{}", R"({"phase": "Succeeded", "containerStatuses": [
        {"name": "worker", "state": {"terminated": {"exitCode": 0}}}]})");
    pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"] = report.dump();
    const ObservedInspection inspection = ObserveInspection(&pod);
    EXPECT_TRUE(inspection.result.has_value()) << report;
    return inspection.result.value_or(api::ModelStatus());
  };
  const api::ModelStatus model = observe(whole);
  EXPECT_EQ(model.shape, (api::ModelShapeStatus{2048, 1024, 16, 4, 128, 50304, 4096, true}));
  EXPECT_FALSE(model.shape_missing);

  struct Case {
    const char* name;
    const char* pointer;
    Json value;  // null: the field is taken out
  };
  for (const Case& test_case :
       {Case{"an image from before shapes", "/shape", nullptr},
        Case{"a shape that is none", "/shape", "large"},
        Case{"a size is missing", "/shape/num_kv_heads", nullptr},
        Case{"a size is zero", "/shape/hidden", 0},
        Case{"a size is beyond any model", "/shape/vocab_size", int64_t{1} << 40},
        Case{"a size is no number", "/shape/head_dim", "128"},
        Case{"a flag is no flag", "/shape/tied_embeddings", 1}}) {
    Json report = whole;
    const Json::json_pointer pointer(test_case.pointer);
    if (test_case.value.is_null()) {
      report[pointer.parent_pointer()].erase(pointer.back());
    } else {
      report[pointer] = test_case.value;
    }
    const api::ModelStatus without = observe(report);
    EXPECT_EQ(without.num_experts, 64) << test_case.name;
    EXPECT_FALSE(without.shape.has_value()) << test_case.name;
    EXPECT_TRUE(without.shape_missing) << test_case.name;
  }
}

TEST(ObserveGatewayTest, CountsReplicasAndFindsTheProblem) {
  const Json deployment =
      Json::parse(R"({"spec": {"replicas": 2}, "status": {"readyReplicas": 1, "conditions": []}})");
  const auto pod = std::make_shared<const Json>(
      Pod("{}", R"({"phase": "Pending", "containerStatuses": [{"name": "gateway",
                 "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no"}}}]})"));
  const ObservedGateway gateway = ObserveGateway(&deployment, {pod});
  EXPECT_TRUE(gateway.exists);
  EXPECT_EQ(gateway.replicas, 2);
  EXPECT_EQ(gateway.ready_replicas, 1);
  EXPECT_EQ(gateway.problem, "ImagePullBackOff: no");

  const Json quota = Json::parse(R"({"spec": {"replicas": 2}, "status": {"conditions": [
      {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}]}})");
  EXPECT_EQ(ObserveGateway(&quota, {}).problem, "exceeded quota");
  EXPECT_EQ(ObserveGateway(&quota, {}).ready_replicas, 0);
  EXPECT_FALSE(ObserveGateway(nullptr, {}).exists);
}

TEST(ObserveGatewayTest, HasRolledOnceAllAreReadyAndNoEarlierOneIsLeft) {
  const struct {
    const char* sentence;
    int generation, observed, updated, replicas, ready;
    bool rolled;
  } kCases[] = {
      {"all are new and ready", 4, 4, 2, 2, 2, true},
      {"the change was not seen yet", 5, 4, 2, 2, 2, false},
      {"one is still of the earlier template", 4, 4, 1, 2, 2, false},
      {"an earlier one beside the new ones", 4, 4, 2, 3, 3, false},
      {"one is not ready", 4, 4, 2, 2, 1, false},
  };
  for (const auto& c : kCases) {
    SCOPED_TRACE(c.sentence);
    const Json deployment{{"metadata", {{"generation", c.generation}}},
                          {"spec", {{"replicas", 2}}},
                          {"status",
                           {{"observedGeneration", c.observed},
                            {"updatedReplicas", c.updated},
                            {"replicas", c.replicas},
                            {"readyReplicas", c.ready}}}};
    EXPECT_EQ(ObserveGateway(&deployment, {}).rolled, c.rolled);
  }
}

TEST(ObserveGroupTest, SaysWhatTheCoordinatorPublished) {
  GroupState state;
  state.set_phase(GroupState::ACTIVE);
  state.set_epoch(7);
  state.set_draining(true);
  state.set_num_running(3);
  state.set_num_waiting(1);
  state.set_model_digest("abc");
  state.add_workers()->set_loaded_bytes(10);
  state.add_workers();
  state.add_expert_tokens(5);
  const ObservedGroup group = ObserveGroup(2, state);
  EXPECT_EQ(group.index, 2);
  EXPECT_EQ(group.phase, ObservedGroup::Phase::kActive);
  EXPECT_EQ(group.epoch, 7u);
  EXPECT_TRUE(group.draining);
  EXPECT_EQ(group.num_running, 3u);
  EXPECT_EQ(group.num_waiting, 1u);
  EXPECT_EQ(group.model_digest, "abc");
  EXPECT_EQ(group.rank_loaded, (std::vector<bool>{true, false}));
  EXPECT_EQ(group.generated_tokens, 5u);
}

TEST(ExpertLoadTest, NamesTheHottestAndTheColdestOfAllLayersAndGroups) {
  auto first = std::make_shared<GroupState>();
  first->set_num_layers(2);
  first->set_num_experts(3);
  for (const uint64_t tokens : {10, 0, 20, 10, 0, 20}) first->add_expert_tokens(tokens);
  auto second = std::make_shared<GroupState>();
  second->set_num_layers(1);
  second->set_num_experts(3);
  for (const uint64_t tokens : {0, 20, 20}) second->add_expert_tokens(tokens);
  const std::optional<api::ExpertLoadStatus> load =
      SummarizeExpertLoad({first, second}, absl::FromUnixSeconds(9));
  ASSERT_TRUE(load.has_value());
  EXPECT_EQ(load->tokens, 100u);
  EXPECT_DOUBLE_EQ(load->max_over_mean, 1.8);
  EXPECT_EQ(load->hottest, "2 (60.0%), 0 (20.0%), 1 (20.0%)");
  EXPECT_EQ(load->coldest, "1 (20.0%), 0 (20.0%), 2 (60.0%)");
  EXPECT_EQ(load->at, absl::FromUnixSeconds(9));

  EXPECT_EQ(SummarizeExpertLoad({std::make_shared<GroupState>()}, absl::Now()), std::nullopt);
  EXPECT_EQ(SummarizeExpertLoad({}, absl::Now()), std::nullopt);
}

}  // namespace
}  // namespace moe::controller
