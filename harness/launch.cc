// SPDX-License-Identifier: Apache-2.0
#include "harness/launch.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "harness/workers.h"

namespace attnbench {
namespace {

bool Installed(const std::string& program) {
  const char* const path = std::getenv("PATH");
  const std::string folders = path ? path : "";
  for (std::size_t begin = 0; begin < folders.size();) {
    const std::size_t end = std::min(folders.find(':', begin), folders.size());
    if (access((folders.substr(begin, end - begin) + "/" + program).c_str(), X_OK) == 0)
      return true;
    begin = end + 1;
  }
  return false;
}

bool WithinSlurm() { return std::getenv("SLURM_JOB_ID") && Installed("srun"); }

std::string RankProgram() {
  const std::string path = OwnPath();
  return path.substr(0, path.rfind('/') + 1) + "attnbench-rank";
}

}  // namespace

std::string NoRanks() {
#if ATTNBENCH_HAS_MPI
  if (access(RankProgram().c_str(), X_OK) != 0)
    return "built without MPI: " + RankProgram() + " is missing";
  if (!WithinSlurm() && !Installed("mpirun")) return "MPI: mpirun is not installed";
  return "";
#else
  return "built without MPI: install libopenmpi-dev and openmpi-bin, and build again";
#endif
}

std::vector<std::string> RankCommand(int ranks) {
  const std::string count = std::to_string(ranks);
  // Ranks pin themselves: a launcher's own binding would know nothing of their threads.
  if (WithinSlurm())
    return {"srun",       "--mpi=pmix",      "--ntasks=" + count,
            "--input=0",  "--cpu-bind=none", "--kill-on-bad-exit=1",
            RankProgram()};
  return {"mpirun", "-n", count, "--oversubscribe", "--bind-to", "none", RankProgram()};
}

std::vector<std::string> RankEnvironment(int ranks, int threads, int cpus) {
  std::vector<std::string> variables = {
      // As root, in a container or on a machine of one's own, mpirun else refuses.
      "OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1",
      // Copies through shared memory: by the system's own call a message took three times as long.
      "OMPI_MCA_btl_vader_single_copy_mechanism=none"};
  // More ranks than processors: one that waits leaves its processor to the others.
  if (ranks * threads > cpus) variables.push_back("OMPI_MCA_mpi_yield_when_idle=1");
  std::erase_if(variables, [](const std::string& variable) {
    return std::getenv(variable.substr(0, variable.find('=')).c_str()) != nullptr;
  });
  return variables;
}

}  // namespace attnbench
