// SPDX-License-Identifier: Apache-2.0
// The measuring commands: sweep, list, check, peak, bench, child. The launcher `attnbench` sends
// them here and everything that reads results to Python.
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <thread>

#include "harness/ceilings.h"
#include "harness/child.h"
#include "harness/conform.h"
#include "harness/experiment.h"
#include "harness/launch.h"
#include "harness/list.h"
#include "harness/machine.h"
#include "harness/plugins.h"
#include "harness/sweep.h"
#include "harness/user_error.h"
#include "harness/workers.h"
#include "kernels/simd/target.h"

namespace attnbench {
namespace {

// Replaces this process by another program.
[[noreturn]] void Execute(const std::vector<std::string>& command) {
  std::vector<char*> arguments;
  for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  execvp(arguments[0], arguments.data());
  throw UserError(command[0] + ": cannot be started: " + std::strerror(errno));
}

void ParseShard(const std::string& text, SweepRequest* request) {
  int length = 0;
  if (std::sscanf(text.c_str(), "%d/%d%n", &request->shard, &request->shards, &length) != 2 ||
      static_cast<std::size_t>(length) != text.size() || request->shard < 1 ||
      request->shards < request->shard)
    throw UserError("--shard '" + text + "': must be I/N with 1 <= I <= N, as 2/4");
}

std::vector<int> ThreadCounts() {
  // 1, 2, 4 ... and all.
  const int all = static_cast<int>(CpusAllowed().size());
  std::vector<int> counts;
  for (int threads = 1; threads < all; threads *= 2) counts.push_back(threads);
  counts.push_back(std::max(1, all));
  return counts;
}

class CommandLine {
 public:
  CommandLine(int argc, char** argv) : argc_(argc), argv_(argv) {
    app_.require_subcommand(1);
    app_.failure_message([](const CLI::App*, const CLI::Error& e) {
      return "attnbench: " + std::string(e.what()) + " (--help lists what there is)\n";
    });
    AddSweep();
    AddOthers();
  }

  int Run() {
    if (argc_ > 1 && argv_[1][0] != '-') CheckCommand(argv_[1]);
    try {
      app_.parse(argc_, argv_);
    } catch (const CLI::ParseError& e) {
      return app_.exit(e) == 0 ? 0 : 2;
    }
    if (std::string e = ForceTargetFromEnvironment(); !e.empty()) throw UserError(e);
    return command_();
  }

 private:
  void CheckCommand(const std::string& name) const {
    std::string known;
    for (const CLI::App* command : app_.get_subcommands(nullptr)) {
      if (command->get_name() == name) return;
      if (!command->get_group().empty()) known += (known.empty() ? "" : ", ") + command->get_name();
    }
    throw UserError("unknown command '" + name + "' (known: " + known + ")");
  }

  CLI::App* Add(const char* name, const char* help, std::function<int()> run) {
    CLI::App* command = app_.add_subcommand(name, help);
    command->callback([this, run] { command_ = run; });
    return command;
  }

  void AddSweep() {
    CLI::App* sweep =
        Add("sweep", "Measure the cases of an experiment", [this] { return RunSweepCommand(); });
    file_ = sweep->add_option("FILE", sweep_.experiment, "Experiment file")
                ->default_str("experiments/quick.toml");
    filters_.push_back(sweep
                           ->add_option("-k,--kernel", sweep_.overrides.kernels,
                                        "Only this kernel (repeatable); one that the file does not "
                                        "name is added")
                           ->allow_extra_args(false));
    filters_.push_back(
        sweep
            ->add_option("-a,--axis", axes_,
                         "Replace an axis, as 'keys=256:4096:*2' or 'dtype=f32,bf16' "
                         "(repeatable)")
            ->allow_extra_args(false));
    filters_.push_back(sweep->add_option("-o,--output", sweep_.output,
                                         "Run directory, new or empty (default: "
                                         "results/<experiment>/<machine>/<UTC time>)"));
    filters_.push_back(sweep
                           ->add_option("--plugin", sweep_.plugins,
                                        "Shared object or Python file with kernels (repeatable)")
                           ->allow_extra_args(false));
    filters_.push_back(
        sweep->add_option("--shard", shard_, "I/N: only the I-th of N equal parts of the work"));
    filters_.push_back(sweep->add_option(
        "--against", sweep_.against,
        "Another build's attnbench-harness, measured in turn with this one, case by case, into "
        "DIR/old and DIR/new (needs -o)"));
    filters_.push_back(
        sweep->add_flag("--dry-run", sweep_.dry_run,
                        "Print the cases with predicted time and memory, run nothing"));
    sweep->add_option("--resume", sweep_.resume,
                      "Continue the run in this directory: nothing whole is measured again");
    sweep->add_option("--budget", budget_, "Seconds for the sweep; 0: no limit");
    sweep->add_option("--rounds", rounds_, "Rounds, instead of the experiment's; also when resumed")
        ->check(CLI::Range(1, 1000000));
  }

  int RunSweepCommand() {
    if (!sweep_.resume.empty()) {
      if (file_->count() > 0)
        throw UserError("--resume: takes the experiment from the run directory; FILE '" +
                        sweep_.experiment + "' cannot change it");
      for (const CLI::Option* option : filters_)
        if (option->count() > 0)
          throw UserError("--resume: continues the run as it was started; " + option->get_name() +
                          " cannot change it");
    }
    if (!sweep_.against.empty() && sweep_.output.empty())
      throw UserError("--against: needs -o, the folder of both runs");
    if (sweep_.experiment.empty()) sweep_.experiment = "experiments/quick.toml";
    if (budget_) {
      if (!(*budget_ >= 0 && *budget_ < 1e9))
        throw UserError("--budget: must be at least 0 seconds");
      sweep_.budget_s = *budget_;
    }
    sweep_.rounds = rounds_;
    if (!shard_.empty()) ParseShard(shard_, &sweep_);
    for (const std::string& axis : axes_) sweep_.overrides.axes.push_back(ParseAxisArgument(axis));
    sweep_.argc = argc_;
    sweep_.argv = argv_;
    return RunSweep(sweep_);
  }

  void AddOthers() {
    CLI::App* list = Add("list", "List the kernels", [this] {
      LoadPlugins(plugins_);
      std::cout << (json_ ? ListKernels().dump(2) + "\n" : FormatKernelList(ListKernels()));
      return 0;
    });
    list->add_flag("--json", json_, "As JSON");
    list->add_option("--plugin", plugins_,
                     "Shared object or Python file with kernels (repeatable)");

    CLI::App* check =
        Add("check", "Compare the kernels with the oracle on all edge shapes", [this] {
          LoadPlugins(plugins_);
          const auto& named = conformance_.kernels;
          for (const std::string& name : named) CheckKernel(name, "-k " + name);
          if (ranks_ > 0) return CheckRanks();
          const bool hosted = std::any_of(named.begin(), named.end(), IsPeer);
          return hosted || (named.empty() && !HostedByPlugins().empty())
                     ? CheckHosted()
                     : RunConformance(conformance_, std::cout);
        });
    check->add_option("-k,--kernel", conformance_.kernels, "Only this kernel (repeatable)");
    check->add_option("--threads", conformance_.threads, "OpenMP threads")
        ->check(CLI::Range(1, 1024));
    check->add_option("--ranks", ranks_, "Over so many ranks: the kernels that can be shared")
        ->check(CLI::Range(1, 65536));
    check->add_option("--fuzz", conformance_.fuzz_cases, "Random problems per kernel")
        ->check(CLI::Range(0, 100000000));
    check->add_option("--every", conformance_.every, "Only each so many-th edge shape")
        ->check(CLI::Range(1, 1000));
    check->add_option("--seed", conformance_.fuzz_seed,
                      "Of the random problems; 0: from the clock");
    check->add_option("--plugin", plugins_,
                      "Shared object or Python file with kernels (repeatable)");

    CLI::App* peak = Add("peak", "Measure what this machine can do", [this] {
      if (ranks_ > 0) OverRanks({"link"}, 1);
      const auto table = PeakTable(ThreadCounts());
      std::cout << (json_ ? table.dump(2) + "\n" : FormatPeakTable(table));
      return 0;
    });
    peak->add_flag("--json", json_, "As JSON");
    peak->add_option("--ranks", ranks_, "What messages between so many ranks cost, as JSON")
        ->check(CLI::Range(2, 65536));

    Add("bench", "Plain Google Benchmark, with its --benchmark_* options", [this] {
      return Bench();
    })->allow_extras();

    CLI::App* child =
        Add("child", "Measuring process: requests on standard input (internal)", [this] {
          prctl(PR_SET_PDEATHSIG, SIGKILL);  // nothing measures on after the sweep is gone
          LoadPlugins(plugins_);
          return ChildLoop(STDIN_FILENO, STDOUT_FILENO);
        });
    child->add_option("--plugin", plugins_,
                      "Shared object or Python file with kernels (repeatable)");
    child->group("");

    Add("version", "Version and build", [] {
      std::cout << "attnbench " ATTNBENCH_VERSION ", build " << BuildId() << ", instruction set "
                << DispatchedTarget() << "\n";
      return 0;
    });
  }

  // Where kernels are hosted in Python, the same check runs there, over the same registry.
  int CheckHosted() const {
    std::vector<std::string> command = HostCommand();
    const auto add = [&](const std::string& option, const std::string& value) {
      command.insert(command.end(), {option, value});
    };
    for (const std::string& plugin : plugins_)
      if (!IsPythonFile(plugin)) add("--plugin", plugin);
    for (const std::string& kernel : conformance_.kernels) add("--kernel", kernel);
    command.push_back("--check");
    add("--threads", std::to_string(conformance_.threads));
    add("--fuzz", std::to_string(conformance_.fuzz_cases));
    add("--every", std::to_string(conformance_.every));
    add("--seed", std::to_string(conformance_.fuzz_seed));
    setenv("PYTHONPATH", HostPythonPath().c_str(), 1);
    Execute(command);
  }

  // Over ranks the same check runs in attnbench-rank.
  int CheckRanks() const {
    std::vector<std::string> arguments = {"check",
                                          "--threads",
                                          std::to_string(conformance_.threads),
                                          "--fuzz",
                                          std::to_string(conformance_.fuzz_cases),
                                          "--every",
                                          std::to_string(conformance_.every),
                                          "--seed",
                                          std::to_string(conformance_.fuzz_seed)};
    for (const std::string& kernel : conformance_.kernels)
      arguments.insert(arguments.end(), {"--kernel", kernel});
    for (const std::string& plugin : plugins_)
      arguments.insert(arguments.end(), {"--plugin", plugin});
    OverRanks(arguments, conformance_.threads);
  }

  [[noreturn]] void OverRanks(const std::vector<std::string>& arguments, int threads) const {
    if (std::string reason = NoRanks(); !reason.empty()) throw UserError("--ranks: " + reason);
    std::vector<std::string> command = RankCommand(ranks_);
    command.insert(command.end(), arguments.begin(), arguments.end());
    static std::vector<std::string> variables;  // putenv() keeps what it is given
    variables = RankEnvironment(ranks_, threads, static_cast<int>(CpusAllowed().size()));
    for (std::string& variable : variables) putenv(variable.data());
    Execute(command);
  }

  int Bench() const {
    const std::string path = OwnPath();
    std::vector<std::string> command = {path.substr(0, path.rfind('/') + 1) + "attnbench-bench"};
    command.insert(command.end(), argv_ + 2, argv_ + argc_);
    Execute(command);
  }

  const int argc_;
  char** const argv_;
  CLI::App app_{"attnbench measures attention variants on CPUs", "attnbench"};
  std::function<int()> command_;
  SweepRequest sweep_;
  CLI::Option* file_ = nullptr;
  std::vector<CLI::Option*> filters_;
  std::vector<std::string> axes_, plugins_;
  std::string shard_;
  std::optional<double> budget_;
  std::optional<int> rounds_;
  bool json_ = false;
  int ranks_ = 0;  // 0: no ranks, this process
  ConformanceSettings conformance_;
};

}  // namespace
}  // namespace attnbench

int main(int argc, char** argv) {
  try {
    return attnbench::CommandLine(argc, argv).Run();
  } catch (const attnbench::UserError& e) {
    std::fprintf(stderr, "attnbench: %s\n", e.what());
    return 2;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "attnbench: %s\n", e.what());
    return 1;
  }
}
