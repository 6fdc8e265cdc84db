// kubectl-moe: what `kubectl moe` runs. Looks at MoEDeployments of a cluster through kubectl.
#include <csignal>
#include <cstdio>
#include <string>

#include "CLI/CLI.hpp"
#include "cli/kubectl/commands.h"

namespace {

using moe::cli::KubectlMoeOptions;

int Complain(const absl::Status& status) {
  std::fprintf(stderr, "error: %s\n", std::string(status.message()).c_str());
  return 1;
}

int Print(const absl::StatusOr<std::string>& text) {
  if (!text.ok()) return Complain(text.status());
  std::fputs(text->c_str(), stdout);
  return 0;
}

// Options that every subcommand takes, in kubectl's own spelling.
void AddCommon(CLI::App* command, KubectlMoeOptions* options, std::string* output) {
  command->add_option("-n,--namespace", options->kubectl.ns, "Namespace [kubectl's own]");
  command->add_option("--context", options->kubectl.context, "Context [kubectl's own]");
  if (output != nullptr) {
    command->add_option("-o,--output", *output, "json")->check(CLI::IsMember({"json"}));
  }
}

void AddName(CLI::App* command, KubectlMoeOptions* options) {
  command->add_option("name", options->name, "The MoEDeployment")->required();
}

}  // namespace

int main(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);
  KubectlMoeOptions options;
  std::string output;
  CLI::App app("Looks at the MoEDeployments of a cluster, through kubectl.", "kubectl moe");
  app.require_subcommand(1);
  app.set_version_flag("--version", MOE_VERSION);

  CLI::App* status = app.add_subcommand(
      "status", "Groups, ranks, nodes and experts, and what to do about what is wrong");
  AddCommon(status, &options, &output);
  status->add_option("name", options.name, "The MoEDeployment [all of the namespace]");
  status->add_flag("-A,--all-namespaces", options.all_namespaces, "Of all namespaces");
  status->add_flag("--all-ranks", options.all_ranks, "A line for each rank");

  CLI::App* experts = app.add_subcommand("experts", "How many tokens each expert ran");
  AddCommon(experts, &options, &output);
  AddName(experts, &options);
  experts->add_option("--group", options.group, "Of one group [all together]")
      ->check(CLI::NonNegativeNumber);

  CLI::App* generate = app.add_subcommand("generate", "Ask a question");
  AddCommon(generate, &options, &output);
  AddName(generate, &options);
  generate->add_option("question", options.question, "What to ask")->required();
  generate->add_option("--max-tokens", options.max_tokens, "Longest answer")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  generate->add_option("--temperature", options.temperature, "0 is greedy")
      ->check(CLI::Range(0.0, 2.0))
      ->capture_default_str();

  CLI::App* logs = app.add_subcommand("logs", "The log of the worker that failed last");
  AddCommon(logs, &options, nullptr);
  AddName(logs, &options);
  logs->add_option("--group", options.group, "Of a worker of this group")
      ->check(CLI::NonNegativeNumber);
  logs->add_option("--rank", options.rank, "Of this rank")->check(CLI::NonNegativeNumber);
  logs->add_flag("-f,--follow", options.follow, "Go on with what is still written");

  CLI11_PARSE(app, argc, argv);
  options.json = output == "json";
  if (status->parsed()) return Print(moe::cli::StatusText(options));
  if (experts->parsed()) return Print(moe::cli::ExpertsText(options));
  if (generate->parsed()) return Print(moe::cli::GenerateText(options));
  const absl::StatusOr<int> code = moe::cli::ShowLogs(options);
  return code.ok() ? *code : Complain(code.status());
}
