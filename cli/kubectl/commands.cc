#include "cli/kubectl/commands.h"

#include <cstdio>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "cli/expert_table.h"
#include "cli/kubectl/status_tree.h"
#include "controller/api/parse.h"

namespace moe::cli {
namespace {

using Json = nlohmann::json;

constexpr char kResource[] = "moedeployments.moe-operator.dev";

absl::StatusOr<Json> RunForJson(const Kubectl& kubectl, const std::vector<std::string>& args,
                                const std::string& input = "") {
  const auto output = kubectl.Run(args, input);
  if (!output.ok()) return output.status();
  Json json = Json::parse(*output, nullptr, false);
  if (!json.is_object()) return absl::UnknownError("kubectl's answer is not a JSON object");
  return json;
}

absl::StatusOr<api::ParsedDeployment> GetDeployment(const KubectlMoeOptions& options) {
  const auto object =
      RunForJson(Kubectl(options.kubectl), {"get", kResource, options.name, "-o", "json"});
  if (!object.ok()) return object.status();
  return api::ParseMoEDeployment(*object);
}

// The gateway's path through the API server.
std::string ProxyPath(const api::MoEDeployment& deployment, const std::string& path) {
  return absl::StrCat("/api/v1/namespaces/", deployment.ns, "/services/http:", deployment.name,
                      "-gateway:80/proxy", path);
}

absl::Status ExplainKey(const absl::Status& status, const api::ParsedDeployment& parsed) {
  const api::MoEDeployment& deployment = parsed.deployment;
  if (!parsed.spec_status.ok() || deployment.spec.gateway.api_key_secret_name.empty() ||
      !absl::StrContainsIgnoreCase(status.message(), "unauthorized")) {
    return status;
  }
  return absl::PermissionDeniedError(absl::StrCat(
      "this deployment wants an API key, which can't pass the API server. Instead: kubectl -n ",
      deployment.ns, " port-forward service/", deployment.name,
      "-gateway 8000:80, then MOE_API_KEY=... moe status, moe experts or moe generate"));
}

absl::StatusOr<ExpertLoad> ReadLoad(const Json& group) {
  ExpertLoad load;
  load.num_layers = group.value("num_layers", 0);
  load.num_experts = group.value("num_experts", 0);
  for (const Json& layer : group.value("expert_tokens", Json::array())) {
    for (const Json& tokens : layer) load.tokens.push_back(tokens.get<uint64_t>());
  }
  if (load.num_layers < 1 || load.num_experts < 1 ||
      load.tokens.size() != static_cast<size_t>(load.num_layers) * load.num_experts) {
    return absl::UnavailableError("there is no expert load yet");
  }
  return load;
}

// The pod whose log is asked for, and what is left of the log if the pod is gone.
struct LogSource {
  std::string pod;
  std::string kept;
};

absl::StatusOr<LogSource> ChooseLog(const KubectlMoeOptions& options,
                                    const api::MoEDeploymentStatus& status) {
  if (options.rank < 0 && options.group < 0) {
    if (!status.last_failure.has_value()) {
      return absl::NotFoundError("no worker has failed; choose one with --group and --rank");
    }
    return LogSource{status.last_failure->pod, status.last_failure->last_log};
  }
  const int group_index = options.group < 0 ? 0 : options.group;
  const int rank_index = options.rank < 0 ? 0 : options.rank;
  for (const api::GroupStatus& group : status.groups) {
    if (group.index != group_index) continue;
    for (const api::RankStatus& rank : group.ranks) {
      if (rank.rank == rank_index && !rank.pod.empty()) return LogSource{rank.pod, ""};
    }
  }
  return absl::NotFoundError(
      absl::StrCat("group ", group_index, " has no rank ", rank_index, " with a pod"));
}

// An answer whose fields have other types than ours must not end in a terminate().
template <typename Function>
auto CatchingJsonErrors(Function function) -> decltype(function()) {
  try {
    return function();
  } catch (const Json::exception& error) {
    return absl::UnknownError(absl::StrCat("the answer can't be understood: ", error.what()));
  }
}

absl::StatusOr<std::string> Status(const KubectlMoeOptions& options) {
  std::vector<std::string> args = {"get", kResource, "-o", "json"};
  if (!options.name.empty()) args.insert(args.begin() + 2, options.name);
  if (options.all_namespaces) args.push_back("--all-namespaces");
  const auto answer = RunForJson(Kubectl(options.kubectl), args);
  if (!answer.ok()) return answer.status();
  if (options.json) return absl::StrCat(answer->dump(2), "\n");
  const Json items = answer->contains("items") ? answer->at("items") : Json::array({*answer});
  if (items.empty()) return std::string("There is no MoEDeployment here.\n");
  std::string text;
  for (const Json& item : items) {
    if (!text.empty()) text += '\n';
    const auto parsed = api::ParseMoEDeployment(item);
    if (parsed.ok()) {
      text += FormatStatusTree(*parsed, {.all_ranks = options.all_ranks});
    } else {
      absl::StrAppend(&text, "can't be understood: ", parsed.status().message(), "\n");
    }
  }
  return text;
}

absl::StatusOr<std::string> Experts(const KubectlMoeOptions& options) {
  const auto found = GetDeployment(options);
  if (!found.ok()) return found.status();
  const auto status = RunForJson(Kubectl(options.kubectl),
                                 {"get", "--raw", ProxyPath(found->deployment, "/moe/status")});
  if (!status.ok()) return ExplainKey(status.status(), *found);
  Json chosen = *status;
  if (options.group >= 0) {
    chosen = Json();
    for (const Json& group : status->value("groups", Json::array())) {
      if (group.value("index", -1) == options.group) chosen = group;
    }
    if (chosen.is_null()) {
      return absl::NotFoundError(absl::StrCat("there is no group ", options.group));
    }
  }
  const auto load = ReadLoad(chosen);
  if (!load.ok()) return load.status();
  if (!options.json) return FormatExpertLoad(*load, {});
  const Json json = {{"num_layers", load->num_layers},
                     {"num_experts", load->num_experts},
                     {"expert_tokens", chosen["expert_tokens"]}};
  return absl::StrCat(json.dump(2), "\n");
}

absl::StatusOr<std::string> Generate(const KubectlMoeOptions& options) {
  const auto found = GetDeployment(options);
  if (!found.ok()) return found.status();
  if (!found->spec_status.ok()) return found->spec_status;
  const api::MoEDeployment& deployment = found->deployment;
  const Json request = {
      {"model", deployment.spec.model.name},
      {"messages", Json::array({{{"role", "user"}, {"content", options.question}}})},
      {"max_tokens", options.max_tokens},
      {"temperature", options.temperature}};
  const auto answer =
      RunForJson(Kubectl(options.kubectl),
                 {"create", "--raw", ProxyPath(deployment, "/v1/chat/completions"), "-f", "-"},
                 request.dump());
  if (!answer.ok()) return ExplainKey(answer.status(), *found);
  if (options.json) return absl::StrCat(answer->dump(2), "\n");
  return absl::StrCat(answer->at("choices").at(0).at("message").at("content").get<std::string>(),
                      "\n");
}

absl::StatusOr<int> Logs(const KubectlMoeOptions& options) {
  const auto found = GetDeployment(options);
  if (!found.ok()) return found.status();
  const api::MoEDeployment& deployment = found->deployment;
  const auto source = ChooseLog(options, deployment.status);
  if (!source.ok()) return source.status();
  KubectlOptions in_namespace = options.kubectl;
  in_namespace.ns = deployment.ns;
  const Kubectl kubectl(in_namespace);
  if (!kubectl.Run({"get", "pod", source->pod, "-o", "name"}).ok()) {
    if (source->kept.empty()) {
      return absl::NotFoundError(absl::StrCat("pod ", source->pod, " is gone and so is its log"));
    }
    std::fprintf(stderr, "pod %s is gone; the last lines of its log are kept in the status:\n",
                 source->pod.c_str());
    std::printf("%s\n", source->kept.c_str());
    return 0;
  }
  std::fprintf(stderr, "pod %s:\n", source->pod.c_str());
  std::vector<std::string> args = {"logs", source->pod, "--container", "worker"};
  if (options.follow) args.push_back("--follow");
  return kubectl.Show(args);
}

}  // namespace

absl::StatusOr<std::string> StatusText(const KubectlMoeOptions& options) {
  return CatchingJsonErrors([&options] { return Status(options); });
}

absl::StatusOr<std::string> ExpertsText(const KubectlMoeOptions& options) {
  return CatchingJsonErrors([&options] { return Experts(options); });
}

absl::StatusOr<std::string> GenerateText(const KubectlMoeOptions& options) {
  return CatchingJsonErrors([&options] { return Generate(options); });
}

absl::StatusOr<int> ShowLogs(const KubectlMoeOptions& options) {
  return CatchingJsonErrors([&options] { return Logs(options); });
}

}  // namespace moe::cli
