// SPDX-License-Identifier: Apache-2.0
#include "harness/sweep_plan.h"

#include <cstdio>
#include <filesystem>
#include <set>

#include "harness/ceilings.h"
#include "harness/guards.h"
#include "harness/machine.h"
#include "harness/progress.h"
#include "harness/record.h"
#include "harness/user_error.h"
#include "kernels/contract/plugin.h"

namespace attnbench {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

void LoadPlugins(const std::vector<std::string>& plugins) {
  for (const std::string& plugin : plugins)
    if (std::string e = LoadPlugin(plugin); !e.empty()) throw UserError(e);
}

std::vector<std::string> Absolute(const std::vector<std::string>& paths) {
  std::vector<std::string> absolute;
  for (const std::string& path : paths) absolute.push_back(fs::absolute(path));
  return absolute;
}

Planned Plan(const Case& c) {
  Planned planned{c, Hash(c), ProblemHash(c), Family(c), 0, 0};
  if (Refusal(c).status.empty()) {
    const Demand demand = DemandOf(c);
    planned.work = demand.work;
    planned.bytes = demand.bytes();
  }
  return planned;
}

std::string Locate(const std::string& path) {
  std::error_code error;
  const std::string in_tree = std::string(ATTNBENCH_SOURCE_DIR) + "/" + path;
  return !fs::exists(path, error) && !fs::path(path).is_absolute() && fs::exists(in_tree, error)
             ? in_tree
             : path;
}

}  // namespace

SweepPlan MakePlan(const SweepRequest& request) {
  SweepPlan plan;
  plan.plugins = Absolute(request.plugins);
  LoadPlugins(plan.plugins);
  Experiment experiment = LoadExperiment(Locate(request.experiment), request.overrides);
  if (request.budget_s) experiment.settings.budget_s = *request.budget_s;
  plan.experiment = experiment.name;
  plan.title = experiment.title;
  plan.text = experiment.text;
  plan.settings = experiment.settings;
  for (const Case& c : experiment.cases) plan.cases.push_back(Plan(c));
  if (request.shards > 1) {
    const std::vector<Case> mine = Shard(plan.cases, request.shard, request.shards);
    plan.cases.clear();
    for (const Case& c : mine) plan.cases.push_back(Plan(c));
  }
  return plan;
}

void PrintPlan(const SweepPlan& plan) {
  const Limits limits = MakeLimits(plan.settings.memory_budget_gib, plan.settings.run_cap_s);
  const TimePredictor predictor;  // nothing is measured yet: rates are guessed
  double total_s = 0, peak_bytes = 0;
  std::size_t runs = 0;
  std::printf("%-16s  %10s  %12s  %s\n", "case", "~time/run", "memory", "what");
  for (const Planned& planned : plan.cases) {
    const Objection refusal = Refusal(planned.c);
    Objection objection = refusal;
    std::string time = "-", memory = "-";
    if (refusal.status.empty()) {
      const Demand demand = DemandOf(planned.c);
      const double run_s = predictor.RunSeconds(planned.family, planned.work, planned.c.threads);
      time = FormatSeconds(run_s);
      memory = FormatBytes(demand.bytes());
      objection = Guard(planned.c, demand, predictor, limits);
      if (objection.status.empty()) {
        ++runs;
        peak_bytes = std::max(peak_bytes, demand.bytes());
        total_s +=
            3 * run_s + plan.settings.rounds *
                            (0.3 + run_s + std::max(run_s, plan.settings.max_seconds_per_case));
      }
    }
    const std::string note =
        objection.status.empty() ? "" : "  [" + objection.status + ": " + objection.reason + "]";
    std::printf("%-16s  %10s  %12s  %s%s\n", planned.hash.c_str(), time.c_str(), memory.c_str(),
                Label(planned.c).c_str(), note.c_str());
  }
  const bool budgeted = plan.settings.budget_s > 0 && total_s >= plan.settings.budget_s;
  if (budgeted) total_s = plan.settings.budget_s;
  std::printf("%zu cases, %zu to run in up to %d rounds: at most about %s%s; largest %s\n",
              plan.cases.size(), runs, plan.settings.rounds, FormatClock(total_s).c_str(),
              budgeted ? " (the budget)" : "", FormatBytes(peak_bytes).c_str());
  std::printf("times are guesses at 10 GFLOP/s a thread until a run has measured the kernels\n");
}

RunDirectory CreateRun(const SweepRequest& request, SweepPlan* plan) {
  const std::string path =
      request.output.empty() ? DefaultRunPath(plan->experiment) : request.output;
  RunDirectory directory = RunDirectory::Create(path);
  plan->run = plan->experiment + "/" + MachineName() + "/" + UtcNowCompact();
  json cases = json::array();
  for (const Planned& planned : plan->cases) cases.push_back(ToJson(planned.c));
  const json run = {{"schema", kRecordSchema},
                    {"run", plan->run},
                    {"experiment", plan->experiment},
                    {"title", plan->title},
                    {"settings", ToJson(plan->settings)},
                    {"plugins", plan->plugins},
                    {"shard", {request.shard, request.shards}},
                    {"cases", cases}};
  json environment = DescribeEnvironment(request.argc, request.argv, plan->settings.seed);
  std::set<int> threads;
  for (const Planned& planned : plan->cases) threads.insert(planned.c.threads);
  // The machine's roofs, for the roofline; a record's own ceiling is probed beside its case.
  environment["ceilings"] = PeakTable({threads.begin(), threads.end()});
  directory.Write("experiment.toml", plan->text);
  directory.Write("environment.json", environment.dump(2) + "\n");
  directory.Write("run.json", run.dump() + "\n");  // last: a folder with it is whole
  return directory;
}

RunDirectory ResumeRun(const SweepRequest& request, SweepPlan* plan) {
  RunDirectory directory = RunDirectory::Open(request.resume);
  const json run = directory.ReadRun();
  const std::string file = directory.File("run.json");
  try {
    plan->run = run.at("run");
    plan->experiment = run.at("experiment");
    plan->settings = SweepSettingsFromJson(run.at("settings"));
    plan->plugins = run.at("plugins").get<std::vector<std::string>>();
    LoadPlugins(plan->plugins);
    for (const json& j : run.at("cases")) {
      Case c;
      if (std::string e = FromJson(j, &c); !e.empty()) throw UserError(file + ": " + e);
      if (!FindKernel(c.kernel) && !IsPeer(c.kernel))
        throw UserError(file + ": kernel '" + c.kernel + "' is not in this build");
      plan->cases.push_back(Plan(c));
    }
  } catch (const json::exception& e) {
    throw UserError(file + ": is damaged: " + e.what());
  }
  if (request.budget_s) plan->settings.budget_s = *request.budget_s;
  return directory;
}

}  // namespace attnbench
