#include "controller/api/parse.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::api {
namespace {

using Json = nlohmann::json;
using testing::HasSubstr;

Json SmallSpec() {
  return Json::parse(R"({
    "model": {"name": "demo", "uri": "file:///models/demo"},
    "parallelism": {"expert": 64}})");
}

Json FullSpec() {
  return Json::parse(R"({
    "model": {"name": "olmoe-1b-7b", "uri": "pvc://models/olmoe-1b-7b"},
    "replicas": 2,
    "parallelism": {"mode": "Fixed", "expert": 64, "tensor": 1, "pipeline": 1, "attention": "Sharded",
                    "attentionRanks": 8, "exchange": "Nccl"},
    "backend": "CUDA",
    "engine": {"maxSequences": 1024, "maxStepTokens": 4096, "maxQueue": 512, "maxContext": 4096,
               "kvCacheMemory": "40Gi", "stepDeadline": "2500ms"},
    "worker": {"gpusPerPod": 1, "spares": 0, "expertCopies": 1, "gangTimeout": "20m",
               "podTemplate": {"spec": {"containers": [{"name": "worker"}]}}},
    "gateway": {"replicas": 3, "maxHold": "90s", "apiKeySecretRef": {"name": "keys", "key": "k"},
                "podTemplate": {"metadata": {"labels": {"a": "b"}}}},
    "ingress": {"host": "moe.example.com", "className": "traefik", "tlsSecretName": "moe-tls",
                "annotations": {"a/b": "c"}},
    "updateStrategy": {"maxUnavailable": "25%", "maxSurge": 2},
    "progressDeadlineSeconds": 600})");
}

Json Object(const Json& spec) {
  return {{"metadata", {{"namespace", "team"}, {"name", "olmoe"}}}, {"spec", spec}};
}

TEST(ParseSpec, SeveralGpusOfAPodOrMemoryAcrossPods) {
  Json json = FullSpec();
  json["worker"]["gpusPerPod"] = 16;
  auto spec = ParseSpec(json);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->worker.gpus_per_pod, 16);
  EXPECT_FALSE(spec->worker.nvlink_across_pods);
  json["worker"] = {{"nvlinkAcrossPods", true}};
  spec = ParseSpec(json);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_TRUE(spec->worker.nvlink_across_pods);
  json["backend"] = "CPU";
  json["parallelism"]["exchange"] = "Tcp";
  EXPECT_EQ(ParseSpec(json).status().message(),
            "spec.worker.nvlinkAcrossPods: needs GPUs: write backend: CUDA, or leave "
            "nvlinkAcrossPods out");
  // How wide the group is shows later, from the model.
  Json automatic = SmallSpec();
  automatic["parallelism"] = {{"mode", "Auto"}};
  automatic["worker"] = {{"gpusPerPod", 3}};
  EXPECT_TRUE(ParseSpec(automatic).ok());
}

TEST(ParseSpec, EveryFieldArrives) {
  const auto spec = ParseSpec(FullSpec());
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->model.name, "olmoe-1b-7b");
  EXPECT_EQ(spec->model.uri, "pvc://models/olmoe-1b-7b");
  EXPECT_EQ(spec->replicas, 2);
  EXPECT_FALSE(spec->parallelism.automatic);
  EXPECT_EQ(spec->parallelism.expert, 64);
  EXPECT_EQ(spec->parallelism.attention, Attention::kSharded);
  EXPECT_EQ(spec->parallelism.attention_ranks, 8);
  EXPECT_EQ(spec->parallelism.exchange, Exchange::kNccl);
  EXPECT_EQ(spec->backend, Backend::kCuda);
  EXPECT_EQ(spec->engine.max_sequences, 1024);
  EXPECT_EQ(spec->engine.max_step_tokens, 4096);
  EXPECT_EQ(spec->engine.max_queue, 512);
  EXPECT_EQ(spec->engine.max_context, 4096);
  EXPECT_EQ(spec->engine.kv_cache_bytes, uint64_t{40} << 30);
  EXPECT_EQ(spec->engine.step_deadline_seconds, 2.5);
  EXPECT_EQ(spec->worker.gang_timeout, absl::Minutes(20));
  EXPECT_EQ(spec->worker.pod_template["spec"]["containers"][0]["name"], "worker");
  EXPECT_EQ(spec->gateway.replicas, 3);
  EXPECT_EQ(spec->gateway.max_hold, absl::Seconds(90));
  EXPECT_EQ(spec->gateway.api_key_secret_name, "keys");
  EXPECT_EQ(spec->gateway.api_key_secret_key, "k");
  EXPECT_EQ(spec->gateway.pod_template["metadata"]["labels"]["a"], "b");
  ASSERT_TRUE(spec->ingress.has_value());
  EXPECT_EQ(spec->ingress->host, "moe.example.com");
  EXPECT_EQ(spec->ingress->class_name, "traefik");
  EXPECT_EQ(spec->ingress->tls_secret_name, "moe-tls");
  EXPECT_EQ(spec->ingress->annotations.at("a/b"), "c");
  EXPECT_EQ(spec->update_strategy.max_unavailable, (IntOrPercent{25, true}));
  EXPECT_EQ(spec->update_strategy.max_surge, (IntOrPercent{2, false}));
  EXPECT_EQ(spec->progress_deadline, absl::Minutes(10));
}

TEST(ParseSpec, WhatIsLeftOutGetsItsDefault) {
  const auto spec = ParseSpec(SmallSpec());
  ASSERT_TRUE(spec.ok()) << spec.status();
  MoEDeploymentSpec expected;
  expected.model = {"demo", "file:///models/demo"};
  expected.parallelism.expert = 64;
  EXPECT_EQ(*spec, expected);
}

TEST(ParseSpec, NullReadsAsLeftOut) {
  Json json = SmallSpec();
  json.update({{"replicas", nullptr},
               {"engine", nullptr},
               {"worker", {{"spares", nullptr}}},
               {"ingress", nullptr},
               {"updateStrategy", {{"maxSurge", nullptr}}}});
  const auto spec = ParseSpec(json);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(*spec, *ParseSpec(SmallSpec()));
}

TEST(ParseSpec, AutoNeedsNoWidth) {
  Json json = SmallSpec();
  json["parallelism"] = {{"mode", "Auto"}};
  const auto spec = ParseSpec(json);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_TRUE(spec->parallelism.automatic);
}

TEST(ParseSpec, ErrorsNameTheFieldAndWhatToWrite) {
  const struct {
    const char* pointer;
    const char* value;
    const char* message;
  } cases[] = {
      {"/model", "null", "spec.model: is missing"},
      {"/model", "3", "spec.model: must be an object"},
      {"/model/name", "\"\"", "spec.model.name: write what clients call the model"},
      {"/model/name", "\"a b\"", "spec.model.name: must be letters"},
      {"/model/name", "7", "spec.model.name: must be a string"},
      {"/model/uri", "\"hf://allenai/OLMoE\"", "spec.model.uri: a model comes from"},
      {"/model/uri", "\"/models/demo\"", "write pvc://CLAIM/PATH or file:///PATH"},
      {"/replicas", "-1", "spec.replicas: must be a whole number from 0 to 64"},
      {"/replicas", "\"2\"", "spec.replicas: must be a whole number"},
      {"/replicas", "1.5", "spec.replicas: must be a whole number"},
      {"/parallelism", "null", "spec.parallelism: is missing"},
      {"/parallelism/mode", "\"Manual\"", "spec.parallelism.mode: write Fixed or Auto"},
      {"/parallelism/mode", "\"Auto\"", "spec.parallelism.expert: leave it out with mode: Auto"},
      {"/parallelism/expert", "null", "spec.parallelism.expert: write the number of workers"},
      {"/parallelism/expert", "0", "spec.parallelism.expert: must be a whole number from 1"},
      {"/parallelism/tensor", "2",
       "spec.parallelism.tensor: EP64 x TP2 x PP1 x DP2 needs 256 workers"},
      {"/parallelism/pipeline", "4", "spec.parallelism.pipeline: EP64 x TP1 x PP4 x DP2 needs 512"},
      {"/parallelism/attention", "\"Full\"", "write Auto or Sharded or Replicated"},
      {"/parallelism/attention", "\"Replicated\"", "spec.parallelism.attentionRanks: leave it out"},
      {"/parallelism/attentionRanks", "65", "attentionRanks: must be at most expert, which is 64"},
      {"/parallelism/exchange", "\"SharedMemory\"", "exchange: write Auto or Tcp or Nccl"},
      {"/backend", "\"CPU\"", "spec.parallelism.exchange: Nccl needs backend: CUDA"},
      {"/parallelism/exchange", "\"Tcp\"", "spec.parallelism.exchange: Tcp needs backend: CPU"},
      {"/backend", "\"ROCM\"", "spec.backend: write CPU or CUDA"},
      {"/engine/maxSequences", "0", "spec.engine.maxSequences: must be a whole number from 1"},
      {"/engine/kvCacheMemory", "\"40GB\"", "spec.engine.kvCacheMemory: '40GB' is no quantity"},
      {"/engine/kvCacheMemory", "\"0\"", "spec.engine.kvCacheMemory: must be above 0"},
      {"/engine/kvCacheMemory", "true", "spec.engine.kvCacheMemory: must be a quantity"},
      {"/engine/stepDeadline", "\"10\"", "spec.engine.stepDeadline: '10' is no duration"},
      {"/engine/stepDeadline", "\"2h\"", "spec.engine.stepDeadline: must be from 1s to 1h"},
      {"/worker/gpusPerPod", "3",
       "spec.worker.gpusPerPod: 64 workers can't be put into pods of 3: write a gpusPerPod that "
       "divides parallelism.expert, or 1"},
      {"/worker/gpusPerPod", "0", "spec.worker.gpusPerPod: must be a whole number from 1 to 16"},
      {"/worker/gpusPerPod", "32", "spec.worker.gpusPerPod: must be a whole number from 1 to 16"},
      {"/worker", R"({"gpusPerPod": 8, "nvlinkAcrossPods": true})",
       "spec.worker.nvlinkAcrossPods: is for pods with one GPU"},
      {"/worker/spares", "17", "spec.worker.spares: must be a whole number from 0 to 16"},
      {"/worker/expertCopies", "2",
       "spec.worker.expertCopies: spare copies of experts are not built"},
      {"/worker/gangTimeout", "600", "spec.worker.gangTimeout: must be a string"},
      {"/worker/podTemplate", "[]", "spec.worker.podTemplate: must be an object"},
      {"/gateway/replicas", "0", "spec.gateway.replicas: must be a whole number from 1 to 100"},
      {"/gateway/apiKeySecretRef", "{}", "spec.gateway.apiKeySecretRef.name: write the name"},
      {"/gateway/apiKeySecretRef/key", "\"\"", "spec.gateway.apiKeySecretRef.key: write a key"},
      {"/ingress/host", "null", "spec.ingress.host: write a host name"},
      {"/ingress/host", "\"moe.example.com/x\"", "spec.ingress.host: write a host name"},
      {"/ingress/tlsSecretName", "\"Moe_TLS\"", "spec.ingress.tlsSecretName: must be a name"},
      {"/ingress/annotations/a", "1", "spec.ingress.annotations[a]: must be a string"},
      {"/updateStrategy/maxSurge", "\"150%\"", "spec.updateStrategy.maxSurge: must be a number"},
      {"/updateStrategy/maxSurge", "\"% 5\"", "spec.updateStrategy.maxSurge: must be a number"},
      {"/progressDeadlineSeconds", "0", "spec.progressDeadlineSeconds: must be a whole number"},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(std::string(c.pointer) + " = " + c.value);
    Json spec = FullSpec();
    spec[Json::json_pointer(c.pointer)] = Json::parse(c.value);
    const auto result = ParseSpec(spec);
    ASSERT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(result.status().message()), HasSubstr(c.message));
  }
}

TEST(ParseSpec, AnUpdateMustBePossible) {
  Json json = SmallSpec();
  json["updateStrategy"] = {{"maxUnavailable", 0}, {"maxSurge", "0%"}};
  EXPECT_THAT(std::string(ParseSpec(json).status().message()), HasSubstr("both 0: write 1"));
}

TEST(ParseSpec, TheFoundingArithmeticIsShown) {
  Json json = SmallSpec();
  json["replicas"] = 4;
  json["parallelism"] = {{"expert", 64}, {"tensor", 16}, {"pipeline", 4}};
  EXPECT_THAT(std::string(ParseSpec(json).status().message()),
              HasSubstr("EP64 x TP16 x PP4 x DP4 needs 16,384 workers"));
}

TEST(ParseSpec, OneDeploymentHasABoundedNumberOfWorkers) {
  Json json = SmallSpec();
  json["replicas"] = 32;
  EXPECT_TRUE(ParseSpec(json).ok());
  json["replicas"] = 33;
  EXPECT_THAT(std::string(ParseSpec(json).status().message()), HasSubstr("more than the 2,048"));
}

TEST(ParseModelUri, FindsClaimAndPath) {
  EXPECT_EQ(ParseModelUri("pvc://models/olmoe").value(), (ModelLocation{"models", "olmoe"}));
  EXPECT_EQ(ParseModelUri("pvc://models.v2/a//b/./c/").value(),
            (ModelLocation{"models.v2", "a/b/c"}));
  EXPECT_EQ(ParseModelUri("pvc://models/").value(), (ModelLocation{"models", ""}));
  EXPECT_EQ(ParseModelUri("file:///models/demo").value(), (ModelLocation{"", "/models/demo"}));
}

TEST(ParseModelUri, RefusesOtherPlacesAndWaysOut) {
  for (const char* uri :
       {"", "models", "pvc://", "pvc://models", "pvc:///x", "pvc://Models/x", "pvc://a/../b",
        "pvc://a/..", "file:///", "file:///..", "file:///a/../b", "file://host/a", "file:/a",
        "https://a/b", "hostPath:///a", "PVC://a/b", "pvc://a/b\nc", "pvc://-a/b"}) {
    const auto result = ParseModelUri(uri);
    ASSERT_FALSE(result.ok()) << uri;
    EXPECT_THAT(std::string(result.status().message()),
                HasSubstr("write pvc://CLAIM/PATH or file:///PATH"));
  }
}

TEST(ParseMoEDeployment, MetadataArrives) {
  Json object = Object(SmallSpec());
  object["metadata"].update(Json::parse(R"({"uid": "u", "resourceVersion": "17", "generation": 3,
      "creationTimestamp": "2026-11-28T16:05:00Z", "deletionTimestamp": "2026-11-28T17:05:00Z",
      "annotations": {"moe-operator.dev/paused": "true"}})"));
  const auto parsed = ParseMoEDeployment(object);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_TRUE(parsed->spec_status.ok()) << parsed->spec_status;
  const MoEDeployment& deployment = parsed->deployment;
  EXPECT_EQ(deployment.ns, "team");
  EXPECT_EQ(deployment.name, "olmoe");
  EXPECT_EQ(deployment.uid, "u");
  EXPECT_EQ(deployment.resource_version, "17");
  EXPECT_EQ(deployment.generation, 3);
  EXPECT_EQ(absl::FormatTime(deployment.created_at, absl::UTCTimeZone()),
            "2026-11-28T16:05:00+00:00");
  EXPECT_TRUE(deployment.deleting);
  EXPECT_TRUE(deployment.paused);
}

TEST(ParseMoEDeployment, OnlyTheTextTruePauses) {
  for (const Json& value : {Json("false"), Json("True"), Json(true), Json(nullptr)}) {
    Json object = Object(SmallSpec());
    object["metadata"]["annotations"]["moe-operator.dev/paused"] = value;
    EXPECT_FALSE(ParseMoEDeployment(object)->deployment.paused) << value;
  }
}

TEST(ParseMoEDeployment, TheLayoutToAdoptIsATextOfABoundedSize) {
  Json object = Object(SmallSpec());
  Json& annotations = object["metadata"]["annotations"];
  EXPECT_EQ(ParseMoEDeployment(object)->deployment.adopt_layout, "");
  annotations["moe-operator.dev/adopt-layout"] = "EP8_TP1_PP1_DP1+A4";
  EXPECT_EQ(ParseMoEDeployment(object)->deployment.adopt_layout, "EP8_TP1_PP1_DP1+A4");
  annotations["moe-operator.dev/adopt-layout"] = std::string(100000, 'x');
  EXPECT_EQ(ParseMoEDeployment(object)->deployment.adopt_layout.size(), 512);
  annotations["moe-operator.dev/adopt-layout"] = 8;
  EXPECT_EQ(ParseMoEDeployment(object)->deployment.adopt_layout, "");
}

TEST(ParseMoEDeployment, AWrongSpecLeavesMetadataAndStatus) {
  Json object = Object({{"replicas", 3}});
  object["status"] = {{"term", 7}};
  const auto parsed = ParseMoEDeployment(object);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->spec_status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(parsed->deployment.name, "olmoe");
  EXPECT_EQ(parsed->deployment.status.term, 7);
  EXPECT_EQ(parsed->deployment.spec, MoEDeploymentSpec());
}

TEST(ParseMoEDeployment, ANameMustLeaveRoomForPods) {
  Json object = Object(SmallSpec());
  for (const std::string& name : {std::string("a"), std::string("a-1"), std::string(40, 'a')}) {
    object["metadata"]["name"] = name;
    EXPECT_TRUE(ParseMoEDeployment(object)->spec_status.ok()) << name;
  }
  for (const std::string& name : {std::string("1a"), std::string("a.b"), std::string(41, 'a')}) {
    object["metadata"]["name"] = name;
    EXPECT_THAT(std::string(ParseMoEDeployment(object)->spec_status.message()),
                HasSubstr("metadata.name: must be a label of at most 40 bytes"))
        << name;
  }
}

TEST(ParseMoEDeployment, WithoutMetadataOrStatusNothingMayBeDone) {
  const struct {
    const char* pointer;
    const char* value;
    const char* message;
  } cases[] = {
      {"/metadata", "null", "metadata.namespace: is missing"},
      {"/metadata/name", "null", "metadata.name: is missing"},
      {"/metadata", "\"x\"", "metadata: must be an object"},
      {"/metadata/generation", "\"3\"", "metadata.generation: must be a whole number"},
      {"/metadata/creationTimestamp", "\"yesterday\"", "metadata.creationTimestamp: 'yesterday'"},
      {"/status", "[]", "status: must be an object"},
      {"/status", "{\"term\": -1}", "status.term: must be a whole number"},
      {"/status", "{\"groups\": [{\"index\": 0}, {\"epoch\": \"x\"}]}",
       "status.groups[1].epoch: must"},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(std::string(c.pointer) + " = " + c.value);
    Json object = Object(SmallSpec());
    object[Json::json_pointer(c.pointer)] = Json::parse(c.value);
    const auto parsed = ParseMoEDeployment(object);
    ASSERT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(c.message));
  }
  EXPECT_FALSE(ParseMoEDeployment(Json::array()).ok());
  EXPECT_FALSE(ParseMoEDeployment(Json()).ok());
}

}  // namespace
}  // namespace moe::api
