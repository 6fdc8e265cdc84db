// moe: the command that people type.
#include <csignal>
#include <cstdio>
#include <string>

#include "CLI/CLI.hpp"
#include "cli/calibrate/calibrate.h"
#include "cli/inspect.h"
#include "cli/plan/plan.h"
#include "cli/serve.h"
#include "cli/simulate/simulate.h"

int main(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);
  CLI::App app{
      "moe serves Mixture-of-Experts models with expert parallelism.\n"
      "Start with: moe serve MODEL_DIR   (moe serve --help explains every option)"};
  app.require_subcommand(1);
  app.set_version_flag("--version", MOE_VERSION);
  moe::cli::ServeOptions serve_options;
  moe::cli::InspectOptions inspect_options;
  moe::cli::PlanOptions plan_options;
  moe::cli::SimulateOptions simulate_options;
  moe::cli::CalibrateOptions calibrate_options;
  const CLI::App* serve = moe::cli::AddServe(&app, &serve_options);
  const CLI::App* plan = moe::cli::AddPlan(&app, &plan_options);
  const CLI::App* simulate = moe::cli::AddSimulate(&app, &simulate_options);
  const CLI::App* calibrate = moe::cli::AddCalibrate(&app, &calibrate_options);
  const moe::cli::InspectCommands inspect = moe::cli::AddInspect(&app, &inspect_options);
  // CLI11 would only say that a subcommand is required.
  if (argc > 1 && argv[1][0] != '-') {
    std::string names;
    bool known = false;
    for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
      names += " " + command->get_name();
      known = known || command->get_name() == argv[1];
    }
    if (!known) {
      std::fprintf(stderr, "error: no command '%s'; there are:%s\n", argv[1], names.c_str());
      return 2;
    }
  }
  CLI11_PARSE(app, argc, argv);
  if (serve->parsed()) return moe::cli::RunServe(serve_options);
  if (plan->parsed()) return moe::cli::RunPlan(plan_options);
  if (simulate->parsed()) return moe::cli::RunSimulate(simulate_options);
  if (calibrate->parsed()) return moe::cli::RunCalibrate(calibrate_options);
  if (inspect.status->parsed()) return moe::cli::RunStatus(inspect_options);
  if (inspect.experts->parsed()) return moe::cli::RunExperts(inspect_options);
  return moe::cli::RunGenerate(inspect_options);
}
