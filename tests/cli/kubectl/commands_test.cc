// Tests cli/kubectl/commands.h.
#include "cli/kubectl/commands.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/cli/kubectl/fake_kubectl.h"

namespace moe::cli {
namespace {

using testing::FakeKubectl;
using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::json;

constexpr char kProxy[] = "/api/v1/namespaces/ns/services/http:demo-gateway:80/proxy";

class CommandsTest : public ::testing::Test {
 protected:
  CommandsTest() {
    options_.kubectl.program = fake_.program();
    options_.name = "demo";
    object_ = {{"apiVersion", "moe-operator.dev/v1alpha1"},
               {"kind", "MoEDeployment"},
               {"metadata",
                {{"namespace", "ns"},
                 {"name", "demo"},
                 {"uid", "u"},
                 {"resourceVersion", "1"},
                 {"generation", 1},
                 {"creationTimestamp", "2026-01-01T00:00:00Z"}}},
               {"spec",
                {{"model", {{"name", "olmoe"}, {"uri", "pvc://models/olmoe"}}},
                 {"parallelism", {{"expert", 4}}},
                 {"backend", "CPU"}}}};
    // Raw paths answer from the file `raw`, pods exist while `pod` does.
    fake_.Script(
        "case \"$*\" in\n"
        "  *--raw*) cat > input; [ -e error ] && { cat error >&2; exit 1; }; cat raw;;\n"
        "  *'get pod '*) [ -e pod ] || exit 1;;\n"
        "  *logs*) exit 0;;\n"
        "  *) cat object;;\n"
        "esac");
    Publish();
  }

  void Publish() { fake_.Write("object", object_.dump()); }

  FakeKubectl fake_;
  KubectlMoeOptions options_;
  Json object_;
};

TEST_F(CommandsTest, StatusShowsOneOrAll) {
  EXPECT_THAT(StatusText(options_).value_or("?"), HasSubstr("ns/demo"));
  EXPECT_EQ(fake_.calls(), "get\nmoedeployments.moe-operator.dev\ndemo\n-o\njson\n--\n");

  Json other = object_;
  other["metadata"]["name"] = "second";
  Json broken = object_;
  broken["metadata"].erase("name");
  fake_.Write("object", Json({{"items", {object_, other, broken}}}).dump());
  options_.name = "";
  options_.all_namespaces = true;
  const std::string text = StatusText(options_).value_or("?");
  EXPECT_THAT(text, HasSubstr("ns/demo"));
  EXPECT_THAT(text, HasSubstr("ns/second"));
  EXPECT_THAT(text, HasSubstr("can't be understood: "));
  EXPECT_THAT(fake_.calls(), HasSubstr("json\n--all-namespaces\n--\n"));

  options_.json = true;
  EXPECT_EQ(Json::parse(StatusText(options_).value_or(""))["items"].size(), 3U);

  fake_.Write("object", R"({"items": []})");
  options_.json = false;
  EXPECT_THAT(StatusText(options_).value_or("?"), HasSubstr("no MoEDeployment"));
  fake_.Write("object", "not JSON");
  EXPECT_FALSE(StatusText(options_).ok());
}

TEST_F(CommandsTest, ExpertsAreThoseOfAllGroupsOrOfOne) {
  fake_.Write("raw", R"({"num_layers": 1, "num_experts": 2, "expert_tokens": [[30, 10]], "groups": [
      {"index": 0, "num_layers": 1, "num_experts": 2, "expert_tokens": [[29, 1]]},
      {"index": 1, "num_layers": 1, "num_experts": 2, "expert_tokens": [[1, 9]]}]})");
  EXPECT_THAT(ExpertsText(options_).value_or("?"), HasSubstr("ran 40 tokens"));
  EXPECT_THAT(fake_.calls(), HasSubstr(std::string("get\n--raw\n") + kProxy + "/moe/status\n--\n"));
  options_.group = 1;
  const std::string text = ExpertsText(options_).value_or("?");
  EXPECT_THAT(text, HasSubstr("ran 10 tokens"));
  EXPECT_THAT(text, HasSubstr("hottest: 1 (90.0%)"));
  options_.json = true;
  EXPECT_EQ(Json::parse(ExpertsText(options_).value_or(""))["expert_tokens"], Json({{1, 9}}));
  options_.group = 7;
  EXPECT_TRUE(absl::IsNotFound(ExpertsText(options_).status()));
}

TEST_F(CommandsTest, AnswersOfAnotherShapeAreErrors) {
  for (const char* raw :
       {"{}", "[]", "x", R"({"num_layers": "one"})",
        R"({"num_layers": 1, "num_experts": 2, "expert_tokens": [["a", "b"]]})",
        R"({"num_layers": 1000000, "num_experts": 1000000, "expert_tokens": [[1]]})"}) {
    fake_.Write("raw", raw);
    EXPECT_FALSE(ExpertsText(options_).ok()) << raw;
    EXPECT_FALSE(GenerateText(options_).ok()) << raw;
  }
}

TEST_F(CommandsTest, GenerateAsksForTheServedModel) {
  fake_.Write("raw", R"({"choices": [{"message": {"content": "An answer."}}]})");
  options_.question = "What is \"it\"?";
  EXPECT_EQ(GenerateText(options_).value_or("?"), "An answer.\n");
  EXPECT_THAT(fake_.calls(), HasSubstr(std::string("create\n--raw\n") + kProxy +
                                       "/v1/chat/completions\n-f\n-\n--\n"));
  const Json sent = Json::parse(fake_.Read("input"));
  EXPECT_EQ(sent["model"], "olmoe");
  EXPECT_EQ(sent["messages"][0]["content"], "What is \"it\"?");
  EXPECT_EQ(sent["max_tokens"], 256);
}

TEST_F(CommandsTest, ADeploymentWithAKeySaysHowToAskIt) {
  fake_.Write("error", "error: You must be logged in to the server (Unauthorized)\n");
  EXPECT_THAT(std::string(ExpertsText(options_).status().message()), HasSubstr("Unauthorized"));
  object_["spec"]["gateway"]["apiKeySecretRef"] = {{"name", "key"}};
  Publish();
  EXPECT_THAT(std::string(ExpertsText(options_).status().message()),
              HasSubstr("kubectl -n ns port-forward service/demo-gateway 8000:80"));
}

TEST_F(CommandsTest, LogsAreThoseOfTheFailedRankOrOfAnyOther) {
  EXPECT_TRUE(absl::IsNotFound(ShowLogs(options_).status())) << "nothing has failed";
  object_["status"] = {
      {"lastFailure",
       {{"pod", "demo-g0-s3-1"}, {"group", 0}, {"slot", 3}, {"rank", 3}, {"lastLog", "boom"}}},
      {"groups",
       {{{"index", 0},
         {"phase", "Active"},
         {"revision", "r"},
         {"ranks", {{{"rank", 2}, {"pod", "demo-g0-s2-0"}, {"phase", "Active"}}}}}}}};
  Publish();
  EXPECT_EQ(ShowLogs(options_).value_or(-1), 0) << "the pod is gone, its last lines are kept";
  EXPECT_THAT(fake_.calls(), Not(HasSubstr("logs")));
  fake_.Write("pod", "");
  EXPECT_EQ(ShowLogs(options_).value_or(-1), 0);
  EXPECT_THAT(fake_.calls(),
              HasSubstr("--namespace=ns\nlogs\ndemo-g0-s3-1\n--container\nworker\n--\n"));
  options_.rank = 2;
  options_.follow = true;
  EXPECT_EQ(ShowLogs(options_).value_or(-1), 0);
  EXPECT_THAT(fake_.calls(), HasSubstr("logs\ndemo-g0-s2-0\n--container\nworker\n--follow\n"));
  options_.rank = 9;
  EXPECT_TRUE(absl::IsNotFound(ShowLogs(options_).status()));
}

}  // namespace
}  // namespace moe::cli
