#include "controller/manifests/pod_template.h"

#include "gtest/gtest.h"

namespace moe::manifests {
namespace {

using kube::Json;

Json Pod() {
  return Json::parse(R"({
    "metadata": {"labels": {"app": "ours"}, "annotations": {"note": "ours"}},
    "spec": {
      "restartPolicy": "Never",
      "securityContext": {"runAsNonRoot": true},
      "tolerations": [{"key": "ours"}],
      "volumes": [{"name": "tmp", "emptyDir": {}}],
      "containers": [{
        "name": "worker", "image": "ours:1",
        "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
        "resources": {"requests": {"cpu": "10m"}}
      }]
    }})");
}

struct Case {
  const char* name;
  const char* pod_template;
  const char* pointer;
  const char* result;
};

TEST(PodTemplateTest, MergesByTheRules) {
  const Case cases[] = {
      {"labels are added", R"({"metadata": {"labels": {"team": "a"}}})", "/metadata/labels",
       R"({"app": "ours", "team": "a"})"},
      {"our labels win", R"({"metadata": {"labels": {"app": "theirs"}}})", "/metadata/labels",
       R"({"app": "ours"})"},
      {"our annotations win", R"({"metadata": {"annotations": {"note": "x", "n": "y"}}})",
       "/metadata/annotations", R"({"note": "ours", "n": "y"})"},
      {"other metadata is left alone", R"({"metadata": {"name": "x", "finalizers": ["f"]}})",
       "/metadata", R"({"labels": {"app": "ours"}, "annotations": {"note": "ours"}})"},
      {"env is merged by name",
       R"({"spec": {"containers": [{"name": "worker", "env": [{"name": "B", "value": "3"},
           {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}]}})",
       "/spec/containers/0/env",
       R"([{"name": "A", "value": "1"}, {"name": "B", "value": "3"},
           {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}])"},
      {"mounts are merged by path, not by name",
       R"({"spec": {"containers": [{"name": "worker", "volumeMounts": [
           {"name": "tmp", "mountPath": "/scratch"}, {"name": "big", "mountPath": "/tmp"}]}]}})",
       "/spec/containers/0/volumeMounts",
       R"([{"name": "big", "mountPath": "/tmp"}, {"name": "tmp", "mountPath": "/scratch"}])"},
      {"resources are replaced as a whole",
       R"({"spec": {"containers": [{"name": "worker", "resources": {"limits": {"memory": "1Gi"}}}]}})",
       "/spec/containers/0/resources", R"({"limits": {"memory": "1Gi"}})"},
      {"an image is replaced",
       R"({"spec": {"containers": [{"name": "worker", "image": "theirs:2"}]}})",
       "/spec/containers/0/image", R"("theirs:2")"},
      {"another container is added behind ours",
       R"({"spec": {"containers": [{"name": "proxy", "image": "p"}]}})", "/spec/containers/1",
       R"({"name": "proxy", "image": "p"})"},
      {"init containers are added",
       R"({"spec": {"initContainers": [{"name": "fetch", "image": "f"}]}})", "/spec/initContainers",
       R"([{"name": "fetch", "image": "f"}])"},
      {"volumes are merged by name",
       R"({"spec": {"volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}},
           {"name": "big", "emptyDir": {}}]}})",
       "/spec/volumes",
       R"([{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}, {"name": "big", "emptyDir": {}}])"},
      {"tolerations are appended",
       R"({"spec": {"tolerations": [{"key": "ours"}, {"key": "gpu"}]}})", "/spec/tolerations",
       R"([{"key": "ours"}, {"key": "ours"}, {"key": "gpu"}])"},
      {"anything else is replaced",
       R"({"spec": {"securityContext": {"runAsUser": 7}, "nodeSelector": {"gpu": "h100"}}})",
       "/spec/securityContext", R"({"runAsUser": 7})"},
      {"what our bookkeeping depends on stays",
       R"({"spec": {"restartPolicy": "Always", "nodeName": "n", "schedulingGates": [{"name": "g"}]}})",
       "/spec",
       R"({"restartPolicy": "Never", "securityContext": {"runAsNonRoot": true},
           "tolerations": [{"key": "ours"}], "volumes": [{"name": "tmp", "emptyDir": {}}],
           "containers": [{"name": "worker", "image": "ours:1",
             "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
             "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
             "resources": {"requests": {"cpu": "10m"}}}]})"},
  };
  for (const Case& test : cases) {
    Json pod = Pod();
    MergePodTemplate(Json::parse(test.pod_template), &pod);
    const Json::json_pointer pointer(test.pointer);
    ASSERT_TRUE(pod.contains(pointer)) << test.name;
    EXPECT_EQ(pod[pointer], Json::parse(test.result)) << test.name << "\n" << pod.dump(1);
  }
}

TEST(PodTemplateTest, MalformedPartsAreLeftOut) {
  for (const char* text :
       {"null", "3", "[]", "{}", R"({"metadata": 3, "spec": 4})", R"({"spec": {"containers": 3}})",
        R"({"spec": {"containers": [3, null, "worker"], "tolerations": {}, "volumes": "v"}})",
        R"({"metadata": {"labels": []}})"}) {
    Json pod = Pod();
    MergePodTemplate(Json::parse(text), &pod);
    EXPECT_EQ(pod, Pod()) << text;
  }
}

}  // namespace
}  // namespace moe::manifests
