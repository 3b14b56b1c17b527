// SPDX-License-Identifier: Apache-2.0
// One rank of a team, started by mpirun or srun (harness/launch.h makes the command). Rank 0
// speaks:
//   attnbench-rank child [--plugin SO]...   measuring process: requests on its standard input
//   attnbench-rank check [-k KERNEL]...     kernels that share problems, against the oracle
//   attnbench-rank link                     what messages cost here
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>

#include "harness/child.h"
#include "harness/machine.h"
#include "harness/plugins.h"
#include "harness/ranks/link.h"
#include "harness/ranks/measure_ranks.h"
#include "harness/ranks/team.h"
#include "harness/user_error.h"
#include "kernels/simd/target.h"

namespace attnbench {
namespace {

// Processors of its own for each rank of a node, as far as they go.
void TakeProcessors(const MpiRanks& ranks, int threads) {
  const std::vector<int> allowed = CpusAllowed();
  const int place = ranks.PlaceOnNode();
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int t = 0; t < threads; ++t)
    CPU_SET(allowed[static_cast<std::size_t>(place * threads + t) % allowed.size()], &set);
  sched_setaffinity(0, sizeof(set), &set);
}

// Returns the exit status.
int CheckKernels(Team* team, ConformanceSettings settings) {
  std::vector<const Kernel*> kernels;
  for (const std::string& name : settings.kernels) {
    const Kernel* kernel = FindKernel(name);
    if (!kernel || !DistributionOf(*kernel))
      throw UserError("-k '" + name + "': no kernel of this name can be shared among ranks");
    kernels.push_back(kernel);
  }
  for (const Kernel* kernel : Kernels())
    if (settings.kernels.empty() && DistributionOf(*kernel)) kernels.push_back(kernel);
  const std::vector<EdgeCase> all = CasesOf(&settings);
  std::cout << all.size() << " cases, " << settings.fuzz_cases << " of them fuzzed from seed "
            << settings.fuzz_seed << std::endl;
  bool failed = false;
  for (const Kernel* kernel : kernels) {
    const Options options(kernel->options);
    std::vector<EdgeCase> cases = all;
    for (EdgeCase& c : cases)  // heads for all ranks, where there are too few
      if (!DistributionOf(*kernel)->refuse(c.problem, options, team->size()).empty())
        c.problem.heads *= team->size(), c.problem.kv_heads *= team->size();
    failed |= !Report(Conform(team->Gathered(*kernel), cases, settings.threads), *kernel,
                      " on " + std::to_string(team->size()) + " ranks", std::cout);
  }
  return failed ? 1 : 0;
}

int Main(int argc, char** argv) {
  CLI::App app{"One rank of a team (started by mpirun or srun)", "attnbench-rank"};
  app.require_subcommand(1);
  std::vector<std::string> plugins;
  int threads = 1;
  ConformanceSettings settings;
  CLI::App* child = app.add_subcommand("child", "Measuring process");
  CLI::App* check = app.add_subcommand("check", "Compare with the oracle on all edge shapes");
  const CLI::App* link = app.add_subcommand("link", "Time messages between neighbours");
  for (CLI::App* command : {child, check}) {
    command->add_option("--plugin", plugins, "Shared object with kernels (repeatable)");
    command->add_option("--threads", threads, "OpenMP threads a rank")->check(CLI::Range(1, 1024));
  }
  check->add_option("-k,--kernel", settings.kernels, "Only this kernel (repeatable)");
  check->add_option("--fuzz", settings.fuzz_cases, "Random problems per kernel");
  check->add_option("--every", settings.every, "Only each so many-th edge shape");
  check->add_option("--seed", settings.fuzz_seed, "Of the random problems; 0: from the clock");
  CLI11_PARSE(app, argc, argv);
  settings.threads = threads;

  prctl(PR_SET_PDEATHSIG, SIGKILL);  // no rank measures on after its launcher is gone
  const MpiSession session(&argc, &argv);
  MpiRanks ranks;
  Ranks::Join(&ranks);
  TakeProcessors(ranks, threads);
  if (std::string e = ForceTargetFromEnvironment(); !e.empty()) throw UserError(e);
  LoadPlugins(plugins);
  if (link->parsed()) {
    const auto table = MeasureLink(&ranks);
    if (ranks.rank() == 0) std::cout << table.dump() << "\n";
    return 0;
  }
  Team team(&ranks);
  if (ranks.rank() != 0) {
    team.Serve();
    return 0;
  }
  int status;
  try {
    status = check->parsed() ? CheckKernels(&team, settings)
                             : ChildLoop(STDIN_FILENO, STDOUT_FILENO, PassesOver(&team));
  } catch (const std::exception& e) {  // here: unwinding further would wait for ranks that serve
    std::fprintf(stderr, "attnbench: %s\n", e.what());
    status = 2;
  }
  team.End();
  return status;
}

}  // namespace
}  // namespace attnbench

int main(int argc, char** argv) {
  try {
    return attnbench::Main(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "attnbench: %s\n", e.what());
    return 2;
  }
}
