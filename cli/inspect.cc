#include "cli/inspect.h"

#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "cli/expert_table.h"
#include "cli/layout.h"

namespace moe::cli {
namespace {

using Json = nlohmann::json;

int Complain(const absl::Status& status) {
  std::fprintf(stderr, "error: %s\n", std::string(status.message()).c_str());
  return 1;
}

absl::StatusOr<Json> GetStatus(const InspectOptions& options) {
  auto client = ApiClient::Create(options.api);
  if (!client.ok()) return client.status();
  const auto body = (*client)->Get("/moe/status");
  if (!body.ok()) return body.status();
  Json json = Json::parse(*body, nullptr, false);
  if (!json.is_object()) return absl::UnknownError("the server's status can't be read");
  return json;
}

absl::StatusOr<ExpertLoad> ReadExpertLoad(const Json& status) {
  ExpertLoad load;
  load.num_layers = status.value("num_layers", 0);
  load.num_experts = status.value("num_experts", 0);
  for (const Json& layer : status.value("expert_tokens", Json::array())) {
    for (const Json& tokens : layer) load.tokens.push_back(tokens.get<uint64_t>());
  }
  if (load.tokens.size() != size_t(load.num_layers) * load.num_experts) {
    return absl::UnavailableError("the server has no expert load yet");
  }
  return load;
}

// "0-3,7"
std::string FormatRanges(const Json& numbers) {
  std::vector<std::string> ranges;
  for (size_t i = 0; i < numbers.size();) {
    size_t end = i + 1;
    while (end < numbers.size() && numbers[end].get<int>() == numbers[end - 1].get<int>() + 1)
      ++end;
    const int first = numbers[i].get<int>();
    const int last = numbers[end - 1].get<int>();
    ranges.push_back(first == last ? std::to_string(first) : absl::StrFormat("%d-%d", first, last));
    i = end;
  }
  return absl::StrJoin(ranges, ",");
}

void AddApiOptions(CLI::App* command, ApiOptions* options) {
  command->add_option("--url", options->url, "Where the gateway listens")->capture_default_str();
  command->add_option("--api-key", options->api_key, "Key, if the server wants one")
      ->envname("MOE_API_KEY");
}

// A reply whose fields have other types than ours must not end in a terminate().
template <typename Function>
int CatchingJsonErrors(Function function) {
  try {
    return function();
  } catch (const Json::exception& error) {
    return Complain(absl::UnknownError(
        absl::StrFormat("the server's answer can't be understood: %s", error.what())));
  }
}

void PrintGroup(const Json& group) {
  std::printf("%s  epoch %d  %s\n", group.value("phase", "?").c_str(), group.value("epoch", 0),
              group.value("layout", "").c_str());
  if (const std::string reason = group.value("phase_reason", ""); !reason.empty()) {
    std::printf("reason: %s\n", reason.c_str());
  }
  std::printf("KV cache: %d tokens\n\n", group.value("kv_capacity_tokens", 0));
  std::printf("%5s %8s %-16s %12s %12s %9s %8s  %s\n", "rank", "pid", "experts", "weights",
              "resident", "busy s", "failures", "metrics");
  for (const Json& worker : group.value("workers", Json::array())) {
    std::printf("%4d%s %8d %-16s %12s %12s %9.1f %8d  %s\n", worker.value("slot", 0),
                worker.value("owns_sequences", false) ? "*" : " ", worker.value("pid", 0),
                FormatRanges(worker.value("experts", Json::array())).c_str(),
                FormatBytes(worker.value("loaded_bytes", uint64_t{0})).c_str(),
                FormatBytes(worker.value("resident_bytes", uint64_t{0})).c_str(),
                worker.value("busy_seconds", 0.0), worker.value("failures", 0),
                worker.value("metrics_address", "").c_str());
  }
}

// Several groups: one line for each, then each in full.
void PrintGroups(const Json& groups) {
  std::printf("%5s %-12s %8s %8s %8s  %s\n", "group", "phase", "epoch", "running", "waiting",
              "state");
  for (const Json& group : groups) {
    const Json engine = group.value("engine", Json::object());
    std::printf("%5d %-12s %8d %8d %8d  %s\n", group.value("index", 0),
                group.value("phase", "?").c_str(), group.value("epoch", 0),
                engine.value("running", 0), engine.value("waiting", 0),
                group.value("draining", false)  ? "draining"
                : group.value("serving", false) ? "serves"
                                                : group.value("reason", "").c_str());
  }
  for (const Json& group : groups) {
    std::printf("\ngroup %d  ", group.value("index", 0));
    PrintGroup(group);
  }
}

int PrintStatus(const InspectOptions& options) {
  const auto status = GetStatus(options);
  if (!status.ok()) return Complain(status.status());
  if (options.json) {
    std::printf("%s\n", status->dump(2).c_str());
    return 0;
  }
  const Json groups = status->value("groups", Json::array());
  if (groups.size() > 1) {
    PrintGroups(groups);
  } else {
    PrintGroup(*status);
  }
  std::printf("\n* owns sequences: attention, KV cache, sampling\n");
  return 0;
}

int PrintExperts(const InspectOptions& options) {
  const auto status = GetStatus(options);
  if (!status.ok()) return Complain(status.status());
  const auto load = ReadExpertLoad(*status);
  if (!load.ok()) return Complain(load.status());
  if (options.json) {
    std::printf("%s\n", Json({{"num_layers", load->num_layers},
                              {"num_experts", load->num_experts},
                              {"expert_tokens", (*status)["expert_tokens"]}})
                            .dump(2)
                            .c_str());
    return 0;
  }
  std::printf("%s", FormatExpertLoad(*load, {}).c_str());
  return 0;
}

}  // namespace

InspectCommands AddInspect(CLI::App* app, InspectOptions* options) {
  InspectCommands commands;
  commands.status =
      app->add_subcommand("status", "Show the group that serves: epoch, ranks, processes");
  commands.experts = app->add_subcommand("experts", "Show how many tokens each expert ran");
  commands.generate = app->add_subcommand("generate", "Ask a question and stream the answer");
  for (CLI::App* command : {commands.status, commands.experts, commands.generate}) {
    AddApiOptions(command, &options->api);
  }
  commands.status->add_flag("--json", options->json, "Print JSON");
  commands.experts->add_flag("--json", options->json, "Print JSON");
  commands.generate->add_option("question", options->chat.question, "What to ask")->required();
  commands.generate->add_option("--model", options->chat.model, "Model [the one that is served]");
  commands.generate->add_option("--max-tokens", options->chat.max_tokens, "Longest answer")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  commands.generate->add_option("--temperature", options->chat.temperature, "0 is greedy")
      ->check(CLI::Range(0.0, 2.0))
      ->capture_default_str();
  return commands;
}

int RunStatus(const InspectOptions& options) {
  return CatchingJsonErrors([&options] { return PrintStatus(options); });
}

int RunExperts(const InspectOptions& options) {
  return CatchingJsonErrors([&options] { return PrintExperts(options); });
}

int RunGenerate(const InspectOptions& options) {
  auto client = ApiClient::Create(options.api);
  if (!client.ok()) return Complain(client.status());
  const absl::Status status = (*client)->Chat(options.chat, [](const std::string& text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  });
  std::printf("\n");
  return status.ok() ? 0 : Complain(status);
}

}  // namespace moe::cli
