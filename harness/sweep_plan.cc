// SPDX-License-Identifier: Apache-2.0
#include "harness/sweep_plan.h"

#include <cstdio>
#include <filesystem>
#include <set>

#include "harness/guards.h"
#include "harness/machine.h"
#include "harness/plugin_claims.h"
#include "harness/plugins.h"
#include "harness/process.h"
#include "harness/progress.h"
#include "harness/record.h"
#include "harness/root.h"
#include "harness/user_error.h"
#include "harness/workers.h"

namespace attnbench {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::vector<std::string> Absolute(const std::vector<std::string>& paths) {
  std::vector<std::string> absolute;
  for (const std::string& path : paths) absolute.push_back(fs::absolute(path));
  return absolute;
}

void Override(const SweepRequest& request, SweepSettings* settings) {
  if (request.budget_s) settings->budget_s = *request.budget_s;
  if (request.rounds) settings->rounds = *request.rounds;
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
  const std::string in_tree = Root() + "/" + path;
  return !fs::exists(path, error) && !fs::path(path).is_absolute() && fs::exists(in_tree, error)
             ? in_tree
             : path;
}

}  // namespace

SweepPlan MakePlan(const SweepRequest& request) {
  SweepPlan plan;
  plan.plugins = Absolute(request.plugins);
  RegisterPluginClaims(LoadPythonFiles(plan.plugins));
  Experiment experiment = LoadExperiment(Locate(request.experiment), request.overrides);
  Override(request, &experiment.settings);
  plan.experiment = experiment.name;
  plan.title = experiment.title;
  plan.text = experiment.text;
  plan.settings = experiment.settings;
  for (const Case& c : experiment.cases) plan.cases.push_back(Plan(c));
  if (request.shards > 1) {
    const std::vector<Case> mine =
        Shard(plan.cases, request.shard, request.shards, plan.settings.isolation == "problem");
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

namespace {

// The machine's roofs, for the roofline; a record's own ceiling is probed beside its case. From a
// child: the buffers are large, and this process stays small.
json Ceilings(const std::vector<int>& threads) {
  constexpr double kTimeoutSeconds = 120;
  Child child({.argv = {OwnPath(), "child"}});
  const Answer answer = child.Ask(json{{"peak", threads}}.dump(), kTimeoutSeconds);
  const json reply = json::parse(answer.line, nullptr, /*allow_exceptions=*/false);
  return reply.is_object() && reply.contains("ceilings") ? reply["ceilings"] : json(nullptr);
}

}  // namespace

std::string BuildOfProgram(const std::string& program) {
  constexpr char kMark[] = "build ";
  std::string version;
  try {
    version = Child({.argv = {program, "version"}}).Ask("", 20).line;
  } catch (const std::runtime_error& e) {
    throw UserError("--against '" + program + "': " + e.what());
  }
  const std::size_t begin = version.find(kMark), end = version.find(',', begin);
  if (!version.starts_with("attnbench ") || end == std::string::npos)
    throw UserError("--against '" + program + "': is no attnbench-harness");
  return version.substr(begin + sizeof(kMark) - 1, end - begin - sizeof(kMark) + 1);
}

RunDirectory CreateRun(const SweepRequest& request, const SideSpec& side, SweepPlan* plan) {
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
                    {"program", side.program},
                    {"shard", {request.shard, request.shards}},
                    {"cases", cases}};
  json environment = DescribeEnvironment(request.argc, request.argv, plan->settings.seed);
  if (!side.program.empty()) {  // of the other build nothing else is known
    environment["build"] = side.build;
    environment["git"] = nullptr;
  }
  std::set<int> threads;
  for (const Planned& planned : plan->cases) threads.insert(planned.c.threads);
  environment["ceilings"] = Ceilings({threads.begin(), threads.end()});
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
    if (!run.value("program", "").empty())
      throw UserError(request.resume + ": is one side of a comparison, and cannot be resumed");
    plan->run = run.at("run");
    plan->experiment = run.at("experiment");
    plan->settings = SweepSettingsFromJson(run.at("settings"));
    plan->plugins = run.at("plugins").get<std::vector<std::string>>();
    RegisterPluginClaims(LoadPythonFiles(plan->plugins));
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
  Override(request, &plan->settings);
  return directory;
}

}  // namespace attnbench
