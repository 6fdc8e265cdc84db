// The CRD and the controller understand each other: what the API server takes the controller
// understands, what the API server refuses by a rule the controller refuses too (the objects are
// those of the cluster test), and of a status the API server drops nothing.
#include <algorithm>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "controller/api/parse.h"
#include "controller/api/status_json.h"
#include "gtest/gtest.h"
#include "tests/controller/api/full_status.h"
#include "yaml-cpp/yaml.h"

namespace moe::api {
namespace {

using Json = nlohmann::json;

Json ToJson(const YAML::Node& node) {
  if (node.IsMap()) {
    Json object = Json::object();
    for (const auto& entry : node) {
      object[entry.first.as<std::string>()] = ToJson(entry.second);
    }
    return object;
  }
  if (node.IsSequence()) {
    Json list = Json::array();
    for (const YAML::Node& entry : node) {
      list.push_back(ToJson(entry));
    }
    return list;
  }
  if (!node.IsDefined() || node.IsNull()) {
    return nullptr;
  }
  // "!" is the tag of quoted text.
  int number = 0;
  bool truth = false;
  if (node.Tag() != "!" && YAML::convert<int>::decode(node, number)) {
    return number;
  }
  if (node.Tag() != "!" && YAML::convert<bool>::decode(node, truth)) {
    return truth;
  }
  return node.as<std::string>();
}

std::vector<std::filesystem::path> Files(const std::string& folder) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() == ".yaml") {
      files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  EXPECT_FALSE(files.empty()) << folder;
  return files;
}

absl::StatusOr<ParsedDeployment> Parse(const YAML::Node& document) {
  Json object = ToJson(document);
  object["metadata"]["namespace"] = "default";
  return ParseMoEDeployment(object);
}

TEST(CrdSamples, WhatTheSchemaTakesIsUnderstood) {
  std::vector<std::filesystem::path> files = Files("tests/cluster/data/crd/accepted");
  const std::vector<std::filesystem::path> samples = Files("deploy/samples");
  files.insert(files.end(), samples.begin(), samples.end());
  for (const std::filesystem::path& path : files) {
    SCOPED_TRACE(path.string());
    for (const YAML::Node& document : YAML::LoadAllFromFile(path.string())) {
      if (document["kind"].as<std::string>() == "MoEDeployment") {
        const auto parsed = Parse(document);
        ASSERT_TRUE(parsed.ok()) << parsed.status();
        EXPECT_TRUE(parsed->spec_status.ok()) << parsed->spec_status;
      }
    }
  }
}

TEST(CrdSamples, WhatTheSchemaRefusesIsRefused) {
  // Pod templates are checked by the API server alone, and fields that nobody knows are dropped by
  // it.
  const std::set<std::string> only_the_server = {"container_twice", "container_without_name",
                                                 "field_of_the_operator", "unknown_field"};
  for (const std::filesystem::path& path : Files("tests/cluster/data/crd/rejected")) {
    SCOPED_TRACE(path.string());
    const auto parsed = Parse(YAML::LoadFile(path.string()));
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(parsed->spec_status.ok(), only_the_server.count(path.stem().string()) > 0)
        << parsed->spec_status;
  }
}

// Every field of `value` is one of the schema, of its type: the API server drops the others.
void ExpectFits(const Json& value, const Json& schema, const std::string& path) {
  const std::string type = schema.value("type", "");
  if (value.is_object()) {
    ASSERT_EQ(type, "object") << path;
    for (const auto& [name, child] : value.items()) {
      ASSERT_TRUE(schema["properties"].contains(name)) << path << "." << name;
      ExpectFits(child, schema["properties"][name], absl::StrCat(path, ".", name));
    }
  } else if (value.is_array()) {
    ASSERT_EQ(type, "array") << path;
    EXPECT_LE(value.size(), schema["maxItems"].get<size_t>()) << path;
    for (const Json& child : value) {
      ExpectFits(child, schema["items"], absl::StrCat(path, "[]"));
    }
  } else if (value.is_string()) {
    ASSERT_EQ(type, "string") << path;
    if (schema.contains("maxLength")) {
      EXPECT_LE(value.get<std::string>().size(), schema["maxLength"].get<size_t>()) << path;
    }
  } else if (value.is_number_integer()) {
    ASSERT_TRUE(type == "integer" || type == "number") << path;
  } else {
    ASSERT_EQ(type, value.is_boolean() ? "boolean" : "number") << path;
  }
}

TEST(CrdSamples, OfAStatusTheServerKeepsEverything) {
  const Json crd = ToJson(YAML::LoadFile("deploy/crds/moedeployments.yaml"));
  const Json& schema =
      crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"];
  MoEDeploymentStatus status = FullStatus();
  ExpectFits(StatusToJson(status), schema, "status");
  status.last_failure->last_log = std::string(9999, 'x');
  status.conditions[0].message = std::string(9999, 'x');
  status.groups[0].reason = std::string(9999, 'x');
  status.worker_image = std::string(9999, 'x');
  ExpectFits(StatusToJson(status), schema, "status");
}

}  // namespace
}  // namespace moe::api
